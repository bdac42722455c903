// Vec<Avx512>: one 512-bit register. Included by vec.h only.
#pragma once
#include <immintrin.h>

#include "vec.h"
#include "vec_avx2.h"

namespace penjing {

template <>
struct Vec<Avx512> : PartialAccess<Avx512> {
  using Floats = __m512;
  using Ints = __m512i;
  using Half = Vec<Avx2>;

  PENJING_INLINE Floats set1(float x) { return _mm512_set1_ps(x); }
  PENJING_INLINE Ints set1(int32_t x) { return _mm512_set1_epi32(x); }
  PENJING_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
  PENJING_INLINE Floats load(const Fp16* p) { return _mm512_cvtph_ps(Half::load_256(p)); }
  PENJING_INLINE Floats load(const Bf16* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(Half::load_256(p)), 16));
  }
  PENJING_INLINE Floats load(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Half::load_128(p)));
  }
  PENJING_INLINE Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
  PENJING_INLINE Ints load_ints(const uint8_t* p) { return _mm512_cvtepu8_epi32(Half::load_128(p)); }
  PENJING_INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
  PENJING_INLINE void store(int32_t* p, Ints v) { _mm512_storeu_si512(p, v); }
  PENJING_INLINE void store(int8_t* p, Ints v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
  }
  // Not vcvtneps2bf16, which flushes subnormals and is missing where only VNNI is.
  PENJING_INLINE void store(Bf16* p, Floats v) {
    const __m512i b = bits(v), high = _mm512_srli_epi32(b, 16);
    const __m512i odd = _mm512_and_si512(high, set1(int32_t{1}));
    const __m512i rounded = _mm512_srli_epi32(add(add(b, set1(int32_t{0x7fff})), odd), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i words = _mm512_mask_or_epi32(rounded, nan, high, set1(int32_t{0x40}));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(words));
  }

  PENJING_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  PENJING_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  PENJING_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  PENJING_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  PENJING_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  PENJING_INLINE Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  PENJING_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  PENJING_INLINE Floats abs(Floats a) { return _mm512_abs_ps(a); }
  PENJING_INLINE Floats select_less(Floats a, Floats b, Floats x, Floats y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }
  PENJING_INLINE Floats to_float(Ints a) { return _mm512_cvtepi32_ps(a); }
  PENJING_INLINE Ints to_ints(Floats a) { return _mm512_cvtps_epi32(a); }
  PENJING_INLINE Ints bits(Floats a) { return _mm512_castps_si512(a); }
  PENJING_INLINE Floats from_bits(Ints a) { return _mm512_castsi512_ps(a); }

  PENJING_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  PENJING_INLINE Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
  PENJING_INLINE Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
  PENJING_INLINE Ints min(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
  PENJING_INLINE Ints max(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
  template <int kBits>
  PENJING_INLINE Ints shift_left(Ints a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  PENJING_INLINE Ints shift_right(Ints a) {
    return _mm512_srai_epi32(a, kBits);
  }
  PENJING_INLINE Ints bit_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
  PENJING_INLINE Floats lookup(const float* table, Ints indices) {
    return _mm512_permutexvar_ps(indices, load(table));
  }

  PENJING_INLINE __m256 low_half(Floats a) { return _mm512_castps512_ps256(a); }
  PENJING_INLINE __m256 high_half(Floats a) { return _mm512_extractf32x8_ps(a, 1); }
  PENJING_INLINE float sum(Floats a) { return Half::sum_8(_mm256_add_ps(low_half(a), high_half(a))); }
  PENJING_INLINE float max_lane(Floats a) { return Half::max_8(_mm256_max_ps(low_half(a), high_half(a))); }
  PENJING_INLINE int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a); }
  PENJING_INLINE int32_t max_lane(Ints a) { return _mm512_reduce_max_epi32(a); }

  using Codes = __m512i;
  using Quad = __m512i;
  static constexpr bool kWideDot = true;
  PENJING_INLINE Codes load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  PENJING_INLINE Codes mask(Codes a, char bits) { return _mm512_and_si512(a, _mm512_set1_epi8(bits)); }
  PENJING_INLINE Codes low_nibbles(Codes a) { return mask(a, 15); }
  PENJING_INLINE Codes high_nibbles(Codes a) { return mask(_mm512_srli_epi16(a, 4), 15); }
  PENJING_INLINE Codes low_layers(Codes base, Codes residual) {
    return _mm512_add_epi8(mask(_mm512_slli_epi16(base, 3), 0x78), mask(residual, 15));
  }
  PENJING_INLINE Codes high_layers(Codes base, Codes residual) {
    return _mm512_add_epi8(mask(_mm512_srli_epi16(base, 1), 0x78), mask(_mm512_srli_epi16(residual, 4), 15));
  }
  template <int kShift, int kMask>
  PENJING_INLINE Codes field(Codes a) {
    return mask(kShift < 0 ? _mm512_slli_epi16(a, -kShift & 7) : _mm512_srli_epi16(a, kShift & 7), kMask);
  }
  PENJING_INLINE Codes join(Codes a, Codes b) { return _mm512_or_si512(a, b); }
  PENJING_INLINE Codes lookup(Codes nibbles, const int8_t* table) {
    const __m512i levels = _mm512_broadcast_i32x4(Half::load_128(table));
    return _mm512_shuffle_epi8(_mm512_xor_si512(levels, _mm512_set1_epi8(-128)), nibbles);
  }
  PENJING_INLINE Quad load_quad(const int8_t* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, 4);
    return _mm512_set1_epi32(quad);
  }
  // Spelled out, because compilers rename accumulators from one dot product to the next: copies and spills.
  PENJING_INLINE Ints dot(Ints acc, Codes codes, Quad x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(x));
    return acc;
  }
  // The broadcast within the instruction, for the same reason.
  PENJING_INLINE Ints dot_at(Ints acc, Codes codes, const int8_t* quad) {
    using Word [[gnu::may_alias]] = int32_t;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(codes), "m"(*reinterpret_cast<const Word*>(quad)));
    return acc;
  }

  using Bytes = __m512i;
  using SignedQuad = __m512i;
  using UnsignedQuad = __m512i;
  PENJING_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  PENJING_INLINE SignedQuad load_signed_quad(const int8_t* p) { return load_quad(p); }
  PENJING_INLINE UnsignedQuad load_unsigned_quad(const uint8_t* p) {
    return load_quad(reinterpret_cast<const int8_t*>(p));
  }
  // Packing interleaves blocks of 128 bits: four quads of each of a, b, c and d.
  PENJING_INLINE void store_digits(uint8_t* high, uint8_t* low, Ints a, Ints b, Ints c, Ints d) {
    const __m512i ab = _mm512_packus_epi32(a, b), cd = _mm512_packus_epi32(c, d);
    const __m512i byte = _mm512_set1_epi16(255);
    _mm512_storeu_si512(high, _mm512_packus_epi16(_mm512_srli_epi16(ab, 8), _mm512_srli_epi16(cd, 8)));
    _mm512_storeu_si512(low, _mm512_packus_epi16(_mm512_and_si512(ab, byte), _mm512_and_si512(cd, byte)));
  }
  PENJING_INLINE int64_t place_of_quad(int64_t quad) { return quad % 4 * 4 + quad / 4; }
  PENJING_INLINE Ints dot_unsigned(Ints acc, Bytes a, SignedQuad x) { return _mm512_dpbusd_epi32(acc, a, x); }
  PENJING_INLINE Ints dot_signed(Ints acc, Bytes a, UnsignedQuad x) { return _mm512_dpbusd_epi32(acc, x, a); }
};

}  // namespace penjing
