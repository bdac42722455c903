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
#include "dot_body.h"
#include "elementwise_body.h"
#include "kernels.h"
#include "vec.h"

namespace penjing {

constexpr int64_t kPanelBytes = 256 * 1024;

// Accumulators that fit the registers: tiles by tokens. Up to stream_tokens go through integer tiles one by one.
template <class Isa>
struct Blocking {
  static constexpr int stream_tokens = 4, int_tiles = 1, int_tokens = 4, float_tiles = 1, float_tokens = 4;
};
template <>
struct Blocking<Avx512> {
  static constexpr int stream_tokens = 8, int_tiles = 2, int_tokens = 6, float_tiles = 2, float_tokens = 8;
};

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
