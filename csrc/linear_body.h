// Matrix products in tile order: linear_int and linear_float of kernels.h.
//
// A block is a few row tiles by a few tokens, its accumulators in registers; each accumulator follows the
// sequence that kernels.h states, so an element does not depend on the block it falls into. Tiles go in panels
// that stay in the level-2 cache while all tokens pass, so that weights come from memory once.
//
// Block sizes are measured (bench/kernels.py). A few tokens read weights at the speed of memory, best as one
// stream; and more than 8 rows of activations whose stride is a multiple of 4096 bytes evict each other from
// the level-1 cache.
#pragma once
#include "elementwise_body.h"
#include "kernels.h"
#include "vec.h"

namespace penjing {

constexpr int64_t kPanelBytes = 256 * 1024;
constexpr int64_t kPrefetchBytes = 2048;

// Accumulators that fit the registers: tiles by tokens. Up to stream_tokens go through integer tiles one by one.
template <class Isa>
struct Blocking {
  static constexpr int stream_tokens = 4, int_tiles = 1, int_tokens = 4, float_tiles = 1, float_tokens = 4;
};
template <>
struct Blocking<Avx512> {
  static constexpr int stream_tokens = 8, int_tiles = 2, int_tokens = 6, float_tiles = 2, float_tokens = 8;
};

// How integer codes lie in memory: nibbles of one plane, whole bytes, or nibbles of two planes (8u + v).
enum class Packing { nibbles, bytes, layers };

constexpr int64_t code_bits(Packing packing) { return packing == Packing::bytes ? 8 : 4; }
constexpr int32_t code_offset(Packing packing) {
  return packing == Packing::nibbles ? 8 : packing == Packing::bytes ? 128 : 72;
}

// What a block of tiles reads: the first tile's planes, and the distance in bytes between tiles.
struct TileCodes {
  const uint8_t* base;
  const uint8_t* residual;
  int64_t stride;
};

// Two operands, of four columns each, from columns [k, k + 8) of one tile.
template <class Isa, Packing kPacking>
PENJING_INLINE void load_operands(const uint8_t* base, const uint8_t* residual, int64_t k,
                                  typename Vec<Isa>::Codes& first, typename Vec<Isa>::Codes& second) {
  using V = Vec<Isa>;
  const uint8_t* place = base + k * code_bits(kPacking) * 2;
  __builtin_prefetch(place + kPrefetchBytes);
  if constexpr (kPacking == Packing::bytes) {
    __builtin_prefetch(place + kPrefetchBytes + 64);
    first = V::load_codes(place);
    second = V::load_codes(place + 64);
  } else if constexpr (kPacking == Packing::nibbles) {
    const auto plane = V::load_codes(place);
    first = V::low_nibbles(plane);
    second = V::high_nibbles(plane);
  } else {
    __builtin_prefetch(residual + k * 8 + kPrefetchBytes);
    const auto plane = V::load_codes(place), fine = V::load_codes(residual + k * 8);
    first = V::low_layers(plane, fine);
    second = V::high_layers(plane, fine);
  }
}

// acc[tile][token] += unsigned codes . activations over columns [first, last), with a dot product of bytes.
template <class Isa, Packing kPacking, int kTiles, int kTokens>
PENJING_INLINE void dot_group_wide(const TileCodes& w, const int8_t* x, int64_t x_stride, int64_t first,
                                   int64_t last, typename Vec<Isa>::Ints (&acc)[kTiles][kTokens]) {
  using V = Vec<Isa>;
  for (int64_t k = first; k < last; k += 8) {
    typename V::Codes left[kTiles], right[kTiles];
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile)
      load_operands<Isa, kPacking>(w.base + tile * w.stride, w.residual + tile * w.stride, k, left[tile],
                                 right[tile]);
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      const auto quad = V::load_quad(x + token * x_stride + k);
#pragma GCC unroll 8
      for (int tile = 0; tile < kTiles; ++tile)
        acc[tile][token] = V::dot(acc[tile][token], left[tile], quad);
    }
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      const auto quad = V::load_quad(x + token * x_stride + k + 4);
#pragma GCC unroll 8
      for (int tile = 0; tile < kTiles; ++tile)
        acc[tile][token] = V::dot(acc[tile][token], right[tile], quad);
    }
  }
}

