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

// kLineColumns: columns of a 64-byte line. of_column: the levels of sixteen rows, from one column of a line, whose
// lanes are four bytes of a row each.
template <const float (&kLevels)[16]>
struct SixteenLevels {
  static constexpr int kLineColumns = 8;
  template <class Isa, int kColumn>
  PENJING_INLINE typename Vec<Isa>::Floats of_column(typename Vec<Isa>::Ints line) {
    using V = Vec<Isa>;
    return V::lookup(kLevels, V::template shift_right<kColumn % 4 * 8 + kColumn / 4 * 4>(line));
  }
};
using Nf4 = SixteenLevels<kNf4Levels>;
using Mxfp4 = SixteenLevels<kE2m1Levels>;
// Sign, 4 bits of exponent, 3 of mantissa, read as a float x with its exponent moved: right from 2^-6 on. Below,
// where there is no leading one, 2 x - 2^-6 is right, and it is the smaller of the two exactly there. No float is
// subnormal on the way. The codes of NaN stand for +-448.
struct Fp8 {
  static constexpr int kLineColumns = 4;
  template <class Isa, int kColumn>
  PENJING_INLINE typename Vec<Isa>::Floats of_column(typename Vec<Isa>::Ints line) {
    using V = Vec<Isa>;
    const auto top = V::template shift_left<24 - 8 * kColumn>(line);
    const auto magnitude = V::min(V::bit_and(V::template shift_right<4>(top), V::set1(int32_t{127 << 20})),
                                  V::set1(int32_t{126 << 20}));
    const auto x = V::from_bits(V::add(magnitude, V::set1(int32_t{120 << 23})));
    const auto level = V::min(x, V::fma(x, V::set1(2.0f), V::set1(-0x1p-6f)));
    return V::from_bits(V::add(V::bits(level), V::bit_and(top, V::set1(INT32_MIN))));
  }
};

// One level.
static inline float fp8_level(uint8_t code) {
  const uint32_t magnitude = (code & 127u) < 127u ? code & 127u : 126u;
  const float value = Vec<Scalar>::from_bits(magnitude << 20) * 0x1p120f;
  return code & 128u ? -value : value;
}

}  // namespace penjing
