// Paged attention in tiles of rows and spans of positions: attend, attend_spans and merge_spans of kernels.h.
//
// For a span, a tile reads each page of keys and values once for a few queries, after the first few from the
// nearest cache; scores and weights of the span lie in scratch.
#pragma once
#include "attention_float_body.h"
#include "attention_int_body.h"

namespace penjing {

template <class Isa>
void prepare_queries(const Workspace& work) {
  const int64_t head_dim = work.attention.keys.head_dim, queries = work.attention.queries;
  const KvPlane& keys = work.attention.keys;
  for (int64_t vector = 0; vector < work.vectors; ++vector) {
    const float* query = work.tile.query + vector / queries * work.tile.stride + vector % queries * head_dim;
    float step = 1.0f;
    int8_t* codes = work.codes + vector * keys.stored_dims();
    if (keys.is_integer()) step = quantize_query<Isa>(keys, query, codes, work.offsets + vector);
    // All scores of a query of zeros are zero: a factor that is not keeps minus infinity what it is.
    work.factors[vector] = step == 0.0f ? 1.0f : step * work.attention.scale;
  }
}

// Scores to softcap * tanh(score * factor / softcap).
template <class Isa>
void cap_scores(float* scores, int64_t from, int64_t to, float factor, float softcap) {
  using V = Vec<Isa>;
  const auto inner = V::set1(factor / softcap), outer = V::set1(softcap);
  for (int64_t i = from / kLanes * kLanes; i < to; i += kLanes)
    V::store(scores + i, V::mul(outer, tanh<Isa>(V::mul(V::load(scores + i), inner))));
}

// The exponent of 2 for a score of one.
PENJING_INLINE float exponent_of(const Workspace& work, int64_t vector) {
  constexpr float kLog2e = 1.44269504f;
  return work.attention.softcap > 0.0f ? kLog2e : work.factors[vector] * kLog2e;
}

// max(score) * exponent over the columns that a row sees; other scores of the same granules become minus
// infinity.
template <class Isa>
PENJING_INLINE float shift_of(float* scores, const Columns& columns, float exponent) {
  using V = Vec<Isa>;
  const int64_t first = columns.from / kGranule * kGranule;
  const int64_t last = (columns.to + kGranule - 1) / kGranule * kGranule;
  for (int64_t i = first; i < columns.from; ++i) scores[i] = -__builtin_inff();
  for (int64_t i = columns.to; i < last; ++i) scores[i] = -__builtin_inff();
  auto top = V::set1(-__builtin_inff());
  for (int64_t i = first; i < last; i += kLanes) top = V::max(top, V::load(scores + i));
  return V::max_lane(top) * exponent;
}

// Scores of one row to weights, and for values of whole numbers to their codes.
template <class Isa>
void soften_row(const Workspace& work, int64_t row, const Columns& columns, Softmax* softmax) {
  const Attention& attention = work.attention;
  const int64_t first = row * attention.queries, last = first + attention.queries;
  for (int64_t q = first; q < last; ++q) {
    float* scores = work.scores + q * kSpanTokens;
    if (attention.softcap > 0.0f)
      cap_scores<Isa>(scores, columns.from, columns.to, work.factors[q], attention.softcap);
    softmax[q].shift = shift_of<Isa>(scores, columns, exponent_of(work, q));
  }
  if (!attention.values.is_integer()) {
    for (int64_t q = first; q < last; ++q)
      softmax[q].sum =
          soften<Isa>(work.scores + q * kSpanTokens, columns, exponent_of(work, q), softmax[q].shift);
    return;
  }
  const float step = prepare_weights<Isa>(work.value_scales, columns, work.weight_factors);
  for (int64_t q = first; q < last; ++q) {
    softmax[q].sum = soften_to_codes<Isa>(work.scores + q * kSpanTokens, work.weight_factors, columns,
                                          exponent_of(work, q), softmax[q].shift,
                                          work.weights + q * kDigits * kSpanTokens);
    work.steps[q] = step;
  }
}

template <class Isa>
void attend_span(const Workspace& work, int64_t index, const Part& part) {
  const Attention& attention = work.attention;
  const Rows rows = rows_that_see(attention, work.tile, index);
  const SpanPages span = pages_of(attention, work.tile, rows, index);
  const KvPlane &keys = attention.keys, &values = attention.values;
  (keys.is_integer()               ? score_span_codes<Isa>
   : keys.format == KvFormat::bf16 ? score_span_floats<Isa, Bf16>
                                   : score_span_floats<Isa, float>)(work, span, rows);
  SpanValues gathered{};
  if (values.is_integer()) gathered = gather_values<Isa>(work, span);
  for (int64_t row = rows.first; row < rows.last; ++row)
    soften_row<Isa>(work, row, columns_of(attention, span, work.tile.position + row), part.softmax);
  if (values.is_integer())
    weigh_span_codes<Isa>(work, gathered, span, rows, part.out);
  else
    (values.format == KvFormat::bf16 ? weigh_span_floats<Isa, Bf16>
                                     : weigh_span_floats<Isa, float>)(work, span, rows, part.out);
}

// out = out * 2^(shift - top) + part_out * 2^(shift' - top), the sums likewise; top = max(shift, shift').
template <class Isa>
void merge_part(const Softmax& part, const float* part_out, int64_t head_dim, bool is_first, Softmax& whole,
                float* out) {
  using V = Vec<Isa>;
  const float top = is_first || !(whole.shift > part.shift) ? part.shift : whole.shift;
  const auto keep = is_first ? V::set1(0.0f) : exp2_to_one<Isa>(V::set1(whole.shift - top));
  const auto take = exp2_to_one<Isa>(V::set1(part.shift - top));
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const int64_t left = head_dim - i;
    const auto kept = is_first ? V::set1(0.0f) : V::mul(load_up_to<Isa>(out + i, left), keep);
    store_up_to<Isa>(out + i, V::fma(load_up_to<Isa>(part_out + i, left), take, kept), left);
  }
  const float kept = is_first ? 0.0f : whole.sum * V::max_lane(keep);
  whole = {top, kept + part.sum * V::max_lane(take)};
}