// The same in nibbles: codes of more than four bits are a high and a low nibble, whose dot products are added.
// Sixteen-bit sums last for 32 columns, and groups are multiples of 32.
template <class Isa, Packing kPacking, int kTokens>
PENJING_INLINE void dot_group_nibbles(const TileCodes& w, const int8_t* x, int64_t x_stride, int64_t first,
                                      int64_t last, typename Vec<Isa>::Ints (&acc)[1][kTokens]) {
  using V = Vec<Isa>;
  constexpr int kHighShift = kPacking == Packing::bytes ? 4 : 3;
  for (int64_t start = first; start < last; start += 32) {
    typename V::Words low[kTokens], high[kTokens];
    for (int token = 0; token < kTokens; ++token) low[token] = high[token] = V::zero_words();
    for (int64_t k = start; k < start + 32; k += 4) {
      // Eight columns share the bytes of a nibble plane: the first four are in its low nibbles.
      const bool second = kPacking != Packing::bytes && k % 8 == 4;
      const int64_t place = kPacking == Packing::bytes ? k * 16 : k / 8 * 64;
      const auto codes = V::load_codes(w.base + place);
      typename V::Codes low_codes, high_codes{};
      if constexpr (kPacking == Packing::nibbles) {
        low_codes = second ? V::high_nibbles(codes) : V::low_nibbles(codes);
      } else if constexpr (kPacking == Packing::bytes) {
        low_codes = V::low_nibbles(codes);
        high_codes = V::high_nibbles(codes);
      } else {
        const auto fine = V::load_codes(w.residual + place);
        low_codes = second ? V::high_nibbles(fine) : V::low_nibbles(fine);
        high_codes = second ? V::high_nibbles(codes) : V::low_nibbles(codes);
      }
#pragma GCC unroll 16
      for (int token = 0; token < kTokens; ++token) {
        const auto quad = V::load_quad(x + token * x_stride + k);
        low[token] = V::dot_pairs(low[token], low_codes, quad);
        if constexpr (kPacking != Packing::nibbles) high[token] = V::dot_pairs(high[token], high_codes, quad);
      }
    }
    for (int token = 0; token < kTokens; ++token) {
      acc[0][token] = V::add(acc[0][token], V::add_pairs(low[token]));
      if constexpr (kPacking != Packing::nibbles) {
        const auto sum = V::template shift_left<kHighShift>(V::add_pairs(high[token]));
        acc[0][token] = V::add(acc[0][token], sum);
      }
    }
  }
}

template <class Isa, int kTiles, int kTokens>
PENJING_INLINE void store_block(const typename Vec<Isa>::Floats (&sum)[kTiles][kTokens], int64_t rows,
                                int64_t first_row, float* out, int64_t out_stride) {
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile) {
    const int64_t row = first_row + tile * kRowsPerTile;
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      store_up_to<Isa>(out + token * out_stride + row, sum[tile][token], rows - row);
    }
  }
}

