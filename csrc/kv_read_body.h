// Codes and scales of a page as attention in whole numbers reads them: bytes in the order of int8.
#pragma once
#include "kv_write_body.h"

namespace penjing {

// KvPlane::parts.
PENJING_INLINE constexpr int parts_of(int high_bits) { return high_bits == 0 ? 2 : 8 / high_bits; }

template <int kLeft>
PENJING_INLINE uint32_t shifted(uint32_t x) {
  if constexpr (kLeft >= 0)
    return x << kLeft;
  else
    return x >> -kLeft;
}

// Bytes 2 code + bias of kBytes codes in one part of a run. Plain loops of fixed length: compilers find the
// vector instructions for them on every instruction set.
template <int kHighBits, int kPart, int kBytes>
PENJING_INLINE void unpack_piece(const uint8_t* __restrict low, const uint8_t* __restrict high, uint8_t bias,
                                 uint8_t* __restrict out) {
  constexpr int kParts = parts_of(kHighBits), kHighMask = (1 << kHighBits) - 1;
  for (int i = 0; i < kBytes; ++i) {
    uint32_t twice = shifted<kPart < kParts / 2 ? 1 : -3>(low[i]) & 15 << 1;
    if constexpr (kHighBits > 0) twice |= shifted<5 - kPart * kHighBits>(high[i]) & kHighMask << 5;
    out[i] = static_cast<uint8_t>(twice + bias);
  }
}

// The parts of a run from kPart on, `length` codes each.
template <int kHighBits, int kBytes, int kPart = 0>
PENJING_INLINE void unpack_parts(const uint8_t* low, const uint8_t* high, int64_t length, uint8_t bias,
                                 uint8_t* out) {
  constexpr int kParts = parts_of(kHighBits);
  const uint8_t* nibbles = low + kPart % (kParts / 2) * length;
  for (int64_t i = 0; i < length; i += kBytes)
    unpack_piece<kHighBits, kPart, kBytes>(nibbles + i, high + i, bias, out + kPart * length + i);
  if constexpr (kPart + 1 < kParts)
    unpack_parts<kHighBits, kBytes, kPart + 1>(low, high, length, bias, out);
}

template <int kHighBits, int kBytes>
PENJING_INLINE void unpack_runs(const Runs& runs, const uint8_t* page, int64_t length, uint8_t bias,
                                uint8_t* out) {
  const uint8_t *low = page, *high = page + runs.count * runs.codes / 2;
  for (int64_t run = 0; run < runs.count; ++run, low += runs.codes / 2, high += length, out += runs.codes)
    unpack_parts<kHighBits, kBytes>(low, high, length, bias, out);
}

template <class Isa, int kHighBits>
void unpack_page(const KvPlane& plane, const uint8_t* page, uint8_t bias, uint8_t* out) {
  const Runs runs = runs_of(plane);
  const int64_t length = runs.codes / parts_of(kHighBits);  // a multiple of 16
  if (length % 64 == 0) return unpack_runs<kHighBits, 64>(runs, page, length, bias, out);
  if (length % 32 == 0) return unpack_runs<kHighBits, 32>(runs, page, length, bias, out);
  unpack_runs<kHighBits, 16>(runs, page, length, bias, out);
}

// What attention takes from the unsigned bytes of a key.
PENJING_INLINE int32_t key_offset(const KvPlane& plane) {
  return plane.is_packed() ? middle_of_codes(plane.bits()) : 128;
}

// One head's codes of a page in the order of int8: where they lie, or unpacked into `room`.
template <class Isa>
PENJING_INLINE const uint8_t* page_codes(const KvPlane& plane, int64_t page, int64_t kv_head, uint8_t* room) {
  const auto* codes = page_elements<const uint8_t>(plane, page, kv_head);
  if (!plane.is_packed()) return codes;
  const auto bias = static_cast<uint8_t>(plane.keys ? 0 : -middle_of_codes(plane.bits()));
  (plane.format == KvFormat::int4   ? unpack_page<Isa, 0>
   : plane.format == KvFormat::int5 ? unpack_page<Isa, 1>
                                    : unpack_page<Isa, 2>)(plane, codes, bias, room);
  return room;
}

// The scales of a page's tokens, as floats.
template <class Isa>
PENJING_INLINE void load_scales(const KvPlane& plane, int64_t page, int64_t kv_head, float* scales) {
  using V = Vec<Isa>;
  for (int64_t i = 0; i < kPageTokens; i += kLanes)
    V::store(scales + i, plane.is_packed() ? V::load(page_scales<const Bf16>(plane, page, kv_head) + i)
                                           : V::load(page_scales<const float>(plane, page, kv_head) + i));
}

}  // namespace penjing
