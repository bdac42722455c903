// The passes over a whole row of logits that choosing a token takes, for each instruction set.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace penjing {

// The maximum of each run of kLogitsPerRun logits (the last run may be shorter). False if there is a NaN.
template <class Isa>
bool scan_logits(const float* logits, int64_t n, float* maxima) {
  using V = Vec<Isa>;
  const auto lowest = V::set1(-__builtin_inff());
  auto largest_bits = V::set1(int32_t{0});  // of magnitudes: those of NaN are above those of infinity
  for (int64_t begin = 0; begin < n; begin += kLogitsPerRun) {
    auto largest = lowest;
    const auto take = [&](typename V::Floats x) {
      largest = V::max(x, largest);
      largest_bits = V::max(V::bits(V::abs(x)), largest_bits);
    };
    const int64_t end = begin + kLogitsPerRun < n ? begin + kLogitsPerRun : n;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) take(V::load(logits + i));
    if (i < end) {
      float rest[kLanes];
      for (int64_t lane = 0; lane < kLanes; ++lane) rest[lane] = logits[i + lane < end ? i + lane : i];
      take(V::load(rest));
    }
    maxima[begin / kLogitsPerRun] = V::max_lane(largest);
  }
  return V::max_lane(largest_bits) <= 0x7f800000;
}

// weights[i] = round(2^44 e^-y), y = (largest - logits[i]) * inverse_temperature, halves to even; their sum.
//
// Integers, so that a sum does not depend on its order: 2^44, the largest, times 2^20 tokens fits 64 bits, and
// what is rounded away is at most 2^-45 of the likeliest token. e^-y = 2^n e^r with |r| <= ln 2 / 2 and the
// Taylor polynomial of degree 11 in r, whose error is below 7e-15. A plain loop, which the compiler turns into
// vectors; each operation is one of IEEE's, so every instruction set computes the same bits.
template <class Isa>
uint64_t weigh_logits(const float* logits, int64_t n, float largest, double inverse_temperature,
                      uint64_t* weights) {
  constexpr double kNearest = 0x1.8p52;  // adding it leaves an integer in the last bits
  constexpr int64_t kNearestBits = 0x4338000000000000, kMostBits = 0x4050000000000000;  // of 64.0
  constexpr double kInverse[] = {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                                 1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0,        1.0};
  uint64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    double y = (static_cast<double>(largest) - static_cast<double>(logits[i])) * inverse_temperature;
    int64_t bits;
    __builtin_memcpy(&bits, &y, 8);
    bits = bits < kMostBits ? bits : kMostBits;  // min(y, 64), whose weight is 0
    __builtin_memcpy(&y, &bits, 8);
    const double shifted = y * -0x1.71547652b82fep0 + kNearest;
    const double whole = shifted - kNearest;
    const double r = -y - whole * 0x1.62e42fefa0000p-1 - whole * 0x1.cf79abc9e3b3ap-40;
    double p = kInverse[0];
    for (int term = 1; term < 12; ++term) p = p * r + kInverse[term];
    __builtin_memcpy(&bits, &shifted, 8);
    bits = static_cast<int64_t>(static_cast<uint64_t>(bits + 1023 + 44) << 52);  // of 2^(n + 44)
    double scale;
    __builtin_memcpy(&scale, &bits, 8);
    const double rounded = p * scale + kNearest;
    __builtin_memcpy(&bits, &rounded, 8);
    weights[i] = static_cast<uint64_t>(bits - kNearestBits);
    total += weights[i];
  }
  return total;
}

}  // namespace penjing
