// Activations to int8 and back from stored weights: quantize_rows and dequantize_row of kernels.h.
#pragma once
#include "elementwise_body.h"
#include "kernels.h"
#include "levels.h"
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

// One code of a plane whose tiles are `stride` bytes apart: docs/artifact.md, "Matrices: tile order".
template <class Isa>
static int32_t plane_code(const uint8_t* plane, int64_t stride, int64_t bits, int64_t row, int64_t k) {
  const int64_t columns = 32 / bits;  // of a line
  const int64_t place = row / kRowsPerTile * stride + k / columns * 64 + row % kRowsPerTile * 4 + k % 4;
  return plane[place] >> (k % columns / 4 * bits) & ((1 << bits) - 1);
}

// What one stored code stands for, in steps of the scale (of an eighth of it, for `best` of layered).
template <class Isa>
static float stored_level(const Matrix& w, Tier tier, int64_t row, int64_t k) {
  const int64_t low = kLowBits[static_cast<int>(w.format)], high = kHighBits[static_cast<int>(w.format)];
  int32_t code = plane_code<Isa>(w.codes, w.low_bytes(), low, row, k);
  if (w.high) code += plane_code<Isa>(w.high, w.high_bytes(), high, row, k) << low;
  switch (w.format) {
    case Format::nf4: return kNf4Levels[code];
    case Format::mxfp4: return kE2m1Levels[code];
    case Format::fp8: return fp8_level(static_cast<uint8_t>(code));
    case Format::table2:
    case Format::table3:
    case Format::table4: return w.table[code];
    case Format::layered:
      if (tier == Tier::fast) break;
      return static_cast<float>(8 * code + plane_code<Isa>(w.residual, w.low_bytes(), low, row, k) - 72);
    default: break;
  }
  if (!w.zeros) return static_cast<float>(code - (1 << (low + high - 1)));
  const int64_t group = row / kRowsPerTile * w.groups() + k / w.group_size;
  return static_cast<float>(code - w.zeros[group * kRowsPerTile + row % kRowsPerTile]);
}

template <class Isa>
static void dequantize_codes(const Matrix& w, Tier tier, int64_t row, float* out) {
  using One = Vec<Scalar>;
  const int64_t tile = row / kRowsPerTile, lane = row % kRowsPerTile;
  const float step = w.format == Format::layered && tier == Tier::best ? 0.125f : 1.0f;
  const uint16_t* scales = w.scales + tile * w.groups() * kRowsPerTile + lane;
  for (int64_t k = 0; k < w.columns; ++k) {
    const float scale = One::widen(Fp16{scales[k / w.group_size * kRowsPerTile]}) * step;
    out[k] = scale * stored_level<Isa>(w, tier, row, k);
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
    default: return dequantize_codes<Isa>(w, tier, row, out);
  }
}

}  // namespace penjing
