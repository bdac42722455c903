// Vec<Scalar>: plain arrays, for any CPU. Included by vec.h only.
#pragma once
#include "vec.h"

namespace penjing {

template <>
struct Vec<Scalar> : PartialAccess<Scalar> {
  struct Floats {
    float lane[kLanes];
  };
  struct Ints {
    int32_t lane[kLanes];
  };

  template <class Function>
  PENJING_INLINE Floats floats(Function lane) {
    Floats result;
    for (int64_t i = 0; i < kLanes; ++i) result.lane[i] = lane(i);
    return result;
  }
  template <class Function>
  PENJING_INLINE Ints ints(Function lane) {
    Ints result;
    for (int64_t i = 0; i < kLanes; ++i) result.lane[i] = lane(i);
    return result;
  }
  PENJING_INLINE int32_t bits(float x) {
    int32_t result;
    __builtin_memcpy(&result, &x, 4);
    return result;
  }
  PENJING_INLINE float from_bits(uint32_t x) {
    float result;
    __builtin_memcpy(&result, &x, 4);
    return result;
  }
  PENJING_INLINE float widen(float x) { return x; }
  PENJING_INLINE float widen(int8_t x) { return x; }
  PENJING_INLINE float widen(Bf16 x) { return from_bits(uint32_t{x.bits} << 16); }
  PENJING_INLINE float widen(Fp16 x) {
    const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, magnitude = x.bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | magnitude << 13);
    // As if the exponent were float's, then times 2^112: exact, and right for subnormals too.
    return from_bits(sign | bits(from_bits(magnitude << 13) * 0x1p112f));
  }
  // Ties to even by adding and subtracting 1.5 x 2^23: the sum's last mantissa bit is the unit.
  PENJING_INLINE int32_t nearest(float x) {
    return static_cast<int32_t>(static_cast<uint32_t>(bits(x + 12582912.0f)) - 0x4b400000u);
  }
  PENJING_INLINE Bf16 narrow(float x) {
    const uint32_t b = bits(x);
    if (x != x) return {static_cast<uint16_t>(b >> 16 | 0x40u)};
    return {static_cast<uint16_t>((b + 0x7fffu + (b >> 16 & 1u)) >> 16)};
  }

