// Paged attention, written once over Vec<Isa>.
//
// Values lie in a page as [kv head][token][head_dim], keys as [kv head][head_dim][token]: scores are then
// computed for sixteen positions at once without a sum across lanes, whatever the head_dim.
#pragma once
#include "elementwise_body.h"
#include "kernels.h"
#include "vec.h"

namespace penjing {

// Where one head's elements and scales begin in a page.
template <class T>
PENJING_INLINE T* page_elements(const KvPlane& plane, int64_t page, int64_t kv_head) {
  return reinterpret_cast<T*>(plane.base + page * plane.page_stride) + kv_head * kPageTokens * plane.head_dim;
}
PENJING_INLINE float* page_scales(const KvPlane& plane, int64_t page, int64_t kv_head) {
  uint8_t* after_codes =
      plane.base + page * plane.page_stride + plane.kv_heads * kPageTokens * plane.head_dim;
  return reinterpret_cast<float*>(after_codes) + kv_head * kPageTokens;
}

template <class T>
PENJING_INLINE void write_element(const KvPlane& plane, T* elements, int64_t slot, int64_t index, T value) {
  elements[plane.transposed ? index * kPageTokens + slot : slot * plane.head_dim + index] = value;
}

// Each vector goes through up to sixteen converted lanes, because its place may be strided.
template <class Isa, class T>
PENJING_INLINE void write_float(const KvPlane& plane, T* elements, int64_t slot, const float* vector) {
  for (int64_t i = 0; i < plane.head_dim; i += kLanes) {
    const int64_t left = plane.head_dim - i, count = left < kLanes ? left : kLanes;
    T lanes[kLanes];
    Vec<Isa>::store(lanes, load_up_to<Isa>(vector + i, left));
    for (int64_t lane = 0; lane < count; ++lane) write_element(plane, elements, slot, i + lane, lanes[lane]);
  }
}

// scale = max|x| / 127; code = round half even(x * (127 / max|x|)). NaN or Inf anywhere makes the scale NaN:
// codes could not carry it on, and whoever attends must not get finite numbers out of it.
template <class Isa>
PENJING_INLINE void write_int8(const KvPlane& plane, int8_t* elements, float* scale, int64_t slot,
                               const float* vector) {
  using V = Vec<Isa>;
  auto largest = V::set1(0.0f), poison = V::set1(0.0f);
  for (int64_t i = 0; i < plane.head_dim; i += kLanes) {
    const auto x = load_up_to<Isa>(vector + i, plane.head_dim - i);
    largest = V::max(largest, V::abs(x));
    poison = V::fma(x, V::set1(0.0f), poison);
  }
  const float magnitude = V::max_lane(largest), bad = V::sum(poison);
  const bool empty = magnitude < 1e-30f;
  *scale = empty ? bad : magnitude / 127.0f + bad;
  const auto inverse = V::set1(empty || bad != bad ? 0.0f : 127.0f / magnitude);
  const auto low = V::set1(int32_t{-127}), high = V::set1(int32_t{127});
  for (int64_t i = 0; i < plane.head_dim; i += kLanes) {
    const int64_t left = plane.head_dim - i, count = left < kLanes ? left : kLanes;
    int8_t lanes[kLanes];
    const auto codes = V::to_ints(V::mul(load_up_to<Isa>(vector + i, left), inverse));
    V::store(lanes, V::min(V::max(codes, low), high));
    for (int64_t lane = 0; lane < count; ++lane) write_element(plane, elements, slot, i + lane, lanes[lane]);
  }
}

template <class Isa>
void write_kv(const KvPlane& plane, int64_t page, int64_t slot, const float* vectors) {
  for (int64_t head = 0; head < plane.kv_heads; ++head) {
    const float* vector = vectors + head * plane.head_dim;
    if (plane.format == Format::int8)
      write_int8<Isa>(plane, page_elements<int8_t>(plane, page, head), page_scales(plane, page, head) + slot,
                      slot, vector);
    else if (plane.format == Format::bf16)
      write_float<Isa>(plane, page_elements<Bf16>(plane, page, head), slot, vector);
    else
      write_float<Isa>(plane, page_elements<float>(plane, page, head), slot, vector);
  }
}

// scores[q][0 .. 31] of kQueries query vectors against one page of keys: dot products, head_dim ascending.
template <class Isa, int kQueries, class T>
PENJING_INLINE void score_page(const T* keys, int64_t head_dim, const float* query, float* scores) {
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
PENJING_INLINE void weigh_page(const T* values, int64_t head_dim, int64_t from, int64_t to,
                               const float* weights, float* sums) {
  constexpr int kVectors = kQueries == 4 ? 2 : 4;  // accumulators that fit the registers
  constexpr int64_t kStride = kVectors * kLanes;
  int64_t i = 0;
  for (; i + kStride <= head_dim; i += kStride)
    weigh_lanes<Isa, kQueries, kVectors>(values + i, head_dim, from, to, kStride, weights, sums + i);
  for (; i < head_dim; i += kLanes)
    weigh_lanes<Isa, kQueries, 1>(values + i, head_dim, from, to, head_dim - i, weights, sums + i);
}

template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

// Calls body(first query, constant number of queries) for blocks of 4, 2 and 1 queries.
template <class Body>
PENJING_INLINE void for_query_blocks(int64_t queries, const Body& body) {
  int64_t q = 0;
  for (; q + 4 <= queries; q += 4) body(q, Count<4>{});
  for (; q + 2 <= queries; q += 2) body(q, Count<2>{});
  for (; q < queries; ++q) body(q, Count<1>{});
}

// Positions [begin, end) between two multiples of kSpanTokens.
struct Span {
  const int32_t* pages;  // of the whole sequence
  int64_t kv_head, begin, end;
};

// Of the scores of one query: their maximum, and the sum of e^(score - maximum).
struct Softmax {
  float largest, sum;
};

template <class Isa, class T>
void score_span(const KvPlane& plane, const Span& span, const float* query, int64_t queries, float scale,
                float* scores) {
  using V = Vec<Isa>;
  for (int64_t index = span.begin / kPageTokens; index * kPageTokens < span.end; ++index) {
    const int64_t page = span.pages[index], column = index * kPageTokens % kSpanTokens;
    const T* keys = page_elements<const T>(plane, page, span.kv_head);
    for_query_blocks(queries, [&](int64_t q, auto count) __attribute__((always_inline)) {
      score_page<Isa, decltype(count)::value>(keys, plane.head_dim, query + q * plane.head_dim,
                                              scores + q * kSpanTokens + column);
    });
    for (int64_t i = 0; i < kPageTokens; i += kLanes) {
      auto factor = V::set1(scale);
      if (plane.format == Format::int8)
        factor = V::mul(factor, V::load(page_scales(plane, page, span.kv_head) + i));
      for (int64_t q = 0; q < queries; ++q) {
        float* score = scores + q * kSpanTokens + column + i;
        V::store(score, V::mul(V::load(score), factor));
      }
    }
  }
}

// Scores to weights e^(score - max), in place, zero outside the span. The sum is over lanes of absolute
// positions, so it does not depend on where a chunk began.
template <class Isa>
Softmax soften_span(const Span& span, float* scores) {
  using V = Vec<Isa>;
  const int64_t origin = span.begin / kSpanTokens * kSpanTokens;
  const int64_t from = span.begin - origin, to = span.end - origin;
  const int64_t first = from / kLanes * kLanes, last = (to + kLanes - 1) / kLanes * kLanes;
  for (int64_t i = first; i < from; ++i) scores[i] = -__builtin_inff();
  for (int64_t i = to; i < last; ++i) scores[i] = -__builtin_inff();
  auto top = V::set1(-__builtin_inff());
  for (int64_t i = first; i < last; i += kLanes) top = V::max(top, V::load(scores + i));
  const float largest = V::max_lane(top);
  const auto shift = V::set1(largest);
  auto total = V::set1(0.0f);
  for (int64_t i = first; i < last; i += kLanes) {
    const auto weight = exp<Isa>(V::sub(V::load(scores + i), shift));
    total = V::add(total, weight);
    V::store(scores + i, weight);
  }
  return {largest, V::sum(total)};
}

template <class Isa, class T>
void weigh_span(const KvPlane& plane, const Span& span, int64_t queries, float* weights, float* sums) {
  using V = Vec<Isa>;
  for (int64_t index = span.begin / kPageTokens; index * kPageTokens < span.end; ++index) {
    const int64_t page = span.pages[index], start = index * kPageTokens, column = start % kSpanTokens;
    if (plane.format == Format::int8) {
      const float* scales = page_scales(plane, page, span.kv_head);
      for (int64_t q = 0; q < queries; ++q)
        for (int64_t i = 0; i < kPageTokens; i += kLanes) {
          float* weight = weights + q * kSpanTokens + column + i;
          V::store(weight, V::mul(V::load(weight), V::load(scales + i)));
        }
    }
    const int64_t from = span.begin > start ? span.begin - start : 0;
    const int64_t to = span.end < start + kPageTokens ? span.end - start : kPageTokens;
    const T* values = page_elements<const T>(plane, page, span.kv_head);
    for_query_blocks(queries, [&](int64_t q, auto count) __attribute__((always_inline)) {
      weigh_page<Isa, decltype(count)::value>(values, plane.head_dim, from, to,
                                              weights + q * kSpanTokens + column, sums + q * plane.head_dim);
    });
  }
}

// out = out * e^(m - top) + span_out * e^(m' - top), the sums likewise; top = max(m, m').
template <class Isa>
void merge_span(const Softmax& span, const float* span_out, int64_t head_dim, Softmax& whole, float* out) {
  using V = Vec<Isa>;
  const float top = whole.largest > span.largest ? whole.largest : span.largest;
  const auto keep = exp<Isa>(V::set1(whole.largest - top)), take = exp<Isa>(V::set1(span.largest - top));
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const auto kept = V::mul(load_up_to<Isa>(out + i, head_dim - i), keep);
    const auto sum = V::fma(load_up_to<Isa>(span_out + i, head_dim - i), take, kept);
    store_up_to<Isa>(out + i, sum, head_dim - i);
  }
  whole = {top, whole.sum * V::max_lane(keep) + span.sum * V::max_lane(take)};
}

template <class Isa>
void attend(const KvPlane& keys, const KvPlane& values, const int32_t* pages, int64_t kv_head, int64_t first,
            int64_t last, const float* query, int64_t queries, float scale, float* scratch, float* out) {
  using V = Vec<Isa>;
  const int64_t head_dim = keys.head_dim;
  float* scores = scratch;
  float* span_out = scores + queries * kSpanTokens;
  auto* whole = reinterpret_cast<Softmax*>(span_out + queries * head_dim);
  auto* part = whole + queries;
  const auto score = keys.format == Format::int8   ? score_span<Isa, int8_t>
                     : keys.format == Format::bf16 ? score_span<Isa, Bf16>
                                                   : score_span<Isa, float>;
  const auto weigh = values.format == Format::int8   ? weigh_span<Isa, int8_t>
                     : values.format == Format::bf16 ? weigh_span<Isa, Bf16>
                                                     : weigh_span<Isa, float>;
  for (int64_t begin = first, end; begin <= last; begin = end) {
    end = (begin / kSpanTokens + 1) * kSpanTokens;
    if (end > last + 1) end = last + 1;
    const Span span{pages, kv_head, begin, end};
    const bool initial = begin == first;
    float* target = initial ? out : span_out;
    score(keys, span, query, queries, scale, scores);
    for (int64_t q = 0; q < queries; ++q)
      (initial ? whole : part)[q] = soften_span<Isa>(span, scores + q * kSpanTokens);
    for (int64_t i = 0; i < queries * head_dim; ++i) target[i] = 0.0f;
    weigh(values, span, queries, scores, target);
    for (int64_t q = 0; q < queries && !initial; ++q)
      merge_span<Isa>(part[q], span_out + q * head_dim, head_dim, whole[q], out + q * head_dim);
  }
  for (int64_t q = 0; q < queries; ++q) {
    float* row = out + q * head_dim;
    const auto sum = V::set1(whole[q].sum);
    for (int64_t i = 0; i < head_dim; i += kLanes)
      store_up_to<Isa>(row + i, V::div(load_up_to<Isa>(row + i, head_dim - i), sum), head_dim - i);
  }
}

}  // namespace penjing
