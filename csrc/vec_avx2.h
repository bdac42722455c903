// Vec<Avx2>: pairs of 256-bit registers; Vec<Avx2Vnni> adds the dot product instruction. Included by vec.h only.
#pragma once
#include <immintrin.h>

#include "vec.h"

namespace penjing {

template <>
struct Vec<Avx2> : PartialAccess<Avx2> {
  struct Floats {
    __m256 low, high;
  };
  struct Ints {
    __m256i low, high;
  };

  PENJING_INLINE Floats set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  PENJING_INLINE Ints set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  PENJING_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  PENJING_INLINE __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  PENJING_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  PENJING_INLINE Floats load(const Fp16* p) {
    return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 8))};
  }
  PENJING_INLINE __m256 widen_bf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  PENJING_INLINE Floats load(const Bf16* p) { return {widen_bf16(load_128(p)), widen_bf16(load_128(p + 8))}; }
  PENJING_INLINE Floats load(const int8_t* p) {
    const __m128i x = load_128(p);
    return to_float({_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))});
  }
  PENJING_INLINE Ints load_ints(const int32_t* p) { return {load_256(p), load_256(p + 8)}; }
  PENJING_INLINE Ints load_ints(const uint8_t* p) {
    const __m128i x = load_128(p);
    return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
  }
  PENJING_INLINE void store(float* p, Floats v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  PENJING_INLINE void store(int32_t* p, Ints v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), v.high);
  }
  // Sixteen 32-bit lanes to 16 bits; values must fit.
  PENJING_INLINE __m256i pack_16(Ints v) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(v.low, v.high), 0xd8);
  }
  PENJING_INLINE void store(int8_t* p, Ints v) {
    const __m256i words = pack_16(v);
    const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
  }
  PENJING_INLINE __m256i narrow_bf16(__m256 x) {
    const __m256i b = _mm256_castps_si256(x), high = _mm256_srli_epi32(b, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(b, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), quiet, nan);
  }
  PENJING_INLINE void store(Bf16* p, Floats v) {
    const __m256i packed = _mm256_packus_epi32(narrow_bf16(v.low), narrow_bf16(v.high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }

  PENJING_INLINE Floats add(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  PENJING_INLINE Floats sub(Floats a, Floats b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  PENJING_INLINE Floats mul(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  PENJING_INLINE Floats div(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  PENJING_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  PENJING_INLINE Floats min(Floats a, Floats b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  PENJING_INLINE Floats max(Floats a, Floats b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  PENJING_INLINE Floats abs(Floats a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
  }
  PENJING_INLINE Floats select_less(Floats a, Floats b, Floats x, Floats y) {
    return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
  }
  PENJING_INLINE Floats to_float(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
  PENJING_INLINE Ints to_ints(Floats a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
  PENJING_INLINE Ints bits(Floats a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }
  PENJING_INLINE Floats from_bits(Ints a) {
    return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)};
  }

  PENJING_INLINE Ints add(Ints a, Ints b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  PENJING_INLINE Ints sub(Ints a, Ints b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
  }
  PENJING_INLINE Ints mul(Ints a, Ints b) {
    return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
  }
  PENJING_INLINE Ints min(Ints a, Ints b) {
    return {_mm256_min_epi32(a.low, b.low), _mm256_min_epi32(a.high, b.high)};
  }
  PENJING_INLINE Ints max(Ints a, Ints b) {
    return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
  }
  template <int kBits>
  PENJING_INLINE Ints shift_left(Ints a) {
    return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
  }
  template <int kBits>
  PENJING_INLINE Ints shift_right(Ints a) {
    return {_mm256_srai_epi32(a.low, kBits), _mm256_srai_epi32(a.high, kBits)};
  }
  PENJING_INLINE Ints bit_and(Ints a, Ints b) {
    return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
  }
  // Permutations read three bits of an index; the fourth, shifted to the sign, chooses the half of the table.
  PENJING_INLINE __m256 lookup_8(const float* table, __m256i indices) {
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), indices);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), indices);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(indices, 28)));
  }
  PENJING_INLINE Floats lookup(const float* table, Ints indices) {
    return {lookup_8(table, indices.low), lookup_8(table, indices.high)};
  }

  // Eight lanes to one, in the order of the class comment.
  PENJING_INLINE float sum_8(__m256 a) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
  }
  PENJING_INLINE float max_8(__m256 a) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
  }
  PENJING_INLINE int32_t sum_8(__m256i a) {
    __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
  }
  PENJING_INLINE int32_t max_8(__m256i a) {
    __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
  }
  PENJING_INLINE float sum(Floats a) { return sum_8(_mm256_add_ps(a.low, a.high)); }
  PENJING_INLINE float max_lane(Floats a) { return max_8(_mm256_max_ps(a.low, a.high)); }
  PENJING_INLINE int32_t sum(Ints a) { return sum_8(_mm256_add_epi32(a.low, a.high)); }
  PENJING_INLINE int32_t max_lane(Ints a) { return max_8(_mm256_max_epi32(a.low, a.high)); }

  struct Codes {
    __m256i low, high;
  };
  using Quad = __m256i;
  PENJING_INLINE Codes load_codes(const uint8_t* p) { return {load_256(p), load_256(p + 32)}; }
  PENJING_INLINE Quad load_quad(const int8_t* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
  }
  PENJING_INLINE __m256i mask(__m256i a, char bits) { return _mm256_and_si256(a, _mm256_set1_epi8(bits)); }
  PENJING_INLINE Codes low_nibbles(Codes a) { return {mask(a.low, 15), mask(a.high, 15)}; }
  PENJING_INLINE Codes high_nibbles(Codes a) {
    return {mask(_mm256_srli_epi16(a.low, 4), 15), mask(_mm256_srli_epi16(a.high, 4), 15)};
  }

  template <int kShift>
  PENJING_INLINE __m256i shift_words(__m256i a) {
    return kShift < 0 ? _mm256_slli_epi16(a, -kShift & 7) : _mm256_srli_epi16(a, kShift & 7);
  }
  template <int kShift, int kMask>
  PENJING_INLINE Codes field(Codes a) {
    return {mask(shift_words<kShift>(a.low), kMask), mask(shift_words<kShift>(a.high), kMask)};
  }
  PENJING_INLINE Codes join(Codes a, Codes b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
  }
  PENJING_INLINE Codes lookup(Codes nibbles, const int8_t* table) {
    const __m256i levels =
        _mm256_xor_si256(_mm256_broadcastsi128_si256(load_128(table)), _mm256_set1_epi8(-128));
    return {_mm256_shuffle_epi8(levels, nibbles.low), _mm256_shuffle_epi8(levels, nibbles.high)};
  }

  // Without a dot product instruction, vpmaddubsw adds two byte products in 16 bits. With nibbles that is at
  // most 2 x 15 x 127, so that eight of them fit (30,480); wider codes would saturate, and dot_body.h runs
  // them as two nibble dot products.
  static constexpr bool kWideDot = false;
  struct Words {
    __m256i low, high;
  };
  PENJING_INLINE Words zero_words() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  PENJING_INLINE Words dot_pairs(Words acc, Codes nibbles, Quad x) {
    return {_mm256_add_epi16(acc.low, _mm256_maddubs_epi16(nibbles.low, x)),
            _mm256_add_epi16(acc.high, _mm256_maddubs_epi16(nibbles.high, x))};
  }
  PENJING_INLINE Ints add_pairs(Words a) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(a.low, ones), _mm256_madd_epi16(a.high, ones)};
  }

  // Bytes of any size would saturate vpmaddubsw: they go as even and odd ones, 16 bits each, through vpmaddwd.
  using Bytes = Codes;
  struct SignedQuad {
    __m256i even, odd;
  };
  struct UnsignedQuad {
    __m256i even, odd;
  };
  PENJING_INLINE __m256i even_signed(__m256i a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
  PENJING_INLINE __m256i odd_signed(__m256i a) { return _mm256_srai_epi16(a, 8); }
  PENJING_INLINE __m256i even_unsigned(__m256i a) { return _mm256_and_si256(a, _mm256_set1_epi16(255)); }
  PENJING_INLINE __m256i odd_unsigned(__m256i a) { return _mm256_srli_epi16(a, 8); }
  PENJING_INLINE Bytes load_bytes(const void* p) { return load_codes(static_cast<const uint8_t*>(p)); }
  PENJING_INLINE SignedQuad load_signed_quad(const int8_t* p) {
    const __m256i quad = load_quad(p);
    return {even_signed(quad), odd_signed(quad)};
  }
  PENJING_INLINE UnsignedQuad load_unsigned_quad(const uint8_t* p) {
    const __m256i quad = load_quad(reinterpret_cast<const int8_t*>(p));
    return {even_unsigned(quad), odd_unsigned(quad)};
  }
  PENJING_INLINE void store_256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  // Thirty-two words to bytes; like every packing, it interleaves blocks of 128 bits.
  PENJING_INLINE __m256i pack_8(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8);
  }
  PENJING_INLINE __m256i pack_unsigned_16(Ints v) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(v.low, v.high), 0xd8);
  }
  PENJING_INLINE void store_digits(uint8_t* high, uint8_t* low, Ints a, Ints b, Ints c, Ints d) {
    const __m256i words[] = {pack_unsigned_16(a), pack_unsigned_16(b), pack_unsigned_16(c),
                             pack_unsigned_16(d)};
    for (int i = 0; i < 4; i += 2) {
      store_256(high + 16 * i, pack_8(odd_unsigned(words[i]), odd_unsigned(words[i + 1])));
      store_256(low + 16 * i, pack_8(even_unsigned(words[i]), even_unsigned(words[i + 1])));
    }
  }
  PENJING_INLINE int64_t place_of_quad(int64_t quad) { return quad; }
  PENJING_INLINE __m256i add_products(__m256i acc, __m256i a, __m256i b, __m256i c, __m256i d) {
    return _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(a, b), _mm256_madd_epi16(c, d)));
  }
  PENJING_INLINE Ints dot_unsigned(Ints acc, Bytes a, SignedQuad x) {
    return {add_products(acc.low, even_unsigned(a.low), x.even, odd_unsigned(a.low), x.odd),
            add_products(acc.high, even_unsigned(a.high), x.even, odd_unsigned(a.high), x.odd)};
  }
  PENJING_INLINE Ints dot_signed(Ints acc, Bytes a, UnsignedQuad x) {
    return {add_products(acc.low, even_signed(a.low), x.even, odd_signed(a.low), x.odd),
            add_products(acc.high, even_signed(a.high), x.even, odd_signed(a.high), x.odd)};
  }
};