// Output of kTiles tiles for kTokens tokens; a and out start at the block's first token.
template <class Isa, Packing kPacking, int kTiles, int kTokens>
static void int_block(const Matrix& w, const QuantizedRows& a, int64_t first_tile, float* out,
                      int64_t out_stride) {
  using V = Vec<Isa>;
  const int64_t padded = w.padded_columns(), groups = w.groups();
  const int64_t stride = kRowsPerTile * padded * code_bits(kPacking) / 8;
  const uint8_t* residual = kPacking == Packing::layers ? w.residual : w.codes;
  const TileCodes codes{w.codes + first_tile * stride, residual + first_tile * stride, stride};
  const auto* scales = reinterpret_cast<const Fp16*>(w.scales) + first_tile * groups * kRowsPerTile;

  typename V::Floats sum[kTiles][kTokens];
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) sum[tile][token] = V::set1(0.0f);

  for (int64_t group = 0; group < groups; ++group) {
    typename V::Ints acc[kTiles][kTokens];
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      const auto offset = V::set1(-code_offset(kPacking) * a.sums[token * groups + group]);
#pragma GCC unroll 8
      for (int tile = 0; tile < kTiles; ++tile) acc[tile][token] = offset;
    }
    const int64_t first = group * w.group_size, last = first + w.group_size;
    if constexpr (V::kWideDot) {
      dot_group_wide<Isa, kPacking, kTiles, kTokens>(codes, a.codes, padded, first, last, acc);
    } else {
      dot_group_nibbles<Isa, kPacking, kTokens>(codes, a.codes, padded, first, last, acc);
    }
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile) {
      auto weight_scale = V::load(scales + (tile * groups + group) * kRowsPerTile);
      if constexpr (kPacking == Packing::layers) weight_scale = V::mul(weight_scale, V::set1(0.125f));
#pragma GCC unroll 16
      for (int token = 0; token < kTokens; ++token) {
        const auto scale = V::mul(weight_scale, V::set1(a.scales[token * groups + group]));
        sum[tile][token] = V::fma(V::to_float(acc[tile][token]), scale, sum[tile][token]);
      }
    }
  }
  store_block<Isa, kTiles, kTokens>(sum, w.rows, first_tile * kRowsPerTile, out, out_stride);
}

template <class Isa, class Element, int kTiles, int kTokens>
static void float_block(const Matrix& w, const float* x, int64_t x_stride, int64_t first_tile, float* out,
                        int64_t out_stride) {
  using V = Vec<Isa>;
  const int64_t stride = kRowsPerTile * w.columns;
  const auto* elements = reinterpret_cast<const Element*>(w.codes) + first_tile * stride;
  typename V::Floats sum[kTiles][kTokens];
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) sum[tile][token] = V::set1(0.0f);

  for (int64_t k = 0; k < w.columns; ++k) {
    typename V::Floats weight[kTiles];
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile) {
      const Element* place = elements + tile * stride + k * kRowsPerTile;
      __builtin_prefetch(reinterpret_cast<const uint8_t*>(place) + kPrefetchBytes);
      weight[tile] = V::load(place);
    }
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      const auto activation = V::set1(x[token * x_stride + k]);
#pragma GCC unroll 8
      for (int tile = 0; tile < kTiles; ++tile)
        sum[tile][token] = V::fma(weight[tile], activation, sum[tile][token]);
    }
  }
  store_block<Isa, kTiles, kTokens>(sum, w.rows, first_tile * kRowsPerTile, out, out_stride);
}

// Calls Block::run<kTiles, kTokens> for exactly `tokens` tokens, at most kTokens.
template <class Block, int kTiles, int kTokens>
static void run_tokens(const Block& block, int64_t first_token, int64_t tokens, int64_t tile) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) return run_tokens<Block, kTiles, kTokens - 1>(block, first_token, tokens, tile);
  }
  block.template run<kTiles, kTokens>(first_token, tile);
}

template <class Block, int kTiles, int kTokens>
static void run_tiles(const Block& block, int64_t first_token, int64_t tokens, int64_t first, int64_t last) {
  for (; first + kTiles <= last; first += kTiles)
    run_tokens<Block, kTiles, kTokens>(block, first_token, tokens, first);
  if constexpr (kTiles > 1) {
    if (first < last) run_tiles<Block, kTiles - 1, kTokens>(block, first_token, tokens, first, last);
  }
}

// Tokens are cut into blocks of nearly the same size: 13 of at most 6 are 5, 5 and 3.
template <class Block, int kTiles, int kTokens>
static void run_panels(const Block& block, int64_t tile_bytes, int64_t tokens, int64_t first, int64_t last) {
  if (tokens == 0) return;
  int64_t panel = kPanelBytes / (tile_bytes + 1) / kTiles * kTiles;
  if (panel < kTiles) panel = kTiles;
  const int64_t blocks = (tokens + kTokens - 1) / kTokens, step = (tokens + blocks - 1) / blocks;
  for (; first < last; first += panel) {
    const int64_t end = first + panel < last ? first + panel : last;
    for (int64_t token = 0; token < tokens; token += step) {
      const int64_t left = tokens - token;
      run_tiles<Block, kTiles, kTokens>(block, token, left < step ? left : step, first, end);
    }
  }
}

