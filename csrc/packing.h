// How integer codes lie in planes, and the operands that kernels take out of them.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace penjing {

constexpr int64_t kPrefetchBytes = 2048;  // ahead in each plane

// nibbles and bytes are one plane; layers are nibbles of two (8u + v); crumbs have two bits, and a second plane
// adds bits above; tables look their codes up.
enum class Packing {
  nibbles, bytes, layers, crumbs, crumbs_bits, nibbles_bits, nibbles_crumbs, crumbs_table, crumbs_bits_table,
  nibbles_table
};

constexpr bool is_table(Packing packing) { return packing >= Packing::crumbs_table; }
constexpr int low_bits(Packing packing) {
  switch (packing) {
    case Packing::bytes: return 8;
    case Packing::crumbs:
    case Packing::crumbs_bits:
    case Packing::crumbs_table:
    case Packing::crumbs_bits_table: return 2;
    default: return 4;
  }
}
// Of the second plane.
constexpr int high_bits(Packing packing) {
  switch (packing) {
    case Packing::layers: return 4;
    case Packing::nibbles_crumbs: return 2;
    case Packing::crumbs_bits:
    case Packing::crumbs_bits_table:
    case Packing::nibbles_bits: return 1;
    default: return 0;
  }
}
// What is taken off every unsigned code, where there are no zero points.
constexpr int32_t code_offset(Packing packing) {
  return packing == Packing::layers                         ? 72
         : packing == Packing::bytes || is_table(packing) ? 128
                                                          : 1 << (low_bits(packing) + high_bits(packing) - 1);
}
// The first three are the tuned ones, and read eight columns at a time; the others read 32, whole lines of bits.
constexpr bool is_plain(Packing packing) {
  return packing == Packing::nibbles || packing == Packing::bytes || packing == Packing::layers;
}
// Whether codes need a second operand where operands have four bits (Avx2).
constexpr bool is_wide(Packing packing) {
  return packing != Packing::nibbles && packing != Packing::crumbs && packing != Packing::crumbs_bits;
}

// What a block of tiles reads: the first tile's planes, and the distances in bytes between tiles.
struct TileCodes {
  const uint8_t* base;
  const uint8_t* second;  // the residual plane, or the high one
  int64_t stride, second_stride;
  const int8_t* table;
};

// Bits of quad kQuad (four columns) of the 32 that start at `place`, moved to bit kAt, from a plane of kBits.
template <class Isa, int kBits, int kQuad, int kAt>
PENJING_INLINE typename Vec<Isa>::Codes plane_quad(const uint8_t* place) {
  using V = Vec<Isa>;
  constexpr int kQuads = 8 / kBits;  // of a line
  const auto line = V::load_codes(place + 64 * (kQuad / kQuads));
  return V::template field<kBits * (kQuad % kQuads) - kAt, ((1 << kBits) - 1) << kAt>(line);
}

template <int kBits>
PENJING_INLINE void prefetch_lines(const uint8_t* place) {
#pragma GCC unroll 4
  for (int line = 0; line < kBits; ++line) __builtin_prefetch(place + kPrefetchBytes + 64 * line);
}

// Whole codes of quad kQuad among columns [k, k + 32) of a tile, whose planes start at `base` and `second`.
template <class Isa, Packing kPacking, int kQuad>
PENJING_INLINE typename Vec<Isa>::Codes whole_codes(const uint8_t* base, const uint8_t* second, int64_t k,
                                                    const int8_t* table) {
  constexpr int kLow = low_bits(kPacking), kHigh = high_bits(kPacking);
  if constexpr (kQuad == 0) prefetch_lines<kLow>(base + 2 * kLow * k);
  auto codes = plane_quad<Isa, kLow, kQuad, 0>(base + 2 * kLow * k);
  if constexpr (kHigh != 0) {
    if constexpr (kQuad == 0) prefetch_lines<kHigh>(second + 2 * kHigh * k);
    codes = Vec<Isa>::join(codes, plane_quad<Isa, kHigh, kQuad, kLow>(second + 2 * kHigh * k));
  }
  if constexpr (is_table(kPacking)) return Vec<Isa>::lookup(codes, table);
  return codes;
}

// Two operands, of four columns each, from columns [k, k + 8) of one tile. Of the packings that are not plain,
// the columns are pair kPair of those four pairs of quads that start at k.
template <class Isa, Packing kPacking, int kPair>
PENJING_INLINE void load_operands(const uint8_t* base, const uint8_t* second, int64_t k, const int8_t* table,
                                  typename Vec<Isa>::Codes& left, typename Vec<Isa>::Codes& right) {
  using V = Vec<Isa>;
  if constexpr (!is_plain(kPacking)) {
    left = whole_codes<Isa, kPacking, 2 * kPair>(base, second, k, table);
    right = whole_codes<Isa, kPacking, 2 * kPair + 1>(base, second, k, table);
    return;
  }
  const uint8_t* place = base + k * low_bits(kPacking) * 2;
  __builtin_prefetch(place + kPrefetchBytes);
  if constexpr (kPacking == Packing::bytes) {
    __builtin_prefetch(place + kPrefetchBytes + 64);
    left = V::load_codes(place);
    right = V::load_codes(place + 64);
  } else if constexpr (kPacking == Packing::nibbles) {
    const auto plane = V::load_codes(place);
    left = V::low_nibbles(plane);
    right = V::high_nibbles(plane);
  } else if constexpr (kPacking == Packing::layers) {
    __builtin_prefetch(second + k * 8 + kPrefetchBytes);
    const auto plane = V::load_codes(place), fine = V::load_codes(second + k * 8);
    left = V::low_layers(plane, fine);
    right = V::high_layers(plane, fine);
  }
}

// The same in operands below 16: a code is low + 2^high_shift high; `high` stays as it is where there is none.
template <class Isa, Packing kPacking, int kQuad>
PENJING_INLINE void load_nibbles(const TileCodes& w, int64_t k, typename Vec<Isa>::Codes& low,
                                 typename Vec<Isa>::Codes& high) {
  using V = Vec<Isa>;
  constexpr int kLow = low_bits(kPacking), kHigh = high_bits(kPacking);
  if constexpr (kPacking == Packing::bytes || is_table(kPacking)) {
    const auto codes = whole_codes<Isa, kPacking, kQuad>(w.base, w.second, k, w.table);
    low = V::low_nibbles(codes);
    high = V::high_nibbles(codes);
  } else if constexpr (kPacking == Packing::layers) {
    low = plane_quad<Isa, 4, kQuad, 0>(w.second + 8 * k);
    high = plane_quad<Isa, 4, kQuad, 0>(w.base + 8 * k);
  } else if constexpr (is_wide(kPacking)) {
    low = plane_quad<Isa, kLow, kQuad, 0>(w.base + 2 * kLow * k);
    high = plane_quad<Isa, kHigh, kQuad, 0>(w.second + 2 * kHigh * k);
  } else {
    low = whole_codes<Isa, kPacking, kQuad>(w.base, w.second, k, w.table);
  }
}
constexpr int high_shift(Packing packing) { return packing == Packing::layers ? 3 : 4; }

}  // namespace penjing
