// Sixteen lanes of float or int32, for each instruction set: what the kernel bodies are written over.
//
// Every operation is one IEEE operation a lane (or a fixed sequence of them), so a body computes the same
// bits on every instruction set. Everything here is always inlined and every body is a template over the
// Isa tag: no function is shared between translation units compiled with different flags, where the linker
// could merge an AVX-512 copy into the scalar path. For the same reason bodies call nothing inline from
// the standard library (std::min, std::vector ...).
//
// Vec<Isa> has, all static:
//   Floats, Ints                       the two vector types
//   set1(float|int32), load(const T*), load_partial(const T*, n)   T: float, Fp16, Bf16, int8_t -> Floats
//   load_ints(const int32_t*|const uint8_t*)   -> Ints
//   store(float*|Bf16*, Floats), store(int8_t*|int32_t*, Ints), store_partial(T*, v, n)
//   add, sub, mul (Floats or Ints), div, fma(a, b, c) = a * b + c, min, max (a < b ? a : b, a > b ? a : b)
//   abs, select_less(a, b, x, y) = a < b ? x : y
//   to_float(Ints), to_ints(Floats)    nearest, ties to even; |x| < 2^22, anything else gives any integer
//   bits(Floats) -> Ints, from_bits(Ints) -> Floats
//   shift_left<n>, shift_right<n>      of Ints, arithmetic
//   bit_and(Ints, Ints); lookup(const float* table, Ints)      table[lowest four bits of each lane]
//   sum, max_lane (Floats or Ints)     lanes i and i + 8, then i + 4, i + 2, i + 1
// for attention, 64 bytes and four that all lanes share, one side signed and the other not; exact:
//   Bytes, load_bytes(const void*); SignedQuad, load_signed_quad(p); UnsignedQuad, load_unsigned_quad(p)
//   dot_unsigned(acc, bytes, signed quad), dot_signed(acc, bytes, unsigned quad):
//             acc[lane] += sum over j < 4 of bytes[4 lane + j] * quad[j]
//   store_digits(high, low, a, b, c, d), place_of_quad(i): 64 codes 0 .. 65535 to 64 high and 64 low bytes;
//             quad i, which is codes 4 i .. 4 i + 3, begins at byte 4 place_of_quad(i)
// and for dot_body.h alone, weight codes of sixteen rows by four columns, and four activations:
//   Codes, Quad, load_codes, load_quad, low_nibbles, high_nibbles
//   field<n, mask>(codes)              bits of each byte shifted right by n (left by -n), and masked
//   join(codes, codes)                 bits of either
//   lookup(codes below 16, const int8_t* table)                table[code] + 128
//   kWideDot: low_layers, high_layers (8u + v of two planes' nibbles) and
//             dot(acc, codes, x): acc[row] += sum over j < 4 of codes[4 row + j] * x[j],
//             and dot_at(acc, codes, const int8_t* x), for a quad that is used once
//   otherwise: dot_pairs and add_pairs, the same in two steps for codes below 16
#pragma once
#include <cstdint>

#define PENJING_INLINE [[gnu::always_inline]] static inline
#define PENJING_METHOD [[gnu::always_inline]] inline

namespace penjing {

struct Scalar;
struct Avx2;
struct Avx2Vnni;
struct Avx512;

struct Fp16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};

constexpr int64_t kLanes = 16;

template <class Isa>
struct Vec;

// The first n lanes in memory (0 <= n <= 16); the others are loaded as zero and not stored.
template <class Isa>
struct PartialAccess {
  template <class T>
  PENJING_INLINE auto load_partial(const T* source, int64_t n) {
    T lanes[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = source[i];
    return Vec<Isa>::load(lanes);
  }
  template <class T, class V>
  PENJING_INLINE void store_partial(T* target, V v, int64_t n) {
    T lanes[kLanes];
    Vec<Isa>::store(lanes, v);
    for (int64_t i = 0; i < n; ++i) target[i] = lanes[i];
  }
};

}  // namespace penjing

#include "vec_scalar.h"
#if defined(__AVX2__)
#include "vec_avx2.h"
#endif
#if defined(__AVX512F__)
#include "vec_avx512.h"
#endif

namespace penjing {

// e^x within 2 units in the last place; 0 below -104, infinity above 89, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r (Cephes expf), and 2^n in two factors so that
// the smallest and largest results stay in range.
template <class Isa>
PENJING_INLINE typename Vec<Isa>::Floats exp(typename Vec<Isa>::Floats x) {
  using V = Vec<Isa>;
  using Floats = typename V::Floats;
  x = V::min(V::set1(89.0f), V::max(V::set1(-104.0f), x));
  const auto n = V::to_ints(V::mul(x, V::set1(1.44269504f)));
  const Floats whole = V::to_float(n);
  Floats r = V::fma(whole, V::set1(-0.693359375f), x);
  r = V::fma(whole, V::set1(2.12194440e-4f), r);
  Floats p = V::set1(1.9875691500e-4f);
  p = V::fma(p, r, V::set1(1.3981999507e-3f));
  p = V::fma(p, r, V::set1(8.3334519073e-3f));
  p = V::fma(p, r, V::set1(4.1665795894e-2f));
  p = V::fma(p, r, V::set1(1.6666665459e-1f));
  p = V::fma(p, r, V::set1(5.0000001201e-1f));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set1(1.0f));
  const auto half = V::template shift_right<1>(n);
  const auto bias = V::set1(int32_t{127});
  const Floats first = V::from_bits(V::template shift_left<23>(V::add(half, bias)));
  const Floats second = V::from_bits(V::template shift_left<23>(V::add(V::sub(n, half), bias)));
  return V::mul(V::mul(p, first), second);
}

// 2^x for x <= 0 within 2 units in the last place, but never below 2^-126; NaN for NaN. x = n + r with
// |r| <= 1/2 and a minimax polynomial in r.
template <class Isa>
PENJING_INLINE typename Vec<Isa>::Floats exp2_to_one(typename Vec<Isa>::Floats x) {
  using V = Vec<Isa>;
  x = V::max(V::set1(-126.0f), V::min(V::set1(0.0f), x));
  const auto n = V::to_ints(x);
  const auto r = V::sub(x, V::to_float(n));
  auto p = V::set1(1.326472731e-3f);
  p = V::fma(p, r, V::set1(9.671512991e-3f));
  p = V::fma(p, r, V::set1(5.550733581e-2f));
  p = V::fma(p, r, V::set1(2.402224243e-1f));
  p = V::fma(p, r, V::set1(6.931470037e-1f));
  p = V::fma(p, r, V::set1(1.0f));
  return V::from_bits(V::add(V::bits(p), V::template shift_left<23>(n)));
}

}  // namespace penjing