template <class Isa, Packing kPacking>
struct IntBlock {
  const Matrix& w;
  const QuantizedRows& a;
  float* out;
  int64_t out_stride;

  template <int kTiles, int kTokens>
  [[gnu::always_inline]] void run(int64_t token, int64_t tile) const {
    const int64_t groups = w.groups();
    const QuantizedRows rows{a.codes + token * w.padded_columns(), a.scales + token * groups,
                             a.sums + token * groups};
    int_block<Isa, kPacking, kTiles, kTokens>(w, rows, tile, out + token * out_stride, out_stride);
  }
};

template <class Isa, class Element>
struct FloatBlock {
  const Matrix& w;
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;

  template <int kTiles, int kTokens>
  [[gnu::always_inline]] void run(int64_t token, int64_t tile) const {
    float_block<Isa, Element, kTiles, kTokens>(w, x + token * x_stride, x_stride, tile,
                                               out + token * out_stride, out_stride);
  }
};

template <class Isa, Packing kPacking>
static void linear_codes(const Matrix& w, const QuantizedRows& a, int64_t tokens, int64_t first_tile,
                         int64_t last_tile, float* out, int64_t out_stride) {
  const int64_t planes = kPacking == Packing::layers ? 2 : 1;
  const int64_t tile_bytes = planes * kRowsPerTile * w.padded_columns() * code_bits(kPacking) / 8;
  using Block = IntBlock<Isa, kPacking>;
  using Size = Blocking<Isa>;
  const Block block{w, a, out, out_stride};
  if (tokens <= Size::stream_tokens)
    return run_panels<Block, 1, Size::stream_tokens>(block, tile_bytes, tokens, first_tile, last_tile);
  run_panels<Block, Size::int_tiles, Size::int_tokens>(block, tile_bytes, tokens, first_tile, last_tile);
}

template <class Isa>
static void linear_int(const Matrix& w, Tier tier, const QuantizedRows& a, int64_t tokens, int64_t first_tile,
                       int64_t last_tile, float* out, int64_t out_stride) {
  if (w.format == Format::int8)
    return linear_codes<Isa, Packing::bytes>(w, a, tokens, first_tile, last_tile, out, out_stride);
  if (w.format == Format::layered && tier == Tier::best)
    return linear_codes<Isa, Packing::layers>(w, a, tokens, first_tile, last_tile, out, out_stride);
  return linear_codes<Isa, Packing::nibbles>(w, a, tokens, first_tile, last_tile, out, out_stride);
}

template <class Isa, class Element>
static void linear_elements(const Matrix& w, const float* x, int64_t tokens, int64_t x_stride,
                            int64_t first_tile, int64_t last_tile, float* out, int64_t out_stride) {
  const int64_t tile_bytes = kRowsPerTile * w.columns * static_cast<int64_t>(sizeof(Element));
  using Block = FloatBlock<Isa, Element>;
  using Size = Blocking<Isa>;
  const Block block{w, x, x_stride, out, out_stride};
  run_panels<Block, Size::float_tiles, Size::float_tokens>(block, tile_bytes, tokens, first_tile, last_tile);
}

template <class Isa>
static void linear_float(const Matrix& w, const float* x, int64_t tokens, int64_t x_stride, int64_t first_tile,
                         int64_t last_tile, float* out, int64_t out_stride) {
  switch (w.format) {
    case Format::fp32:
      return linear_elements<Isa, float>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
    case Format::fp16:
      return linear_elements<Isa, Fp16>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
    default:
      return linear_elements<Isa, Bf16>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
  }
}

}  // namespace penjing
