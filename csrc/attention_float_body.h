// Attention over fp32 and bf16 keys and values: the reference that int8 is measured against.
#pragma once
#include "attention_tile.h"
#include "kv_write_body.h"

namespace penjing {

// scores[q][0 .. 31] of kQueries query vectors against one page of keys: dot products, head_dim ascending.
template <class Isa, int kQueries, class T>
PENJING_INLINE void score_floats(const T* keys, int64_t head_dim, const float* query, float* scores) {
  using V = Vec<Isa>;
  typename V::Floats first[kQueries], second[kQueries];
  for (int q = 0; q < kQueries; ++q) first[q] = second[q] = V::set1(0.0f);
  for (int64_t i = 0; i < head_dim; ++i) {
    const auto a = V::load(keys + i * kPageTokens), b = V::load(keys + i * kPageTokens + kLanes);
    for (int q = 0; q < kQueries; ++q) {
      const auto x = V::set1(query[q * head_dim + i]);
      first[q] = V::fma(a, x, first[q]);
      second[q] = V::fma(b, x, second[q]);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    V::store(scores + q * kSpanTokens, first[q]);
    V::store(scores + q * kSpanTokens + kLanes, second[q]);
  }
}

// sums[q][i ..] += weights[q][slot] * values[slot][i ..] for slots in [from, to), ascending; kVectors x 16
// lanes of which `left` exist (all of them, if kVectors > 1).
template <class Isa, int kQueries, int kVectors, class T>
PENJING_INLINE void weigh_lanes(const T* values, int64_t head_dim, int64_t from, int64_t to, int64_t left,
                                const float* weights, float* sums) {
  using V = Vec<Isa>;
  typename V::Floats sum[kQueries][kVectors];
  for (int q = 0; q < kQueries; ++q)
    for (int v = 0; v < kVectors; ++v)
      sum[q][v] = load_up_to<Isa>(sums + q * head_dim + v * kLanes, left - v * kLanes);
  for (int64_t slot = from; slot < to; ++slot) {
    typename V::Floats x[kVectors];
    for (int v = 0; v < kVectors; ++v)
      x[v] = load_up_to<Isa>(values + slot * head_dim + v * kLanes, left - v * kLanes);
    for (int q = 0; q < kQueries; ++q) {
      const auto weight = V::set1(weights[q * kSpanTokens + slot]);
      for (int v = 0; v < kVectors; ++v) sum[q][v] = V::fma(weight, x[v], sum[q][v]);
    }
  }
  for (int q = 0; q < kQueries; ++q)
    for (int v = 0; v < kVectors; ++v)
      store_up_to<Isa>(sums + q * head_dim + v * kLanes, sum[q][v], left - v * kLanes);
}

template <class Isa, int kQueries, class T>
PENJING_INLINE void weigh_floats(const T* values, int64_t head_dim, int64_t from, int64_t to,
                                 const float* weights, float* sums) {
  constexpr int kVectors = kQueries == 4 ? 2 : 4;  // accumulators that fit the registers
  constexpr int64_t kStride = kVectors * kLanes;
  int64_t i = 0;
  for (; i + kStride <= head_dim; i += kStride)
    weigh_lanes<Isa, kQueries, kVectors>(values + i, head_dim, from, to, kStride, weights, sums + i);
  for (; i < head_dim; i += kLanes)
    weigh_lanes<Isa, kQueries, 1>(values + i, head_dim, from, to, head_dim - i, weights, sums + i);
}

template <class Isa, class T>
void score_span_floats(const Workspace& work, const SpanPages& span, const Rows& rows) {
  const int64_t head_dim = work.attention.keys.head_dim, queries = work.attention.queries;
  for (int64_t index = span.first; index < span.last; ++index) {
    const T* keys = page_elements<const T>(work.attention.keys, span.pages[index], span.kv_head);
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const float* query = work.tile.query + row * work.tile.stride;
      float* scores = work.scores + row * queries * kSpanTokens + index * kPageTokens - span.start;
      for_query_blocks<4>(0, queries, [&](int64_t q, auto count) __attribute__((always_inline)) {
        score_floats<Isa, decltype(count)::value>(keys, head_dim, query + q * head_dim,
                                                  scores + q * kSpanTokens);
      });
    }
  }
}

// Scores to weights 2^(score * exponent - shift), in place; returns their sum. It is over lanes of absolute
// positions, so it does not depend on where a chunk began.
template <class Isa>
float soften(float* scores, const Columns& columns, float exponent, float shift) {
  using V = Vec<Isa>;
  const auto slope = V::set1(exponent), offset = V::set1(-shift);
  auto total = V::set1(0.0f);
  for (int64_t i = columns.from / kLanes * kLanes; i < columns.to; i += kLanes) {
    const auto weight = exp2_to_one<Isa>(V::fma(V::load(scores + i), slope, offset));
    total = V::add(total, weight);
    V::store(scores + i, weight);
  }
  return V::sum(total);
}

// Each row sees other positions, so rows go one by one.
template <class Isa, class T>
void weigh_span_floats(const Workspace& work, const SpanPages& span, const Rows& rows, float* out) {
  const int64_t head_dim = work.attention.values.head_dim, queries = work.attention.queries;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const Columns columns = columns_of(work.attention, span, work.tile.position + row);
    const float* weights = work.scores + row * queries * kSpanTokens;
    float* target = out + row * queries * head_dim;
    for (int64_t i = 0; i < queries * head_dim; ++i) target[i] = 0.0f;
    for (int64_t index = span.first; index < span.last; ++index) {
      const int64_t column = index * kPageTokens - span.start;
      const int64_t from = columns.from > column ? columns.from - column : 0;
      const int64_t to = columns.to < column + kPageTokens ? columns.to - column : kPageTokens;
      const T* values = page_elements<const T>(work.attention.values, span.pages[index], span.kv_head);
      for_query_blocks<4>(0, queries, [&](int64_t q, auto count) __attribute__((always_inline)) {
        weigh_floats<Isa, decltype(count)::value>(values, head_dim, from, to,
                                                  weights + q * kSpanTokens + column, target + q * head_dim);
      });
    }
  }
}

}  // namespace penjing
