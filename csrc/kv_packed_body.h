// Keys and values of 4 to 6 bits, and how they get into pages (KvPlane in kv_plane.h).
//
// Packed codes u in [0, 2^bits) stand for the odd numbers 2 u - (2^bits - 1), times the scale: the middles of
// equal cells between -max|x| and max|x|. No code is lost to symmetry, and none clips.
#pragma once
#include "elementwise_body.h"
#include "kernels.h"
#include "mix_body.h"
#include "vec.h"

namespace penjing {

// The number that is taken from a doubled code.
PENJING_INLINE int32_t middle_of_codes(int64_t bits) { return (1 << bits) - 1; }

// Codes of a vector, and their scale: max|x| / 2^bits rounded to bf16; 0 for vectors below 1e-30, NaN for
// those that are not finite.
template <class Isa>
PENJING_INLINE Bf16 quantize_to_cells(const float* vector, int64_t head_dim, int64_t bits, uint8_t* codes) {
  using V = Vec<Isa>;
  const float magnitude = largest_magnitude<Isa>(vector, head_dim);
  const bool is_finite = magnitude < __builtin_inff(), used = is_finite && magnitude >= 1e-30f;
  const int32_t cells = 1 << (bits - 1);  // on each side of zero
  Bf16 scales[kLanes];
  const float empty = is_finite ? 0.0f : __builtin_nanf("");
  V::store(scales, V::set1(used ? magnitude / static_cast<float>(2 * cells) : empty));
  if (!used) return scales[0];
  const auto inverse = V::div(V::set1(0.5f), V::load(scales));
  const auto low = V::set1(-cells), high = V::set1(cells - 1), middle = V::set1(cells);
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const int64_t left = head_dim - i;
    const auto cell = V::sub(V::mul(load_up_to<Isa>(vector + i, left), inverse), V::set1(0.5f));
    int8_t lanes[kLanes];
    V::store(lanes, V::add(V::min(V::max(V::to_ints(cell), low), high), middle));
    for (int64_t lane = 0; lane < (left < kLanes ? left : kLanes); ++lane)
      codes[i + lane] = static_cast<uint8_t>(lanes[lane]);
  }
  return scales[0];
}

// A page's codes, in runs.
struct Runs {
  int64_t count, codes;
};
PENJING_INLINE Runs runs_of(const KvPlane& plane) {
  return plane.keys ? Runs{1, plane.stored_dims() * kPageTokens}
                    : Runs{kPageTokens / 4, plane.stored_dims() * 4};
}

template <class Isa>
PENJING_INLINE void write_packed(const KvPlane& plane, uint8_t* page, Bf16* scale, int64_t slot,
                                 const float* vector) {
  uint8_t codes[kMostHeadDim + kMostPadding] = {};
  float mixed[kMostHeadDim];
  if (plane.keys) mix<Isa>(vector, plane.head_dim, mixed);
  *scale = quantize_to_cells<Isa>(plane.keys ? mixed : vector, plane.head_dim, plane.bits(), codes);
  const int64_t dims = plane.stored_dims(), parts = plane.parts(), high_bits = plane.bits() - 4;
  const Runs runs = runs_of(plane);
  const int64_t run = plane.keys ? 0 : slot / 4;
  const auto place_of = [&](int64_t i) __attribute__((always_inline)) {
    return plane.keys ? i / 4 * 128 + slot * 4 + i % 4 : i * 4 + slot % 4;
  };
  uint8_t* low = page + run * runs.codes / 2;
  for (int64_t i = 0; i < dims / 2; ++i)
    low[place_of(i)] = static_cast<uint8_t>((codes[i] & 15) | codes[i + dims / 2] << 4);
  if (high_bits == 0) return;
  uint8_t* high = page + (runs.count * runs.codes / 2 + run * runs.codes / parts);
  for (int64_t i = 0; i < dims / parts; ++i) {
    uint32_t byte = 0;
    for (int64_t k = 0; k < parts; ++k)
      byte |= uint32_t{codes[i + k * dims / parts]} >> 4 << (k * high_bits);
    high[place_of(i)] = static_cast<uint8_t>(byte);
  }
}

}  // namespace penjing
