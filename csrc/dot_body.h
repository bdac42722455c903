// Exact integer dot products of stored codes and int8 activations over one group of columns.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace penjing {

constexpr int64_t kPrefetchBytes = 2048;  // ahead in each plane

// How integer codes lie in memory: nibbles of one plane, whole bytes, or nibbles of two planes (8u + v).
enum class Packing { nibbles, bytes, layers };

constexpr int64_t code_bits(Packing packing) { return packing == Packing::bytes ? 8 : 4; }
constexpr int32_t code_offset(Packing packing) {
  return packing == Packing::nibbles ? 8 : packing == Packing::bytes ? 128 : 72;
}

// What a block of tiles reads: the first tile's planes, and the distance in bytes between tiles.
struct TileCodes {
  const uint8_t* base;
  const uint8_t* residual;
  int64_t stride;
};

// Two operands, of four columns each, from columns [k, k + 8) of one tile.
template <class Isa, Packing kPacking>
PENJING_INLINE void load_operands(const uint8_t* base, const uint8_t* residual, int64_t k,
                                  typename Vec<Isa>::Codes& first, typename Vec<Isa>::Codes& second) {
  using V = Vec<Isa>;
  const uint8_t* place = base + k * code_bits(kPacking) * 2;
  __builtin_prefetch(place + kPrefetchBytes);
  if constexpr (kPacking == Packing::bytes) {
    __builtin_prefetch(place + kPrefetchBytes + 64);
    first = V::load_codes(place);
    second = V::load_codes(place + 64);
  } else if constexpr (kPacking == Packing::nibbles) {
    const auto plane = V::load_codes(place);
    first = V::low_nibbles(plane);
    second = V::high_nibbles(plane);
  } else {
    __builtin_prefetch(residual + k * 8 + kPrefetchBytes);
    const auto plane = V::load_codes(place), fine = V::load_codes(residual + k * 8);
    first = V::low_layers(plane, fine);
    second = V::high_layers(plane, fine);
  }
}

// Four columns of all tokens, which lie side by side at x.
template <class Isa, int kTiles, int kTokens>
PENJING_INLINE void dot_tokens(const typename Vec<Isa>::Codes (&codes)[kTiles], const int8_t* x,
                               typename Vec<Isa>::Ints (&acc)[kTiles][kTokens]) {
  using V = Vec<Isa>;
#pragma GCC unroll 16
  for (int token = 0; token < kTokens; ++token) {
    if constexpr (kTiles == 1) {
      acc[0][token] = V::dot_at(acc[0][token], codes[0], x + 4 * token);
    } else {
      const auto quad = V::load_quad(x + 4 * token);
#pragma GCC unroll 8
      for (int tile = 0; tile < kTiles; ++tile) acc[tile][token] = V::dot(acc[tile][token], codes[tile], quad);
    }
  }
}

// acc[tile][token] += unsigned codes . activations over columns [first, last), with a dot product of bytes.
// x: the block's codes from its first token in question on; `width` tokens of it lie side by side. A small
// patch would wait for each dot product before the next: it sums every second one apart.
template <class Isa, Packing kPacking, int kTiles, int kTokens>
PENJING_INLINE void dot_group_wide(const TileCodes& w, const int8_t* x, int64_t width, int64_t first,
                                   int64_t last, typename Vec<Isa>::Ints (&acc)[kTiles][kTokens]) {
  using V = Vec<Isa>;
  constexpr bool kApart = kTiles * kTokens <= 6;
  typename V::Ints other[kTiles][kTokens];
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles && kApart; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) other[tile][token] = V::set1(int32_t{0});
  for (int64_t k = first; k < last; k += 8) {
    const int8_t *even = x + k * width, *odd = even + 4 * width;
    typename V::Codes left[kTiles], right[kTiles];
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile)
      load_operands<Isa, kPacking>(w.base + tile * w.stride, w.residual + tile * w.stride, k, left[tile],
                                   right[tile]);
    dot_tokens<Isa, kTiles, kTokens>(left, even, acc);
    if constexpr (kApart)
      dot_tokens<Isa, kTiles, kTokens>(right, odd, other);
    else
      dot_tokens<Isa, kTiles, kTokens>(right, odd, acc);
  }
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles && kApart; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token)
      acc[tile][token] = V::add(acc[tile][token], other[tile][token]);
}

// The same in nibbles: codes of more than four bits are a high and a low nibble, whose dot products are added.
// Sixteen-bit sums last for 32 columns, and groups are multiples of 32.
template <class Isa, Packing kPacking, int kTokens>
PENJING_INLINE void dot_group_nibbles(const TileCodes& w, const int8_t* x, int64_t width, int64_t first,
                                      int64_t last, typename Vec<Isa>::Ints (&acc)[1][kTokens]) {
  using V = Vec<Isa>;
  constexpr int kHighShift = kPacking == Packing::bytes ? 4 : 3;
  for (int64_t start = first; start < last; start += 32) {
    typename V::Words low[kTokens], high[kTokens];
    for (int token = 0; token < kTokens; ++token) low[token] = high[token] = V::zero_words();
    for (int64_t k = start; k < start + 32; k += 4) {
      // Eight columns share the bytes of a nibble plane: the first four are in its low nibbles.
      const bool second = kPacking != Packing::bytes && k % 8 == 4;
      const int64_t place = kPacking == Packing::bytes ? k * 16 : k / 8 * 64;
      const auto codes = V::load_codes(w.base + place);
      typename V::Codes low_codes, high_codes{};
      if constexpr (kPacking == Packing::nibbles) {
        low_codes = second ? V::high_nibbles(codes) : V::low_nibbles(codes);
      } else if constexpr (kPacking == Packing::bytes) {
        low_codes = V::low_nibbles(codes);
        high_codes = V::high_nibbles(codes);
      } else {
        const auto fine = V::load_codes(w.residual + place);
        low_codes = second ? V::high_nibbles(fine) : V::low_nibbles(fine);
        high_codes = second ? V::high_nibbles(codes) : V::low_nibbles(codes);
      }
#pragma GCC unroll 16
      for (int token = 0; token < kTokens; ++token) {
        const auto quad = V::load_quad(x + k * width + 4 * token);
        low[token] = V::dot_pairs(low[token], low_codes, quad);
        if constexpr (kPacking != Packing::nibbles) high[token] = V::dot_pairs(high[token], high_codes, quad);
      }
    }
    for (int token = 0; token < kTokens; ++token) {
      acc[0][token] = V::add(acc[0][token], V::add_pairs(low[token]));
      if constexpr (kPacking != Packing::nibbles) {
        const auto sum = V::template shift_left<kHighShift>(V::add_pairs(high[token]));
        acc[0][token] = V::add(acc[0][token], sum);
      }
    }
  }
}

}  // namespace penjing
