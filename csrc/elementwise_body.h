// Norm, rotation and gating, written once over Vec<Isa>. Each element's result is the same wherever it stands
// in a call, so that a caller may cut a row anywhere (rms_norm excepted: it sums the whole row).
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
void rotate(float* head, const float* cosine, const float* sine, int64_t head_dim) {
  using V = Vec<Isa>;
  const int64_t half = head_dim / 2;
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

}  // namespace penjing
