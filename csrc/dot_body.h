// Exact integer dot products of stored codes and int8 activations over one group of columns.
#pragma once
#include "kernels.h"
#include "packing.h"
#include "vec.h"

namespace penjing {

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

// Eight columns of all tiles and tokens, from column k + 8 kPair on; sums of every second operand go to `other`.
template <class Isa, Packing kPacking, int kPair, int kTiles, int kTokens>
PENJING_INLINE void dot_eight(const TileCodes& w, const int8_t* x, int64_t width, int64_t k,
                              typename Vec<Isa>::Ints (&acc)[kTiles][kTokens],
                              typename Vec<Isa>::Ints (&other)[kTiles][kTokens]) {
  const int8_t *even = x + (k + 8 * kPair) * width, *odd = even + 4 * width;
  typename Vec<Isa>::Codes left[kTiles], right[kTiles];
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile)
    load_operands<Isa, kPacking, kPair>(w.base + tile * w.stride, w.second + tile * w.second_stride, k, w.table,
                                        left[tile], right[tile]);
  dot_tokens<Isa, kTiles, kTokens>(left, even, acc);
  dot_tokens<Isa, kTiles, kTokens>(right, odd, other);
}

// acc[tile][token] += unsigned codes . activations over columns [first, last), with a dot product of bytes.
// x: the block's codes from its first token in question on; `width` tokens of it lie side by side. A small
// patch would wait for each dot product before the next: it sums every second one apart.
template <class Isa, Packing kPacking, int kTiles, int kTokens>
PENJING_INLINE void dot_group_wide(const TileCodes& w, const int8_t* x, int64_t width, int64_t first,
                                   int64_t last, typename Vec<Isa>::Ints (&acc)[kTiles][kTokens]) {
  using V = Vec<Isa>;
  constexpr bool kApart = kTiles * kTokens <= 6;
  typename V::Ints apart[kTiles][kTokens];
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles && kApart; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) apart[tile][token] = V::set1(int32_t{0});
  auto& other = kApart ? apart : acc;
  for (int64_t k = first; k < last; k += is_plain(kPacking) ? 8 : 32) {
    dot_eight<Isa, kPacking, 0>(w, x, width, k, acc, other);
    if constexpr (!is_plain(kPacking)) {
      dot_eight<Isa, kPacking, 1>(w, x, width, k, acc, other);
      dot_eight<Isa, kPacking, 2>(w, x, width, k, acc, other);
      dot_eight<Isa, kPacking, 3>(w, x, width, k, acc, other);
    }
  }
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles && kApart; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token)
      acc[tile][token] = V::add(acc[tile][token], apart[tile][token]);
}

// Quad kQuad of the 32 columns from k on, and those after it, in sums of 16 bits.
template <class Isa, Packing kPacking, int kQuad, int kTokens>
PENJING_INLINE void dot_quads(const TileCodes& w, const int8_t* x, int64_t width, int64_t k,
                              typename Vec<Isa>::Words (&low)[kTokens],
                              typename Vec<Isa>::Words (&high)[kTokens]) {
  using V = Vec<Isa>;
  typename V::Codes low_codes, high_codes;
  load_nibbles<Isa, kPacking, kQuad>(w, k, low_codes, high_codes);
#pragma GCC unroll 16
  for (int token = 0; token < kTokens; ++token) {
    const auto quad = V::load_quad(x + (k + 4 * kQuad) * width + 4 * token);
    low[token] = V::dot_pairs(low[token], low_codes, quad);
    if constexpr (is_wide(kPacking)) high[token] = V::dot_pairs(high[token], high_codes, quad);
  }
  if constexpr (kQuad < 7) dot_quads<Isa, kPacking, kQuad + 1>(w, x, width, k, low, high);
}

// The same in nibbles: codes of more than four bits are a high and a low nibble, whose dot products are added.
// Sixteen-bit sums last for 32 columns, and groups are multiples of 32.
template <class Isa, Packing kPacking, int kTokens>
PENJING_INLINE void dot_group_nibbles(const TileCodes& w, const int8_t* x, int64_t width, int64_t first,
                                      int64_t last, typename Vec<Isa>::Ints (&acc)[1][kTokens]) {
  using V = Vec<Isa>;
  for (int64_t k = first; k < last; k += 32) {
    typename V::Words low[kTokens], high[kTokens];
    for (int token = 0; token < kTokens; ++token) low[token] = high[token] = V::zero_words();
    dot_quads<Isa, kPacking, 0>(w, x, width, k, low, high);
    for (int token = 0; token < kTokens; ++token) {
      acc[0][token] = V::add(acc[0][token], V::add_pairs(low[token]));
      if constexpr (is_wide(kPacking)) {
        const auto sum = V::template shift_left<high_shift(kPacking)>(V::add_pairs(high[token]));
        acc[0][token] = V::add(acc[0][token], sum);
      }
    }
  }
}

}  // namespace penjing
