// Attention over keys and values of 8 bits and fewer in whole numbers: exact in int32, whatever the order.
//
// An instruction multiplies sixteen tokens of a page by four dimensions of a query, or sixteen dimensions of
// a value by the weights of four tokens. A query has one digit: enough, if it is mixed as its keys are.
// A weight has two, with one step a span: one digit would need a step for every page, which costs as much
// (docs/log.md). Packed codes become bytes first: keys a page at a time, values a span at a time.
#pragma once
#include "attention_tile.h"
#include "kv_read_body.h"

namespace penjing {

constexpr int32_t kWeightLevels = 65535;

// Queries and vectors of sixteen dimensions at once: accumulators that fit the registers.
template <class Isa>
struct AttentionBlocking {
  static constexpr int score_queries = 2, weigh_queries = 1, weigh_vectors = 2;
};
template <>
struct AttentionBlocking<Avx512> {
  static constexpr int score_queries = 8, weigh_queries = 2, weigh_vectors = 4;
};

// Codes of a query that is mixed as keys are, zero in their padding; offset takes back out what was added to
// each key code. Returns the factor of query . key: 0 for a query of zeros, NaN if anything is not finite.
template <class Isa>
float quantize_query(const KvPlane& keys, const float* query, int8_t* codes, int32_t* offset) {
  const int64_t head_dim = keys.head_dim;
  float mixed[kMostHeadDim];
  mix<Isa>(query, head_dim, mixed);
  for (int64_t i = head_dim; i < keys.stored_dims(); ++i) codes[i] = 0;
  int32_t sum = 0;
  const float scale = quantize_vector<Isa>(
      mixed, head_dim, [&](int64_t i, int64_t count, const int8_t* lanes) __attribute__((always_inline)) {
        for (int64_t lane = 0; lane < count; ++lane) {
          codes[i + lane] = lanes[lane];
          sum += lanes[lane];
        }
      });
  *offset = -key_offset(keys) * sum;
  return scale / static_cast<float>(mixed_together(head_dim));
}

// scores[q][0 .. 31] = (query . key) * key scale for one page of keys. What begins at `next` is fetched on the
// way, line by line: all at once, it would hold up the keys.
template <class Isa, int kQueries>
PENJING_INLINE void score_codes(const uint8_t* keys, const float* key_scales, int64_t padded,
                                const int8_t* codes, const int32_t* offsets, const uint8_t* next,
                                int64_t next_bytes, float* scores) {
  using V = Vec<Isa>;
  typename V::Ints sum[kQueries][2];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) sum[q][0] = sum[q][1] = V::set1(offsets[q]);
  for (int64_t i = 0; i < padded; i += 4) {
    const auto first = V::load_bytes(keys + i * kPageTokens);
    const auto second = V::load_bytes(keys + i * kPageTokens + 64);
    if (i * kPageTokens < next_bytes) {
      __builtin_prefetch(next + i * kPageTokens, 0, 2);
      __builtin_prefetch(next + i * kPageTokens + 64, 0, 2);
    }
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      const auto quad = V::load_signed_quad(codes + q * padded + i);
      sum[q][0] = V::dot_unsigned(sum[q][0], first, quad);
      sum[q][1] = V::dot_unsigned(sum[q][1], second, quad);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
      V::store(scores + q * kSpanTokens + half * kLanes,
               V::mul(V::to_float(sum[q][half]), V::load(key_scales + half * kLanes)));
}

// Scores of a span; only what a row sees is of any use. The values of the same pages are fetched on the way.
template <class Isa>
void score_span_codes(const Workspace& work, const SpanPages& span, const Rows& rows) {
  const Attention& attention = work.attention;
  const int64_t padded = attention.keys.stored_dims(), first = rows.first * attention.queries;
  for (int64_t index = span.first; index < span.last; ++index) {
    const int64_t page = span.pages[index], column = index * kPageTokens - span.start;
    const auto* values = page_elements<const uint8_t>(attention.values, page, span.kv_head);
    const uint8_t* keys = page_codes<Isa>(attention.keys, page, span.kv_head, work.key_bytes);
    load_scales<Isa>(attention.keys, page, span.kv_head, work.key_scales);
    for_query_blocks<AttentionBlocking<Isa>::score_queries>(
        first, rows.last * attention.queries, [&](int64_t q, auto count) __attribute__((always_inline)) {
          score_codes<Isa, decltype(count)::value>(
              keys, work.key_scales, padded, work.codes + q * padded, work.offsets + q, values,
              q == first ? attention.values.head_bytes() : 0, work.scores + q * kSpanTokens + column);
        });
  }
}

// The codes of a span's values, page by page, and their scales.
struct SpanValues {
  const uint8_t* pages[kSpanTokens / kPageTokens];
};
template <class Isa>
SpanValues gather_values(const Workspace& work, const SpanPages& span) {
  const KvPlane& values = work.attention.values;
  SpanValues gathered;
  for (int64_t index = span.first; index < span.last; ++index) {
    const int64_t column = index * kPageTokens - span.start, page = span.pages[index];
    gathered.pages[column / kPageTokens] =
        page_codes<Isa>(values, page, span.kv_head, work.value_bytes + column * values.stored_dims());
    load_scales<Isa>(values, page, span.kv_head, work.value_scales + column);
  }
  return gathered;
}

// What turns a weight into a code, for every column of the granules that a row sees: its value's scale over
// the step, which is returned; zero for what the row does not see. The step is NaN if a scale is.
template <class Isa>
float prepare_weights(const float* value_scales, const Columns& columns, float* factors) {
  using V = Vec<Isa>;
  const float largest = largest_magnitude<Isa>(value_scales + columns.from, columns.to - columns.from);
  const bool empty = largest < 1e-30f;
  const int64_t first = columns.from / kGranule * kGranule;
  const int64_t last = (columns.to + kGranule - 1) / kGranule * kGranule;
  const auto inverse = V::set1(empty ? 0.0f : kWeightLevels / largest);
  for (int64_t i = first; i < last; i += kLanes)
    V::store(factors + i, V::mul(V::load(value_scales + i), inverse));
  for (int64_t i = first; i < columns.from; ++i) factors[i] = 0.0f;
  for (int64_t i = columns.to; i < last; ++i) factors[i] = 0.0f;
  return empty ? 0.0f : largest / kWeightLevels;
}

// Weights 2^(score * exponent - shift) times factors, as codes [kDigits][kSpanTokens], zero in pages that the
// row does not see; returns the sum of the weights.
template <class Isa>
float soften_to_codes(const float* scores, const float* factors, const Columns& columns, float exponent,
                      float shift, uint8_t* codes) {
  using V = Vec<Isa>;
  const auto slope = V::set1(exponent), offset = V::set1(-shift);
  auto total = V::set1(0.0f);
  for (int64_t i = columns.first / kGranule * kGranule; i < columns.last; i += kGranule) {
    typename V::Ints code[4];
    const bool is_seen = i + kGranule > columns.from && i < columns.to;
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
      code[j] = V::set1(int32_t{0});
      if (!is_seen) continue;
      const int64_t column = i + j * kLanes;
      const auto weight = exp2_to_one<Isa>(V::fma(V::load(scores + column), slope, offset));
      total = V::add(total, weight);
      code[j] = V::to_ints(V::mul(weight, V::load(factors + column)));
    }
    V::store_digits(codes + i, codes + kSpanTokens + i, code[0], code[1], code[2], code[3]);
  }
  return V::sum(total);
}

