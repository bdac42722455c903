// Matrix products in tile order: linear_int and linear_float of kernels.h.
//
// A patch is a few row tiles by a few tokens, its integer accumulators in registers; each accumulator follows
// the sequence that kernels.h states, so an element does not depend on the patch it falls into. Tiles go in
// panels that stay in the level-2 cache while all tokens pass, so that weights come from memory once.
//
// Patch sizes are measured (bench/kernels.py). One block of tokens reads weights at the speed of memory, best as
// one stream, and unpacks them once for all; several blocks share loads of activations between two tiles.
#pragma once
#include "dot_body.h"
#include "elementwise_body.h"
#include "kernels.h"
#include "vec.h"

namespace penjing {

constexpr int64_t kPanelBytes = 256 * 1024;
// Scales are prefetched eight groups ahead: a stream too slow for the processor to follow by itself.
constexpr int64_t kScalePrefetchBytes = 256;

// Tiles by tokens of a patch: for one block of tokens, for several, and for float matrices.
template <class Isa>
struct Patches {
  static constexpr int one_tiles = 1, one_tokens = 4, many_tiles = 1, many_tokens = 4;
  static constexpr int float_tiles = 1, float_tokens = 4;
  static constexpr int most_sums = 8;  // float sums that are kept in registers beside the integer ones
};
template <>
struct Patches<Avx512> {
  static constexpr int one_tiles = 1, one_tokens = 16, many_tiles = 2, many_tokens = 8;
  static constexpr int float_tiles = 2, float_tokens = 8;
  static constexpr int most_sums = 12;
};

// Where a patch's tokens stand: [first, first + its tokens) of the `width` tokens of a block.
struct Place {
  int64_t block_begin, width, first;
};

// Float sums of a patch, in registers if they fit beside the integer accumulators, else in memory.
template <class Isa, int kTiles, int kTokens, bool kInRegisters>
struct Sums {
  using V = Vec<Isa>;
  typename V::Floats values[kTiles][kTokens];
  PENJING_METHOD void set(int tile, int token, typename V::Floats v) { values[tile][token] = v; }
  PENJING_METHOD typename V::Floats get(int tile, int token) const { return values[tile][token]; }
};
template <class Isa, int kTiles, int kTokens>
struct Sums<Isa, kTiles, kTokens, false> {
  using V = Vec<Isa>;
  alignas(64) float values[kTiles][kTokens][kLanes];
  PENJING_METHOD void set(int tile, int token, typename V::Floats v) { V::store(values[tile][token], v); }
  PENJING_METHOD typename V::Floats get(int tile, int token) const { return V::load(values[tile][token]); }
};

template <class Isa, int kTiles, int kTokens, class Patch>
PENJING_INLINE void store_patch(const Patch& sum, int64_t rows, int64_t first_row, float* out,
                                int64_t out_stride) {
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile) {
    const int64_t row = first_row + tile * kRowsPerTile;
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      store_up_to<Isa>(out + token * out_stride + row, sum.get(tile, token), rows - row);
    }
  }
}

// Output of kTiles tiles for kTokens tokens; `a` starts at the block, `out` at the patch's first token.
template <class Isa, Packing kPacking, int kTiles, int kTokens>
static void int_patch(const Matrix& w, const QuantizedRows& a, int64_t width, int64_t first_token,
                      int64_t first_tile, float* out, int64_t out_stride) {
  using V = Vec<Isa>;
  const int64_t padded = w.padded_columns(), groups = w.groups();
  const int64_t stride = kRowsPerTile * padded * code_bits(kPacking) / 8;
  const uint8_t* residual = kPacking == Packing::layers ? w.residual : w.codes;
  const TileCodes codes{w.codes + first_tile * stride, residual + first_tile * stride, stride};
  const auto* scales = reinterpret_cast<const Fp16*>(w.scales) + first_tile * groups * kRowsPerTile;

  Sums<Isa, kTiles, kTokens, kTiles * kTokens <= Patches<Isa>::most_sums> sum;
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) sum.set(tile, token, V::set1(0.0f));

  for (int64_t group = 0; group < groups; ++group) {
    const int64_t place = group * width + first_token;
    typename V::Ints acc[kTiles][kTokens];
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      const auto offset = V::set1(-code_offset(kPacking) * a.sums[place + token]);
#pragma GCC unroll 8
      for (int tile = 0; tile < kTiles; ++tile) acc[tile][token] = offset;
    }
    const int64_t first = group * w.group_size, last = first + w.group_size;
    const int8_t* x = a.codes + 4 * first_token;
    if constexpr (V::kWideDot) {
      dot_group_wide<Isa, kPacking, kTiles, kTokens>(codes, x, width, first, last, acc);
    } else {
      dot_group_nibbles<Isa, kPacking, kTokens>(codes, x, width, first, last, acc);
    }
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile) {
      const auto* from = scales + (tile * groups + group) * kRowsPerTile;
      __builtin_prefetch(reinterpret_cast<const uint8_t*>(from) + kScalePrefetchBytes);
      auto weight_scale = V::load(from);
      if constexpr (kPacking == Packing::layers) weight_scale = V::mul(weight_scale, V::set1(0.125f));
#pragma GCC unroll 16
      for (int token = 0; token < kTokens; ++token) {
        const auto scale = V::mul(weight_scale, V::set1(a.scales[place + token]));
        sum.set(tile, token, V::fma(V::to_float(acc[tile][token]), scale, sum.get(tile, token)));
      }
    }
  }
  store_patch<Isa, kTiles, kTokens>(sum, w.rows, first_tile * kRowsPerTile, out, out_stride);
}

