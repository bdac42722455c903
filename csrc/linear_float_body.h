// Products of matrices and rows of floats: linear_float of kernels.h.
#pragma once
#include "kernels.h"
#include "levels.h"
#include "packing.h"
#include "patches.h"
#include "vec.h"

namespace penjing {

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

// Columns [kColumn, left) of a line of codes of each tile, at `line` and `stride` bytes apart; x: the line's first.
template <class Isa, class Levels, int kColumn, int kTiles, int kTokens, class Sum>
PENJING_INLINE void add_columns(const uint8_t* line, int64_t stride, int64_t left,
                                const typename Vec<Isa>::Floats (&scale)[kTiles], const float* x, int64_t x_stride,
                                Sum& sum) {
  using V = Vec<Isa>;
  if (kColumn >= left) return;
  typename V::Floats weight[kTiles];
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile) {
    const auto lanes = V::load_ints(reinterpret_cast<const int32_t*>(line + tile * stride));
    weight[tile] = V::mul(Levels::template of_column<Isa, kColumn>(lanes), scale[tile]);
  }
#pragma GCC unroll 16
  for (int token = 0; token < kTokens; ++token) {
    const auto activation = V::set1(x[token * x_stride + kColumn]);
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile)
      sum.set(tile, token, V::fma(weight[tile], activation, sum.get(tile, token)));
  }
  if constexpr (kColumn + 1 < Levels::kLineColumns)
    add_columns<Isa, Levels, kColumn + 1, kTiles, kTokens>(line, stride, left, scale, x, x_stride, sum);
}

// The same where weights are codes: nf4, mxfp4 and fp8, turned to floats as they are read.
template <class Isa, class Levels, int kTiles, int kTokens>
static void levels_patch(const Matrix& w, const float* x, int64_t x_stride, int64_t first_tile, float* out,
                         int64_t out_stride) {
  using V = Vec<Isa>;
  const int64_t groups = w.groups(), stride = w.low_bytes();
  const uint8_t* codes = w.codes + first_tile * stride;
  const auto* scales = reinterpret_cast<const Fp16*>(w.scales) + first_tile * groups * kRowsPerTile;
  Sums<Isa, kTiles, kTokens, true> sum;
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) sum.set(tile, token, V::set1(0.0f));

  for (int64_t group = 0; group < groups; ++group) {
    typename V::Floats scale[kTiles];
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile) scale[tile] = V::load(scales + (tile * groups + group) * kRowsPerTile);
    const int64_t first = group * w.group_size;
    const int64_t last = first + w.group_size < w.columns ? first + w.group_size : w.columns;
    for (int64_t k = first; k < last; k += Levels::kLineColumns) {
      const uint8_t* line = codes + k / Levels::kLineColumns * 64;
#pragma GCC unroll 8
      for (int tile = 0; tile < kTiles; ++tile) __builtin_prefetch(line + tile * stride + kPrefetchBytes);
      add_columns<Isa, Levels, 0, kTiles, kTokens>(line, stride, last - k, scale, x + k, x_stride, sum);
    }
  }
  store_patch<Isa, kTiles, kTokens>(sum, w.rows, first_tile * kRowsPerTile, out, out_stride);
}

// Weights: the type of an element or, if kAreLevels, of levels.
template <class Isa, class Weights, bool kAreLevels>
struct FloatPatch {
  const Matrix& w;
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;

  template <int kTiles, int kTokens>
  [[gnu::always_inline]] void run(const Place& place, int64_t tile) const {
    const int64_t token = place.block_begin + place.first;
    const float* row = x + token * x_stride;
    float* target = out + token * out_stride;
    if constexpr (kAreLevels)
      levels_patch<Isa, Weights, kTiles, kTokens>(w, row, x_stride, tile, target, out_stride);
    else
      float_patch<Isa, Weights, kTiles, kTokens>(w, row, x_stride, tile, target, out_stride);
  }
};

template <class Isa, class Element>
static void linear_elements(const Matrix& w, const float* x, int64_t tokens, int64_t x_stride,
                            int64_t first_tile, int64_t last_tile, float* out, int64_t out_stride) {
  const int64_t tile_bytes = kRowsPerTile * w.columns * static_cast<int64_t>(sizeof(Element));
  using Patch = FloatPatch<Isa, Element, false>;
  using Size = Patches<Isa>;
  const Patch patch{w, x, x_stride, out, out_stride};
  run_panels<Patch, Size::float_tiles, Size::float_tokens>(patch, tile_bytes, tokens, first_tile, last_tile);
}

template <class Isa, class Levels>
static void linear_levels(const Matrix& w, const float* x, int64_t tokens, int64_t x_stride, int64_t first_tile,
                          int64_t last_tile, float* out, int64_t out_stride) {
  using Patch = FloatPatch<Isa, Levels, true>;
  using Size = Patches<Isa>;
  const Patch patch{w, x, x_stride, out, out_stride};
  run_panels<Patch, Size::float_tiles, Size::other_tokens>(patch, w.low_bytes(), tokens, first_tile, last_tile);
}

template <class Isa>
static void linear_float(const Matrix& w, const float* x, int64_t tokens, int64_t x_stride, int64_t first_tile,
                         int64_t last_tile, float* out, int64_t out_stride) {
  switch (w.format) {
    case Format::fp32:
      return linear_elements<Isa, float>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
    case Format::fp16:
      return linear_elements<Isa, Fp16>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
    case Format::bf16:
      return linear_elements<Isa, Bf16>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
    case Format::nf4:
      return linear_levels<Isa, Nf4>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
    case Format::mxfp4:
      return linear_levels<Isa, Mxfp4>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
    default: return linear_levels<Isa, Fp8>(w, x, tokens, x_stride, first_tile, last_tile, out, out_stride);
  }
}

}  // namespace penjing