// What to fetch of a page: number `part` of `parts` equal parts. Every pass over a span fetches its part of
// what comes next, so that memory is read all the time.
struct Ahead {
  const KvPlane& plane;
  int64_t part, parts;
};
PENJING_INLINE void fetch(const Ahead& ahead, int64_t page, int64_t kv_head) {
  const auto* bytes = page_elements<const uint8_t>(ahead.plane, page, kv_head);
  const int64_t lines = (ahead.plane.head_bytes() + 63) / 64, last = lines * (ahead.part + 1) / ahead.parts;
  for (int64_t line = lines * ahead.part / ahead.parts; line < last; ++line)
    __builtin_prefetch(bytes + 64 * line, 0, 2);
}

// out[q][i ..] = sum of weight * value over the pages of a span; kVectors x 16 dimensions of which `left`
// exist. The keys of the next span are fetched on the way.
template <class Isa, int kQueries, int kVectors>
PENJING_INLINE void weigh_codes(const KvPlane& plane, const SpanValues& values, const SpanPages& span,
                                const Ahead& ahead, int64_t i, int64_t left, const uint8_t* codes,
                                const float* steps, float* out) {
  using V = Vec<Isa>;
  const int64_t head_dim = plane.head_dim, stride = 4 * plane.stored_dims();
  typename V::Ints sum[kQueries][kDigits][kVectors];
  for (auto& query : sum)
    for (auto& digit : query)
      for (auto& vector : digit) vector = V::set1(int32_t{0});
  for (int64_t index = span.first; index < span.last; ++index) {
    const int64_t column = index * kPageTokens - span.start, later = index + kSpanTokens / kPageTokens;
    if (later < span.end) fetch(ahead, span.pages[later], span.kv_head);
    const uint8_t* place = values.pages[column / kPageTokens] + 4 * i;
#pragma GCC unroll 2
    for (int64_t slot = 0; slot < kPageTokens; slot += 4, place += stride) {
      const int64_t quad_place = (column + slot) / 64 * 64 + 4 * V::place_of_quad((column + slot) / 4 % 16);
      typename V::Bytes value[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) value[v] = V::load_bytes(place + 64 * v);
#pragma GCC unroll 4
      for (int q = 0; q < kQueries; ++q)
#pragma GCC unroll 2
        for (int digit = 0; digit < kDigits; ++digit) {
          const uint8_t* digits = codes + (q * kDigits + digit) * kSpanTokens;
          const auto quad = V::load_unsigned_quad(digits + quad_place);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v)
            sum[q][digit][v] = V::dot_signed(sum[q][digit][v], value[v], quad);
        }
    }
  }
  for (int q = 0; q < kQueries; ++q)
    for (int v = 0; v < kVectors; ++v) {
      const auto total = V::add(V::template shift_left<8>(sum[q][0][v]), sum[q][1][v]);
      const auto product = V::mul(V::to_float(total), V::set1(steps[q]));
      store_up_to<Isa>(out + q * head_dim + v * kLanes, product, left - v * kLanes);
    }
}