  PENJING_INLINE Floats set1(float x) {
    return floats([&](int64_t) { return x; });
  }
  PENJING_INLINE Ints set1(int32_t x) {
    return ints([&](int64_t) { return x; });
  }
  template <class T>
  PENJING_INLINE Floats load(const T* p) {
    return floats([&](int64_t i) { return widen(p[i]); });
  }
  template <class T>
  PENJING_INLINE Ints load_ints(const T* p) {
    return ints([&](int64_t i) { return p[i]; });
  }
  PENJING_INLINE void store(float* p, Floats v) {
    for (int64_t i = 0; i < kLanes; ++i) p[i] = v.lane[i];
  }
  PENJING_INLINE void store(Bf16* p, Floats v) {
    for (int64_t i = 0; i < kLanes; ++i) p[i] = narrow(v.lane[i]);
  }
  PENJING_INLINE void store(int32_t* p, Ints v) {
    for (int64_t i = 0; i < kLanes; ++i) p[i] = v.lane[i];
  }
  PENJING_INLINE void store(int8_t* p, Ints v) {
    for (int64_t i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(v.lane[i]);
  }

  PENJING_INLINE Floats add(Floats a, Floats b) {
    return floats([&](int64_t i) { return a.lane[i] + b.lane[i]; });
  }
  PENJING_INLINE Floats sub(Floats a, Floats b) {
    return floats([&](int64_t i) { return a.lane[i] - b.lane[i]; });
  }
  PENJING_INLINE Floats mul(Floats a, Floats b) {
    return floats([&](int64_t i) { return a.lane[i] * b.lane[i]; });
  }
  PENJING_INLINE Floats div(Floats a, Floats b) {
    return floats([&](int64_t i) { return a.lane[i] / b.lane[i]; });
  }
  PENJING_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return floats([&](int64_t i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
  }
  PENJING_INLINE Floats min(Floats a, Floats b) {
    return floats([&](int64_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  PENJING_INLINE Floats max(Floats a, Floats b) {
    return floats([&](int64_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  PENJING_INLINE Floats abs(Floats a) {
    return floats([&](int64_t i) { return __builtin_fabsf(a.lane[i]); });
  }
  PENJING_INLINE Floats select_less(Floats a, Floats b, Floats x, Floats y) {
    return floats([&](int64_t i) { return a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]; });
  }
  PENJING_INLINE Floats to_float(Ints a) {
    return floats([&](int64_t i) { return static_cast<float>(a.lane[i]); });
  }
  PENJING_INLINE Ints to_ints(Floats a) {
    return ints([&](int64_t i) { return nearest(a.lane[i]); });
  }
  PENJING_INLINE Ints bits(Floats a) {
    return ints([&](int64_t i) { return bits(a.lane[i]); });
  }
  PENJING_INLINE Floats from_bits(Ints a) {
    return floats([&](int64_t i) { return from_bits(static_cast<uint32_t>(a.lane[i])); });
  }

  // Integers wrap, as they do in vector registers.
  PENJING_INLINE Ints add(Ints a, Ints b) {
    return ints([&](int64_t i) { return static_cast<int32_t>(uint32_t(a.lane[i]) + uint32_t(b.lane[i])); });
  }
  PENJING_INLINE Ints sub(Ints a, Ints b) {
    return ints([&](int64_t i) { return static_cast<int32_t>(uint32_t(a.lane[i]) - uint32_t(b.lane[i])); });
  }
  PENJING_INLINE Ints mul(Ints a, Ints b) {
    return ints([&](int64_t i) { return static_cast<int32_t>(uint32_t(a.lane[i]) * uint32_t(b.lane[i])); });
  }
  PENJING_INLINE Ints min(Ints a, Ints b) {
    return ints([&](int64_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  PENJING_INLINE Ints max(Ints a, Ints b) {
    return ints([&](int64_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  template <int kBits>
  PENJING_INLINE Ints shift_left(Ints a) {
    return ints([&](int64_t i) { return static_cast<int32_t>(uint32_t(a.lane[i]) << kBits); });
  }
  template <int kBits>
  PENJING_INLINE Ints shift_right(Ints a) {
    return ints([&](int64_t i) { return a.lane[i] >> kBits; });
  }
  PENJING_INLINE Ints bit_and(Ints a, Ints b) {
    return ints([&](int64_t i) { return a.lane[i] & b.lane[i]; });
  }
  PENJING_INLINE Floats lookup(const float* table, Ints indices) {
    return floats([&](int64_t i) { return table[indices.lane[i] & 15]; });
  }

  PENJING_INLINE float sum(Floats a) {
    for (int64_t width = kLanes / 2; width > 0; width /= 2)
      for (int64_t i = 0; i < width; ++i) a.lane[i] += a.lane[i + width];
    return a.lane[0];
  }
  PENJING_INLINE float max_lane(Floats a) {
    for (int64_t width = kLanes / 2; width > 0; width /= 2)
      for (int64_t i = 0; i < width; ++i)
        a.lane[i] = a.lane[i] > a.lane[i + width] ? a.lane[i] : a.lane[i + width];
    return a.lane[0];
  }
  PENJING_INLINE int32_t sum(Ints a) {
    uint32_t total = 0;
    for (int64_t i = 0; i < kLanes; ++i) total += uint32_t(a.lane[i]);
    return static_cast<int32_t>(total);
  }
  PENJING_INLINE int32_t max_lane(Ints a) {
    int32_t result = a.lane[0];
    for (int64_t i = 1; i < kLanes; ++i) result = result > a.lane[i] ? result : a.lane[i];
    return result;
  }

  // Weight codes of sixteen rows by four columns, and four activations.
  struct Codes {
    uint8_t byte[64];
  };
  struct Quad {
    int8_t byte[4];
  };
  static constexpr bool kWideDot = true;
  PENJING_INLINE Quad load_quad(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  PENJING_INLINE Codes load_codes(const uint8_t* p) {
    Codes result;
    __builtin_memcpy(result.byte, p, 64);
    return result;
  }
  template <class Function>
  PENJING_INLINE Codes each(Function byte) {
    Codes result;
    for (int i = 0; i < 64; ++i) result.byte[i] = static_cast<uint8_t>(byte(i));
    return result;
  }
  PENJING_INLINE Codes low_nibbles(Codes a) {
    return each([&](int i) { return a.byte[i] & 15; });
  }
  PENJING_INLINE Codes high_nibbles(Codes a) {
    return each([&](int i) { return a.byte[i] >> 4; });
  }
  template <int kShift, int kMask>
  PENJING_INLINE Codes field(Codes a) {
    return each([&](int i) { return (kShift < 0 ? a.byte[i] << (-kShift & 7) : a.byte[i] >> (kShift & 7)) & kMask; });
  }
  PENJING_INLINE Codes join(Codes a, Codes b) {
    return each([&](int i) { return a.byte[i] | b.byte[i]; });
  }
  PENJING_INLINE Codes lookup(Codes nibbles, const int8_t* table) {
    return each([&](int i) { return table[nibbles.byte[i] & 15] + 128; });
  }
  // 8u + v for the low, or the high, nibbles of two planes.
  PENJING_INLINE Codes low_layers(Codes base, Codes residual) {
    return each([&](int i) { return 8 * (base.byte[i] & 15) + (residual.byte[i] & 15); });
  }
  PENJING_INLINE Codes high_layers(Codes base, Codes residual) {
    return each([&](int i) { return 8 * (base.byte[i] >> 4) + (residual.byte[i] >> 4); });
  }
  PENJING_INLINE Ints dot_at(Ints acc, Codes codes, const int8_t* quad) {
    return dot(acc, codes, load_quad(quad));
  }
  PENJING_INLINE Ints dot(Ints acc, Codes codes, Quad x) {
    return ints([&](int64_t i) {
      int32_t total = acc.lane[i];
      for (int64_t j = 0; j < 4; ++j) total += int32_t{codes.byte[4 * i + j]} * x.byte[j];
      return total;
    });
  }

  struct Bytes {
    int8_t byte[64];
  };
  using SignedQuad = Quad;
  struct UnsignedQuad {
    uint8_t byte[4];
  };
  PENJING_INLINE Bytes load_bytes(const void* p) {
    Bytes result;
    __builtin_memcpy(result.byte, p, 64);
    return result;
  }
  PENJING_INLINE SignedQuad load_signed_quad(const int8_t* p) { return load_quad(p); }
  PENJING_INLINE UnsignedQuad load_unsigned_quad(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  PENJING_INLINE void store_digits(uint8_t* high, uint8_t* low, Ints a, Ints b, Ints c, Ints d) {
    const Ints* const codes[] = {&a, &b, &c, &d};
    for (int64_t i = 0; i < 64; ++i) {
      const int32_t code = codes[i / kLanes]->lane[i % kLanes];
      high[i] = static_cast<uint8_t>(code >> 8);
      low[i] = static_cast<uint8_t>(code);
    }
  }
  PENJING_INLINE int64_t place_of_quad(int64_t quad) { return quad; }
  PENJING_INLINE Ints dot_unsigned(Ints acc, Bytes a, SignedQuad x) {
    return ints([&](int64_t i) {
      int32_t total = 0;
      for (int64_t j = 0; j < 4; ++j) total += static_cast<uint8_t>(a.byte[4 * i + j]) * x.byte[j];
      return static_cast<int32_t>(uint32_t(acc.lane[i]) + uint32_t(total));
    });
  }
  PENJING_INLINE Ints dot_signed(Ints acc, Bytes a, UnsignedQuad x) {
    return ints([&](int64_t i) {
      int32_t total = 0;
      for (int64_t j = 0; j < 4; ++j) total += a.byte[4 * i + j] * x.byte[j];
      return static_cast<int32_t>(uint32_t(acc.lane[i]) + uint32_t(total));
    });
  }
};

}  // namespace penjing
