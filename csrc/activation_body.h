// Activations to int8 and back from stored weights: quantize_rows and dequantize_row of kernels.h.
#pragma once
#include "elementwise_body.h"
#include "kernels.h"
#include "vec.h"

namespace penjing {

// One token's group, [n] of group_size floats. Its codes go to `codes`, four at a time, `stride` bytes apart.
template <class Isa>
static void quantize_group(const float* x, int64_t n, int64_t group_size, int8_t* codes, int64_t stride,
                           float* scale, int32_t* sum) {
  using V = Vec<Isa>;
  const float magnitude = largest_magnitude<Isa>(x, n);
  const bool is_finite = magnitude < __builtin_inff();
  if (!is_finite || magnitude < 1e-30f) {
    for (int64_t k = 0; k < group_size; k += 4) __builtin_memset(codes + k / 4 * stride, 0, 4);
    *scale = is_finite ? 0.0f : __builtin_nanf("");
    *sum = 0;
    return;
  }
  const auto inverse = V::set1(127.0f / magnitude);
  auto total = V::set1(int32_t{0});
  for (int64_t k = 0; k < group_size; k += kLanes) {
    auto code = V::to_ints(V::mul(load_up_to<Isa>(x + k, n - k), inverse));
    code = V::max(V::set1(int32_t{-127}), V::min(V::set1(int32_t{127}), code));
    int8_t lanes[kLanes];
    V::store(lanes, code);
    for (int64_t quad = 0; quad < kLanes / 4; ++quad)
      __builtin_memcpy(codes + (k / 4 + quad) * stride, lanes + 4 * quad, 4);
    total = V::add(total, code);
  }
  *scale = magnitude / 127.0f;
  *sum = V::sum(total);
}

template <class Isa>
static void quantize_rows(const float* x, int64_t tokens, int64_t columns, int64_t group_size,
                          int64_t first_group, int64_t last_group, int8_t* codes, float* scales, int32_t* sums) {
  const int64_t groups = (columns + group_size - 1) / group_size, padded = groups * group_size;
  for (int64_t block = 0; block < num_blocks(tokens); ++block) {
    const int64_t begin = block_begin(tokens, block), width = block_begin(tokens, block + 1) - begin;
    for (int64_t token = 0; token < width; ++token)
      for (int64_t group = first_group; group < last_group; ++group) {
        const int64_t first = group * group_size, left = columns - first;
        const int64_t index = begin * groups + group * width + token;
        quantize_group<Isa>(x + (begin + token) * columns + first, left < group_size ? left : group_size,
                            group_size, codes + begin * padded + first * width + 4 * token, 4 * width, scales + index,
                            sums + index);
      }
  }
}

// The value of one stored code, scale apart: docs/artifact.md, "Matrices: tile order".
template <class Isa>
static int32_t stored_code(const Matrix& w, Tier tier, int64_t tile, int64_t row, int64_t k) {
  const int64_t padded = w.padded_columns();
  if (w.format == Format::int8)
    return w.codes[tile * kRowsPerTile * padded + 64 * (k / 4) + 4 * row + k % 4] - 128;
  const int64_t byte = tile * kRowsPerTile / 2 * padded + 64 * (k / 8) + 4 * row + k % 4;
  const int shift = k % 8 < 4 ? 0 : 4;
  const int32_t base = (w.codes[byte] >> shift & 15) - 8;
  if (w.format == Format::int4 || tier == Tier::fast) return base;
  return 8 * base + (w.residual[byte] >> shift & 15) - 8;
}

template <class Isa>
static void dequantize_integer_row(const Matrix& w, Tier tier, int64_t row, float* out) {
  using One = Vec<Scalar>;
  const int64_t tile = row / kRowsPerTile, lane = row % kRowsPerTile;
  const float step = w.format == Format::layered && tier == Tier::best ? 0.125f : 1.0f;
  const uint16_t* scales = w.scales + tile * w.groups() * kRowsPerTile + lane;
  for (int64_t k = 0; k < w.columns; ++k) {
    const float scale = One::widen(Fp16{scales[k / w.group_size * kRowsPerTile]}) * step;
    out[k] = scale * static_cast<float>(stored_code<Isa>(w, tier, tile, lane, k));
  }
}

template <class Isa, class Element>
static void widen_row(const Matrix& w, int64_t row, float* out) {
  const auto* elements = reinterpret_cast<const Element*>(w.codes);
  elements += row / kRowsPerTile * kRowsPerTile * w.columns + row % kRowsPerTile;
  for (int64_t k = 0; k < w.columns; ++k) out[k] = Vec<Scalar>::widen(elements[k * kRowsPerTile]);
}

template <class Isa>
static void dequantize_row(const Matrix& w, Tier tier, int64_t row, float* out) {
  switch (w.format) {
    case Format::fp32: return widen_row<Isa, float>(w, row, out);
    case Format::fp16: return widen_row<Isa, Fp16>(w, row, out);
    case Format::bf16: return widen_row<Isa, Bf16>(w, row, out);
    default: return dequantize_integer_row<Isa>(w, tier, row, out);
  }
}

}  // namespace penjing
