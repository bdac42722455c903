// How matrix products are cut into patches: what linear_int_body.h and linear_float_body.h share.
//
// A patch is a few row tiles by a few tokens, its integer accumulators in registers; each accumulator follows
// the sequence that kernels.h states, so an element does not depend on the patch it falls into. Tiles go in
// panels that stay in the level-2 cache while all tokens pass, so that weights come from memory once.
//
// Patch sizes are measured (bench/kernels.py). One block of tokens reads weights at the speed of memory, best as
// one stream, and unpacks them once for all; several blocks share loads of activations between two tiles.
#pragma once
#include "elementwise_body.h"
#include "kernels.h"
#include "vec.h"

namespace penjing {

constexpr int64_t kPanelBytes = 256 * 1024;

// Tiles by tokens of a patch: for one block of tokens, for several, and for float matrices. Packings that are not
// plain, and zero points, run one tile by `other_tokens`: fewer bodies to compile.
template <class Isa>
struct Patches {
  static constexpr int one_tiles = 1, one_tokens = 4, many_tiles = 1, many_tokens = 4;
  static constexpr int float_tiles = 1, float_tokens = 4, other_tokens = 4;
  static constexpr int most_sums = 8;  // float sums that are kept in registers beside the integer ones
};
template <>
struct Patches<Scalar> {
  static constexpr int one_tiles = 1, one_tokens = 4, many_tiles = 1, many_tokens = 4;
  static constexpr int float_tiles = 1, float_tokens = 4, other_tokens = 1;
  static constexpr int most_sums = 8;
};
template <>
struct Patches<Avx512> {
  static constexpr int one_tiles = 1, one_tokens = 16, many_tiles = 2, many_tokens = 8;
  static constexpr int float_tiles = 2, float_tokens = 8, other_tokens = 8;
  static constexpr int most_sums = 12;
};

// Where a patch's tokens stand: [first, first + its tokens) of the `width` tokens of a block.
struct Place {
  int64_t block_begin, width, first;
};

// Float sums of a patch, in registers if they fit beside the integer accumulators, else in memory.
template <class Isa, int kTiles, int kTokens, bool kInRegisters>
struct Sums {
  using V = Vec<Isa>;
  typename V::Floats values[kTiles][kTokens];
  PENJING_METHOD void set(int tile, int token, typename V::Floats v) { values[tile][token] = v; }
  PENJING_METHOD typename V::Floats get(int tile, int token) const { return values[tile][token]; }
};
template <class Isa, int kTiles, int kTokens>
struct Sums<Isa, kTiles, kTokens, false> {
  using V = Vec<Isa>;
  alignas(64) float values[kTiles][kTokens][kLanes];
  PENJING_METHOD void set(int tile, int token, typename V::Floats v) { V::store(values[tile][token], v); }
  PENJING_METHOD typename V::Floats get(int tile, int token) const { return V::load(values[tile][token]); }
};

template <class Isa, int kTiles, int kTokens, class Patch>
PENJING_INLINE void store_patch(const Patch& sum, int64_t rows, int64_t first_row, float* out,
                                int64_t out_stride) {
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile) {
    const int64_t row = first_row + tile * kRowsPerTile;
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) {
      store_up_to<Isa>(out + token * out_stride + row, sum.get(tile, token), rows - row);
    }
  }
}

// Calls Patch::run<kTiles, kTokens> for exactly `tokens` tokens, at most kTokens.
template <class Patch, int kTiles, int kTokens>
static void run_tokens(const Patch& patch, const Place& place, int64_t tokens, int64_t tile) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) return run_tokens<Patch, kTiles, kTokens - 1>(patch, place, tokens, tile);
  }
  patch.template run<kTiles, kTokens>(place, tile);
}

template <class Patch, int kTiles, int kTokens>
static void run_tiles(const Patch& patch, const Place& place, int64_t tokens, int64_t first, int64_t last) {
  for (; first + kTiles <= last; first += kTiles)
    run_tokens<Patch, kTiles, kTokens>(patch, place, tokens, first);
  if constexpr (kTiles > 1) {
    if (first < last) run_tiles<Patch, kTiles - 1, kTokens>(patch, place, tokens, first, last);
  }
}

// A block's tokens are cut into patches of nearly the same size: 13 of at most 8 are 6 and 7.
template <class Patch, int kTiles, int kTokens>
static void run_panels(const Patch& patch, int64_t tile_bytes, int64_t tokens, int64_t first, int64_t last) {
  int64_t panel = kPanelBytes / (tile_bytes + 1) / kTiles * kTiles;
  if (panel < kTiles) panel = kTiles;
  for (; first < last; first += panel) {
    const int64_t end = first + panel < last ? first + panel : last;
    for (int64_t block = 0; block < num_blocks(tokens); ++block) {
      const int64_t begin = block_begin(tokens, block), width = block_begin(tokens, block + 1) - begin;
      const int64_t cuts = (width + kTokens - 1) / kTokens;
      for (int64_t cut = 0; cut < cuts; ++cut) {
        const int64_t from = width * cut / cuts, to = width * (cut + 1) / cuts;
        run_tiles<Patch, kTiles, kTokens>(patch, {begin, width, from}, to - from, first, end);
      }
    }
  }
}

}  // namespace penjing
