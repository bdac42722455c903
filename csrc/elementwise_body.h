// Norm, rotation, gating, soft caps and softmax, written once over Vec<Isa>. Each element's result is the same
// wherever it stands in a call, so that a caller may cut a row anywhere (rms_norm and softmax excepted: they sum
// the whole row).
#pragma once
#include "kernels.h"
#include "vec.h"

namespace penjing {

// Up to sixteen lanes from `source`, of which `left` elements remain; the others are zero.
template <class Isa, class T>
PENJING_INLINE typename Vec<Isa>::Floats load_up_to(const T* source, int64_t left) {
  return left >= kLanes ? Vec<Isa>::load(source) : Vec<Isa>::load_partial(source, left);
}

template <class Isa, class T>
PENJING_INLINE void store_up_to(T* target, typename Vec<Isa>::Floats v, int64_t left) {
  if (left >= kLanes)
    Vec<Isa>::store(target, v);
  else
    Vec<Isa>::store_partial(target, v, left);
}

// max|x| over n elements; NaN or infinity if there is any. Magnitudes compare as integers, where NaN is above
// infinity: nothing that is not finite gets lost.
template <class Isa>
PENJING_INLINE float largest_magnitude(const float* x, int64_t n) {
  using V = Vec<Isa>;
  auto largest_bits = V::set1(int32_t{0});
  for (int64_t i = 0; i < n; i += kLanes)
    largest_bits = V::max(largest_bits, V::bits(V::abs(load_up_to<Isa>(x + i, n - i))));
  const int32_t bits = V::max_lane(largest_bits);
  float magnitude;
  __builtin_memcpy(&magnitude, &bits, 4);
  return magnitude;
}

// Zhang and Sennrich 2019: out = x / sqrt(mean(x^2) + eps) * weight.
template <class Isa>
void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  using V = Vec<Isa>;
  auto squares = V::set1(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const auto v = load_up_to<Isa>(x + i, n - i);
    squares = V::fma(v, v, squares);
  }
  const float mean = V::sum(squares) / static_cast<float>(n);
  const auto inverse = V::set1(1.0f / __builtin_sqrtf(mean + eps));
  for (int64_t i = 0; i < n; i += kLanes) {
    const auto v = V::mul(load_up_to<Isa>(x + i, n - i), inverse);
    store_up_to<Isa>(out + i, V::mul(v, load_up_to<Isa>(weight + i, n - i)), n - i);
  }
}

// Su et al. 2021, in the order of halves: (a, b) -> (a cos - b sin, b cos + a sin).
template <class Isa>
void rotate(float* head, const float* cosine, const float* sine, int64_t size) {
  using V = Vec<Isa>;
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const auto a = load_up_to<Isa>(head + i, left), b = load_up_to<Isa>(head + half + i, left);
    const auto c = load_up_to<Isa>(cosine + i, left), s = load_up_to<Isa>(sine + i, left);
    store_up_to<Isa>(head + i, V::sub(V::mul(a, c), V::mul(b, s)), left);
    store_up_to<Isa>(head + half + i, V::add(V::mul(b, c), V::mul(a, s)), left);
  }
}

// Shazeer 2020 (SwiGLU): out = gate / (1 + e^-gate) * up.
template <class Isa>
void silu_multiply(const float* gate, const float* up, int64_t n, float* out) {
  using V = Vec<Isa>;
  const auto one = V::set1(1.0f), zero = V::set1(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const auto g = load_up_to<Isa>(gate + i, n - i);
    const auto silu = V::div(g, V::add(one, exp<Isa>(V::sub(zero, g))));
    store_up_to<Isa>(out + i, V::mul(silu, load_up_to<Isa>(up + i, n - i)), n - i);
  }
}

// Hendrycks and Gimpel 2016, with tanh: x / 2 * (1 + tanh u), u = sqrt(2 / pi) (x + 0.044715 x^3). Since
// (1 + tanh u) / 2 = 1 / (1 + e^-2u), this is x / (1 + e^-2u), without a cancellation.
template <class Isa>
void gelu_multiply(const float* gate, const float* up, int64_t n, float* out) {
  using V = Vec<Isa>;
  const auto one = V::set1(1.0f), slope = V::set1(-1.59576912f), bend = V::set1(-0.0713548163f);  // times -2
  for (int64_t i = 0; i < n; i += kLanes) {
    const auto g = load_up_to<Isa>(gate + i, n - i);
    const auto exponent = V::mul(g, V::fma(V::mul(g, g), bend, slope));
    const auto gelu = V::div(g, V::add(one, exp<Isa>(exponent)));
    store_up_to<Isa>(out + i, V::mul(gelu, load_up_to<Isa>(up + i, n - i)), n - i);
  }
}

// Near zero a polynomial (Cephes tanhf), elsewhere 1 - 2 / (1 + e^2|x|) with the sign of x; NaN for NaN.
template <class Isa>
PENJING_INLINE typename Vec<Isa>::Floats tanh(typename Vec<Isa>::Floats x) {
  using V = Vec<Isa>;
  const auto one = V::set1(1.0f), two = V::set1(2.0f), zero = V::set1(0.0f);
  const auto magnitude = V::abs(x), square = V::mul(x, x);
  auto p = V::set1(-5.70498872745e-3f);
  p = V::fma(p, square, V::set1(2.06390887954e-2f));
  p = V::fma(p, square, V::set1(-5.37397155531e-2f));
  p = V::fma(p, square, V::set1(1.33314422036e-1f));
  p = V::fma(p, square, V::set1(-3.33332819422e-1f));
  const auto near = V::fma(V::mul(p, square), x, x);
  const auto far = V::sub(one, V::div(two, V::add(one, exp<Isa>(V::mul(two, magnitude)))));
  return V::select_less(magnitude, V::set1(0.625f), near, V::select_less(x, zero, V::sub(zero, far), far));
}

template <class Isa>
void softcap(float* values, float cap, int64_t n) {
  using V = Vec<Isa>;
  const auto limit = V::set1(cap);
  for (int64_t i = 0; i < n; i += kLanes) {
    const auto x = V::div(load_up_to<Isa>(values + i, n - i), limit);
    store_up_to<Isa>(values + i, V::mul(tanh<Isa>(x), limit), n - i);
  }
}

template <class Isa>
void softmax(float* values, int64_t n) {
  using V = Vec<Isa>;
  const float lowest = -__builtin_inff();
  float last[kLanes];  // the values of the last lanes, and behind them those that weigh nothing
  const int64_t whole = n / kLanes * kLanes, rest = n - whole;
  for (int64_t i = 0; i < kLanes; ++i) last[i] = i < rest ? values[whole + i] : lowest;
  auto top = V::load(last);
  for (int64_t i = 0; i < whole; i += kLanes) top = V::max(top, V::load(values + i));
  const auto shift = V::set1(V::max_lane(top));
  const auto weight_of_rest = exp<Isa>(V::sub(V::load(last), shift));
  auto total = weight_of_rest;
  for (int64_t i = 0; i < whole; i += kLanes) {
    const auto weight = exp<Isa>(V::sub(V::load(values + i), shift));
    total = V::add(total, weight);
    V::store(values + i, weight);
  }
  const auto sum = V::set1(V::sum(total));
  for (int64_t i = 0; i < whole; i += kLanes) V::store(values + i, V::div(V::load(values + i), sum));
  if (rest > 0) V::store_partial(values + whole, V::div(weight_of_rest, sum), rest);
}

}  // namespace penjing