#if defined(__AVXVNNI__)
template <>
struct Vec<Avx2Vnni> : Vec<Avx2> {
  static constexpr bool kWideDot = true;
  PENJING_INLINE __m256i low_layers(__m256i base, __m256i residual) {
    return _mm256_add_epi8(mask(_mm256_slli_epi16(base, 3), 0x78), mask(residual, 15));
  }
  PENJING_INLINE __m256i high_layers(__m256i base, __m256i residual) {
    return _mm256_add_epi8(mask(_mm256_srli_epi16(base, 1), 0x78), mask(_mm256_srli_epi16(residual, 4), 15));
  }
  PENJING_INLINE Codes low_layers(Codes base, Codes residual) {
    return {low_layers(base.low, residual.low), low_layers(base.high, residual.high)};
  }
  PENJING_INLINE Codes high_layers(Codes base, Codes residual) {
    return {high_layers(base.low, residual.low), high_layers(base.high, residual.high)};
  }
  PENJING_INLINE Ints dot(Ints acc, Codes codes, Quad x) {
    return {_mm256_dpbusd_avx_epi32(acc.low, codes.low, x), _mm256_dpbusd_avx_epi32(acc.high, codes.high, x)};
  }
  PENJING_INLINE Ints dot_at(Ints acc, Codes codes, const int8_t* quad) {
    return dot(acc, codes, load_quad(quad));
  }

  using SignedQuad = __m256i;
  using UnsignedQuad = __m256i;
  PENJING_INLINE SignedQuad load_signed_quad(const int8_t* p) { return load_quad(p); }
  PENJING_INLINE UnsignedQuad load_unsigned_quad(const uint8_t* p) {
    return load_quad(reinterpret_cast<const int8_t*>(p));
  }
  PENJING_INLINE Ints dot_unsigned(Ints acc, Bytes a, SignedQuad x) { return dot(acc, a, x); }
  PENJING_INLINE Ints dot_signed(Ints acc, Bytes a, UnsignedQuad x) {
    return {_mm256_dpbusd_avx_epi32(acc.low, x, a.low), _mm256_dpbusd_avx_epi32(acc.high, x, a.high)};
  }
};
#endif

}  // namespace penjing
