// The Walsh-Hadamard transform of keys and queries.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace penjing {

// Dimensions that are mixed with one another: the largest power of two that divides head_dim.
PENJING_INLINE int64_t mixed_together(int64_t head_dim) { return head_dim & -head_dim; }

// The Walsh-Hadamard transform, unnormalized, of each group of dimensions: it spreads a large element over
// all of them, so that a scale fits the others better, and leaves products of vectors what they were, times the
// size of a group (Ashkboos et al. 2024, QuaRot). Every pass interleaves sums and differences of halves.
template <class Isa>
PENJING_INLINE void mix(const float* vector, int64_t head_dim, float* __restrict mixed) {
  const int64_t size = mixed_together(head_dim), half = size / 2;
  float other[kMostHeadDim];
  for (int64_t first = 0; first < head_dim; first += size) {
    const float* from = vector + first;
    bool odd = __builtin_ctzll(size) % 2;
    for (int64_t done = 1; done < size; done *= 2, odd = !odd) {
      float* __restrict to = odd ? mixed + first : other;
      for (int64_t i = 0; i < half; ++i) {
        const float a = from[i], b = from[i + half];
        to[2 * i] = a + b;
        to[2 * i + 1] = a - b;
      }
      from = to;
    }
  }
}

}  // namespace penjing