template <class Isa, class Element, int kTiles, int kTokens>
static void float_patch(const Matrix& w, const float* x, int64_t x_stride, int64_t first_tile, float* out,
                        int64_t out_stride) {
  using V = Vec<Isa>;
  const int64_t stride = kRowsPerTile * w.columns;
  const auto* elements = reinterpret_cast<const Element*>(w.codes) + first_tile * stride;
  Sums<Isa, kTiles, kTokens, true> sum;
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) sum.set(tile, token, V::set1(0.0f));

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
        sum.set(tile, token, V::fma(weight[tile], activation, sum.get(tile, token)));
    }
  }
  store_patch<Isa, kTiles, kTokens>(sum, w.rows, first_tile * kRowsPerTile, out, out_stride);
}

// Calls Patch::run<kTiles, kTokens> for exactly `tokens` tokens, at most kTokens.
template <class Patch, int kTiles, int kTokens>
static void run_tokens(const Patch& patch, const Place& place, int64_t tokens, int64_t tile) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) return run_tokens<Patch, kTiles, kTokens - 1>(patch, place, tokens, tile);
  }
  patch.template run<kTiles, kTokens>(place, tile);
}

template <class Patch, int kTiles, int kTokens>
static void run_tiles(const Patch& patch, const Place& place, int64_t tokens, int64_t first, int64_t last) {
  for (; first + kTiles <= last; first += kTiles)
    run_tokens<Patch, kTiles, kTokens>(patch, place, tokens, first);
  if constexpr (kTiles > 1) {
    if (first < last) run_tiles<Patch, kTiles - 1, kTokens>(patch, place, tokens, first, last);
  }
}

// A block's tokens are cut into patches of nearly the same size: 13 of at most 8 are 6 and 7.
template <class Patch, int kTiles, int kTokens>
static void run_panels(const Patch& patch, int64_t tile_bytes, int64_t tokens, int64_t first, int64_t last) {
  int64_t panel = kPanelBytes / (tile_bytes + 1) / kTiles * kTiles;
  if (panel < kTiles) panel = kTiles;
  for (; first < last; first += panel) {
    const int64_t end = first + panel < last ? first + panel : last;
    for (int64_t block = 0; block < num_blocks(tokens); ++block) {
      const int64_t begin = block_begin(tokens, block), width = block_begin(tokens, block + 1) - begin;
      const int64_t cuts = (width + kTokens - 1) / kTokens;
      for (int64_t cut = 0; cut < cuts; ++cut) {
        const int64_t from = width * cut / cuts, to = width * (cut + 1) / cuts;
        run_tiles<Patch, kTiles, kTokens>(patch, {begin, width, from}, to - from, first, end);
      }
    }
  }
}

template <class Isa, Packing kPacking>
struct IntPatch {
  const Matrix& w;
  const QuantizedRows& a;
  float* out;
  int64_t out_stride;

  template <int kTiles, int kTokens>
  [[gnu::always_inline]] void run(const Place& place, int64_t tile) const {
    const int64_t begin = place.block_begin, groups = w.groups();
    const QuantizedRows rows{a.codes + begin * w.padded_columns(), a.scales + begin * groups,
                             a.sums + begin * groups};
    int_patch<Isa, kPacking, kTiles, kTokens>(w, rows, place.width, place.first, tile,
                                              out + (begin + place.first) * out_stride, out_stride);
  }
};

template <class Isa, class Element>
struct FloatPatch {
  const Matrix& w;
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;

  template <int kTiles, int kTokens>
  [[gnu::always_inline]] void run(const Place& place, int64_t tile) const {
    const int64_t token = place.block_begin + place.first;
    float_patch<Isa, Element, kTiles, kTokens>(w, x + token * x_stride, x_stride, tile,
                                               out + token * out_stride, out_stride);
  }
};

template <class Isa, Packing kPacking>
static void linear_codes(const Matrix& w, const QuantizedRows& a, int64_t tokens, int64_t first_tile,
                         int64_t last_tile, float* out, int64_t out_stride) {
  const int64_t planes = kPacking == Packing::layers ? 2 : 1;
  const int64_t tile_bytes = planes * kRowsPerTile * w.padded_columns() * code_bits(kPacking) / 8;
  using Patch = IntPatch<Isa, kPacking>;
  using Size = Patches<Isa>;
  const Patch patch{w, a, out, out_stride};
  if (tokens <= kBlockTokens)
    return run_panels<Patch, Size::one_tiles, Size::one_tokens>(patch, tile_bytes, tokens, first_tile, last_tile);
  run_panels<Patch, Size::many_tiles, Size::many_tokens>(patch, tile_bytes, tokens, first_tile, last_tile);
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
  using Patch = FloatPatch<Isa, Element>;
  using Size = Patches<Isa>;
  const Patch patch{w, x, x_stride, out, out_stride};
  run_panels<Patch, Size::float_tiles, Size::float_tokens>(patch, tile_bytes, tokens, first_tile, last_tile);
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
