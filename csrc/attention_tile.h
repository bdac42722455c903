// What the bodies of attention share: a tile's scratch, and which of its rows see which positions.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace penjing {

constexpr int kDigits = 2;        // of a weight for values of whole numbers
constexpr int64_t kGranule = 64;  // columns of a span whose weights are computed together

// Of the scores of one query: the exponent of 2 that was taken from all of them, and the sum of the weights.
struct Softmax {
  float shift, sum;
};

// What attend_spans leaves of a span. A vector is one query of one row, rows outermost.
struct Part {
  float* out;        // [vectors][head_dim]
  Softmax* softmax;  // [vectors]
};
PENJING_INLINE Part part_at(float* memory, int64_t vectors, int64_t head_dim) {
  return {memory, reinterpret_cast<Softmax*>(memory + vectors * head_dim)};
}

// A tile with its scratch: attention_scratch_floats of kernels.h.
struct Workspace {
  const Attention& attention;
  const AttentionTile& tile;
  int64_t vectors;
  float* scores;          // [vectors][kSpanTokens]; fp32 and bf16 values: then weights
  uint8_t* weights;       // [vectors][kDigits][kSpanTokens], for values of whole numbers
  float* value_scales;    // [kSpanTokens]
  float* key_scales;      // [kPageTokens]
  float* weight_factors;  // [kSpanTokens], of one row
  float* factors;         // [vectors]: what a score is multiplied by
  float* steps;           // [vectors]: of the weights
  int32_t* offsets;       // [vectors]
  int8_t* codes;          // [vectors][stored dimensions of keys], of the queries
  uint8_t* value_bytes;   // [kSpanTokens][stored dimensions]: packed values as bytes
  uint8_t* key_bytes;     // [kPageTokens][stored dimensions]
};

PENJING_INLINE Workspace lay_out(const Attention& attention, const AttentionTile& tile, float* scratch) {
  const int64_t vectors = tile.rows * attention.queries;
  Workspace work{attention, tile, vectors, scratch, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  float* next = scratch + vectors * kSpanTokens;
  const auto take = [&](int64_t floats) __attribute__((always_inline)) { return (next += floats) - floats; };
  work.weights = reinterpret_cast<uint8_t*>(take(vectors * kDigits * kSpanTokens / 4));
  work.value_scales = take(kSpanTokens);
  work.key_scales = take(kPageTokens);
  work.weight_factors = take(kSpanTokens);
  work.factors = take(vectors);
  work.steps = take(vectors);
  work.offsets = reinterpret_cast<int32_t*>(take(vectors));
  work.codes = reinterpret_cast<int8_t*>(take(vectors * attention.keys.stored_dims() / 4));
  // Lines of values are read whole, beyond their last dimension: keys stand behind them.
  next = scratch + (next - scratch + 15) / 16 * 16;
  work.value_bytes = reinterpret_cast<uint8_t*>(take(kSpanTokens * attention.values.stored_dims() / 4));
  work.key_bytes = reinterpret_cast<uint8_t*>(next);
  return work;
}

PENJING_INLINE int64_t first_seen(const Attention& attention, int64_t position) {
  const int64_t first = attention.window ? position - attention.window + 1 : 0;
  return first > 0 ? first : 0;
}

// Rows [first, last) of a tile: those that see something of a span.
struct Rows {
  int64_t first, last;
};
PENJING_INLINE Rows rows_that_see(const Attention& attention, const AttentionTile& tile, int64_t span) {
  const int64_t start = span * kSpanTokens, first = start - tile.position;
  const int64_t last = start + kSpanTokens + attention.window - 1 - tile.position;
  return {first > 0 ? first : 0, attention.window && last < tile.rows ? last : tile.rows};
}

// Pages [first, last) of the sequence: those of a span that some row sees. The tile ends at `end`.
struct SpanPages {
  const int32_t* pages;
  int64_t kv_head, start, first, last, end;  // start: the span's first position
};
PENJING_INLINE SpanPages pages_of(const Attention& attention, const AttentionTile& tile, const Rows& rows,
                                  int64_t span) {
  const int64_t start = span * kSpanTokens, from = first_seen(attention, tile.position + rows.first);
  const int64_t to = tile.position + rows.last, full = start + kSpanTokens;
  return {tile.pages,
          tile.kv_head,
          start,
          (from > start ? from : start) / kPageTokens,
          ((to < full ? to : full) + kPageTokens - 1) / kPageTokens,
          (tile.position + tile.rows - 1) / kPageTokens + 1};
}

// Columns of a span: [first, last) are those of its pages, [from, to) those that a row sees.
struct Columns {
  int64_t first, from, to, last;
};
PENJING_INLINE Columns columns_of(const Attention& attention, const SpanPages& span, int64_t position) {
  const int64_t from = first_seen(attention, position) - span.start, to = position + 1 - span.start;
  return {span.first * kPageTokens - span.start, from > 0 ? from : 0, to < kSpanTokens ? to : kSpanTokens,
          span.last * kPageTokens - span.start};
}

template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

// Calls body(first query, constant number of queries) for blocks of kMost, then half of that, and so on.
template <int kMost, class Body>
PENJING_INLINE void for_query_blocks(int64_t begin, int64_t end, const Body& body) {
  for (; begin + kMost <= end; begin += kMost) body(begin, Count<kMost>{});
  if constexpr (kMost > 1) for_query_blocks<kMost / 2>(begin, end, body);
}

}  // namespace penjing