template <class Isa>
void divide(float* out, int64_t head_dim, float sum) {
  using V = Vec<Isa>;
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const auto quotient = V::div(load_up_to<Isa>(out + i, head_dim - i), V::set1(sum));
    store_up_to<Isa>(out + i, quotient, head_dim - i);
  }
}

PENJING_INLINE float* out_of(const Attention& attention, const AttentionTile& tile, int64_t vector) {
  return tile.out + vector / attention.queries * tile.stride +
         vector % attention.queries * attention.keys.head_dim;
}

template <class Isa>
void attend(const Attention& attention, const AttentionTile& tile, float* scratch) {
  const int64_t head_dim = attention.keys.head_dim, queries = attention.queries;
  const int64_t vectors = tile.rows * queries, end = end_span(tile);
  float* end_of_scratch = scratch + attention_scratch_floats(vectors, head_dim);
  auto* whole = reinterpret_cast<Softmax*>(end_of_scratch) - vectors;
  const Part part = part_at(end_of_scratch - 2 * vectors - part_floats(vectors, head_dim), vectors, head_dim);
  const Workspace work = lay_out(attention, tile, scratch);
  prepare_queries<Isa>(work);
  for (int64_t span = first_span(attention, tile); span < end; ++span) {
    attend_span<Isa>(work, span, part);
    const Rows rows = rows_that_see(attention, tile, span);
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const bool is_first = span == first_seen(attention, tile.position + row) / kSpanTokens;
      for (int64_t vector = row * queries; vector < (row + 1) * queries; ++vector)
        merge_part<Isa>(part.softmax[vector], part.out + vector * head_dim, head_dim, is_first, whole[vector],
                        out_of(attention, tile, vector));
    }
  }
  for (int64_t vector = 0; vector < vectors; ++vector)
    divide<Isa>(out_of(attention, tile, vector), head_dim, whole[vector].sum);
}

template <class Isa>
void attend_spans(const Attention& attention, const AttentionTile& tile, int64_t first, int64_t last,
                  float* scratch, float* parts) {
  const int64_t head_dim = attention.keys.head_dim, vectors = tile.rows * attention.queries;
  const Workspace work = lay_out(attention, tile, scratch);
  prepare_queries<Isa>(work);
  for (int64_t span = first; span < last; ++span, parts += part_floats(vectors, head_dim))
    attend_span<Isa>(work, span, part_at(parts, vectors, head_dim));
}

template <class Isa>
void merge_spans(const Attention& attention, const AttentionTile& tile, const float* parts) {
  const int64_t head_dim = attention.keys.head_dim, vectors = tile.rows * attention.queries;
  const int64_t begin = first_span(attention, tile);
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const int64_t position = tile.position + vector / attention.queries;
    const int64_t first = first_seen(attention, position) / kSpanTokens;
    float* out = out_of(attention, tile, vector);
    Softmax whole{};
    for (int64_t span = first; span <= position / kSpanTokens; ++span) {
      const float* part = parts + (span - begin) * part_floats(vectors, head_dim);
      const auto* softmax = reinterpret_cast<const Softmax*>(part + vectors * head_dim);
      merge_part<Isa>(softmax[vector], part + vector * head_dim, head_dim, span == first, whole, out);
    }
    divide<Isa>(out, head_dim, whole.sum);
  }
}

}  // namespace penjing