template <class Isa>
void weigh_span_codes(const Workspace& work, const SpanValues& values, const SpanPages& span,
                      const Rows& rows, float* out) {
  using Size = AttentionBlocking<Isa>;
  const Attention& attention = work.attention;
  const int64_t head_dim = attention.values.head_dim, stride = Size::weigh_vectors * kLanes;
  const int64_t first = rows.first * attention.queries, last = rows.last * attention.queries;
  const int64_t blocks = (last - first + Size::weigh_queries - 1) / Size::weigh_queries;
  for_query_blocks<Size::weigh_queries>(
      first, last, [&](int64_t q, auto count) __attribute__((always_inline)) {
        constexpr int kQueries = decltype(count)::value;
        const Ahead keys{attention.keys, (q - first) / Size::weigh_queries, blocks};
        const uint8_t* codes = work.weights + q * kDigits * kSpanTokens;
        float* target = out + q * head_dim;
        int64_t i = 0;
        for (; i + stride <= head_dim; i += stride)
          weigh_codes<Isa, kQueries, Size::weigh_vectors>(attention.values, values, span, keys, i, stride,
                                                          codes, work.steps + q, target + i);
        for (; i < head_dim; i += kLanes)
          weigh_codes<Isa, kQueries, 1>(attention.values, values, span, keys, i, head_dim - i, codes,
                                        work.steps + q, target + i);
      });
}

}  // namespace penjing
