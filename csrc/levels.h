// The levels of formats that are no whole numbers, one and sixteen at a time (docs/artifact.md, "Values").
#pragma once
#include "kernels.h"
#include "vec.h"

namespace penjing {

// Quantiles of a normal distribution and an exact zero (Dettmers et al. 2023, QLoRA, appendix E).
constexpr float kNf4Levels[16] = {-1.0f,
                                  -0.6961928009986877f,
                                  -0.5250730514526367f,
                                  -0.39491748809814453f,
                                  -0.28444138169288635f,
                                  -0.18477343022823334f,
                                  -0.09105003625154495f,
                                  0.0f,
                                  0.07958029955625534f,
                                  0.16093020141124725f,
                                  0.24611230194568634f,
                                  0.33791524171829224f,
                                  0.44070982933044434f,
                                  0.5626170039176941f,
                                  0.7229568362236023f,
                                  1.0f};
// OCP Microscaling Formats (MX) 1.0, E2M1.
constexpr float kE2m1Levels[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// kLineColumns: columns of a 64-byte line. of_column: the levels of sixteen rows, from column k of a line.
struct Nf4 {
  static constexpr int64_t kLineColumns = 8;
  template <class Isa>
  PENJING_INLINE typename Vec<Isa>::Floats of_column(const uint8_t* line, int64_t k);
};
struct Mxfp4 {
  static constexpr int64_t kLineColumns = 8;
  template <class Isa>
  PENJING_INLINE typename Vec<Isa>::Floats of_column(const uint8_t* line, int64_t k);
};
struct Fp8 {
  static constexpr int64_t kLineColumns = 4;
  template <class Isa>
  PENJING_INLINE typename Vec<Isa>::Floats of_column(const uint8_t* line, int64_t k);
};

// A lane is four bytes of one row; those of column k are lowered to its lowest bits.
template <class Isa>
PENJING_INLINE typename Vec<Isa>::Floats lookup_column(const float* table, const uint8_t* line, int64_t k) {
  using V = Vec<Isa>;
  const auto rows = V::load_ints(reinterpret_cast<const int32_t*>(line));
  return V::lookup(table, V::shift_right(rows, k % 4 * 8 + k / 4 * 4));
}
template <class Isa>
typename Vec<Isa>::Floats Nf4::of_column(const uint8_t* line, int64_t k) {
  return lookup_column<Isa>(kNf4Levels, line, k);
}
template <class Isa>
typename Vec<Isa>::Floats Mxfp4::of_column(const uint8_t* line, int64_t k) {
  return lookup_column<Isa>(kE2m1Levels, line, k);
}
// Sign, 4 bits of exponent, 3 of mantissa: as if the exponent were float's, then times 2^120, which is exact, and
// right for subnormals too. The codes of NaN stand for +-448.
template <class Isa>
typename Vec<Isa>::Floats Fp8::of_column(const uint8_t* line, int64_t k) {
  using V = Vec<Isa>;
  const auto rows = V::load_ints(reinterpret_cast<const int32_t*>(line));
  const auto top = V::shift_left(rows, 24 - 8 * k);
  const auto magnitude = V::min(V::bit_and(V::template shift_right<4>(top), V::set1(int32_t{127 << 20})),
                                V::set1(int32_t{126 << 20}));
  const auto sign = V::bit_and(top, V::set1(INT32_MIN));
  return V::from_bits(V::add(V::bits(V::mul(V::from_bits(magnitude), V::set1(0x1p120f))), sign));
}

// One level.
static inline float fp8_level(uint8_t code) {
  const uint32_t magnitude = (code & 127u) < 127u ? code & 127u : 126u;
  const float value = Vec<Scalar>::from_bits(magnitude << 20) * 0x1p120f;
  return code & 128u ? -value : value;
}

}  // namespace penjing
