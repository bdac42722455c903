// Where keys and values lie in a page, and how they get there: write_kv of kernels.h.
#pragma once
#include "elementwise_body.h"
#include "kernels.h"
#include "kv_packed_body.h"
#include "mix_body.h"
#include "vec.h"

namespace penjing {

// Where one head's elements and scales begin in a page.
template <class T>
PENJING_INLINE T* page_elements(const KvPlane& plane, int64_t page, int64_t kv_head) {
  return reinterpret_cast<T*>(plane.base + page * plane.page_stride + kv_head * plane.head_bytes());
}
template <class T>
PENJING_INLINE T* page_scales(const KvPlane& plane, int64_t page, int64_t kv_head) {
  return reinterpret_cast<T*>(page_elements<uint8_t>(plane, page, kv_head) + plane.code_bytes());
}

// Each vector goes through up to sixteen converted lanes, because its place may be strided.
template <class Isa, class T>
PENJING_INLINE void write_float(const KvPlane& plane, T* elements, int64_t slot, const float* vector) {
  const int64_t head_dim = plane.head_dim;
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const int64_t left = head_dim - i, count = left < kLanes ? left : kLanes;
    T lanes[kLanes];
    Vec<Isa>::store(lanes, load_up_to<Isa>(vector + i, left));
    for (int64_t lane = 0; lane < count; ++lane)
      elements[plane.keys ? (i + lane) * kPageTokens + slot : slot * head_dim + i + lane] = lanes[lane];
  }
}

// Sixteen codes of a key: four dimensions of a token are one dword, sign bits flipped. Dimensions that are
// there only to fill a dword have code 0.
PENJING_INLINE void place_key_codes(int8_t* elements, int64_t slot, int64_t first, int64_t count,
                                    const int8_t* lanes) {
  for (int64_t lane = 0; lane < count; lane += 4) {
    uint32_t dword;
    __builtin_memcpy(&dword, lanes + lane, 4);
    dword ^= 0x80808080u;
    __builtin_memcpy(elements + (first + lane) * kPageTokens + 4 * slot, &dword, 4);
  }
}

// Sixteen codes of a value: four tokens of a dimension are one dword.
PENJING_INLINE void place_value_codes(int8_t* elements, int64_t head_dim, int64_t slot, int64_t first,
                                      int64_t count, const int8_t* lanes) {
  int8_t* place = elements + (slot / 4 * head_dim + first) * 4 + slot % 4;
  for (int64_t lane = 0; lane < count; ++lane) place[4 * lane] = lanes[lane];
}

// scale = max|x| / 127, code = round half even(x * (127 / max|x|)); place(first, count, codes) takes up to
// sixteen codes, zeros behind them. NaN or Inf anywhere makes the scale NaN: codes could not carry it on, and
// whoever attends must not get finite numbers out of it.
template <class Isa, class Place>
PENJING_INLINE float quantize_vector(const float* vector, int64_t head_dim, const Place& place) {
  using V = Vec<Isa>;
  const float magnitude = largest_magnitude<Isa>(vector, head_dim);
  const bool is_finite = magnitude < __builtin_inff(), used = is_finite && magnitude >= 1e-30f;
  const auto inverse = V::set1(used ? 127.0f / magnitude : 0.0f);
  const auto low = V::set1(int32_t{-127}), high = V::set1(int32_t{127});
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const int64_t left = head_dim - i;
    int8_t lanes[kLanes] = {};
    if (used) {
      const auto codes = V::to_ints(V::mul(load_up_to<Isa>(vector + i, left), inverse));
      V::store(lanes, V::min(V::max(codes, low), high));
    }
    place(i, left < kLanes ? left : kLanes, lanes);
  }
  return used ? magnitude / 127.0f : is_finite ? 0.0f : __builtin_nanf("");
}

template <class Isa>
PENJING_INLINE void write_int8(const KvPlane& plane, int8_t* elements, float* scale, int64_t slot,
                               const float* vector) {
  const int64_t head_dim = plane.head_dim;
  if (plane.keys) {
    float mixed[kMostHeadDim];
    mix<Isa>(vector, head_dim, mixed);
    *scale = quantize_vector<Isa>(
        mixed, head_dim, [&](int64_t i, int64_t count, const int8_t* lanes) __attribute__((always_inline)) {
          place_key_codes(elements, slot, i, count, lanes);
        });
  } else {
    *scale = quantize_vector<Isa>(
        vector, head_dim, [&](int64_t i, int64_t count, const int8_t* lanes) __attribute__((always_inline)) {
          place_value_codes(elements, head_dim, slot, i, count, lanes);
        });
  }
}

template <class Isa>
void write_kv(const KvPlane& plane, int64_t page, int64_t slot, const float* vectors) {
  for (int64_t head = 0; head < plane.kv_heads; ++head) {
    const float* vector = vectors + head * plane.head_dim;
    if (plane.is_packed())
      write_packed<Isa>(plane, page_elements<uint8_t>(plane, page, head),
                        page_scales<Bf16>(plane, page, head) + slot, slot, vector);
    else if (plane.format == KvFormat::int8)
      write_int8<Isa>(plane, page_elements<int8_t>(plane, page, head),
                      page_scales<float>(plane, page, head) + slot, slot, vector);
    else if (plane.format == KvFormat::bf16)
      write_float<Isa>(plane, page_elements<Bf16>(plane, page, head), slot, vector);
    else
      write_float<Isa>(plane, page_elements<float>(plane, page, head), slot, vector);
  }
}

}  // namespace penjing
