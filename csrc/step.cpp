// One step of the model: all blocks over a batch of sequences.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "model.h"

namespace penjing {
namespace {

constexpr int64_t kWorthSharing = 1 << 16;  // multiply-adds, some microseconds
constexpr int64_t kTilesTogether = 4;       // row tiles that a kernel likes to run at once

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Exponent bits all ones: NaN or Inf. A loop of integers, so that the compiler takes many at once.
bool all_finite(const float* values, int64_t n) {
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    found |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return found == 0;
}

}  // namespace

void Model::step(const std::vector<StepSequence>& sequences, float* logits) {
  std::lock_guard<std::mutex> lock(mutex_);
  check_sequences(sequences);
  check_pages(sequences);
  if (sequences.empty()) return;
  gather_rows(sequences);
  gather_wanted(sequences);
  nonfinite_ = std::vector<std::atomic<bool>>(sequences.size());

  embed();
  for (size_t index = 0; index < blocks_.size(); ++index) {
    const Block& block = blocks_[index];
    normalize(block.attention_norm, {&block.query.matrix, &block.key.matrix, &block.value.matrix});
    project_heads(block);
    place_heads(index);
    attend(index);
    quantize(attended_);
    add_projection(block.output, attended_);
    normalize(block.feed_forward_norm, {&block.gate.matrix, &block.up.matrix});
    project_gated(block);
    quantize(gated_);
    add_projection(block.down, gated_);
  }
  check_hidden();
  if (!wanted_rows_.empty()) project_logits(logits);
  spread_nonfinite(logits);
}

void Model::gather_rows(const std::vector<StepSequence>& sequences) {
  rows_.clear();
  segments_.clear();
  int64_t positions = 0;
  for (const Tier tier : {Tier::fast, Tier::best}) {
    const auto begin = static_cast<int64_t>(rows_.size());
    for (size_t index = 0; index < sequences.size(); ++index) {
      const StepSequence& sequence = sequences[index];
      if (sequence.tier != tier) continue;
      for (int64_t i = 0; i < sequence.num_tokens; ++i)
        rows_.push_back({&sequence, static_cast<int64_t>(index), sequence.first_position + i});
      positions = std::max(positions, sequence.first_position + sequence.num_tokens);
    }
    const auto end = static_cast<int64_t>(rows_.size());
    if (end > begin) segments_.push_back({tier, begin, end});
  }
  extend_rotations(positions);
}

// Wanted rows stand in the caller's order; a new segment begins wherever the tier changes.
void Model::gather_wanted(const std::vector<StepSequence>& sequences) {
  wanted_rows_.clear();
  wanted_segments_.clear();
  for (size_t index = 0; index < sequences.size(); ++index) {
    const StepSequence& sequence = sequences[index];
    if (sequence.num_wanted == 0) continue;
    const auto begin = static_cast<int64_t>(wanted_rows_.size());
    for (int64_t i = 0; i < sequence.num_wanted; ++i)
      wanted_rows_.push_back(
          {&sequence, static_cast<int64_t>(index), sequence.first_position + sequence.wanted[i]});
    const auto end = static_cast<int64_t>(wanted_rows_.size());
    if (!wanted_segments_.empty() && wanted_segments_.back().tier == sequence.tier)
      wanted_segments_.back().end = end;
    else
      wanted_segments_.push_back({sequence.tier, begin, end});
  }
}

// The angle is rounded to float32 as transformers rounds it; its cosine and sine are then exact to the last
// bit or so. Grown in strides, because a context of 131,072 positions would take 64 MiB.
void Model::extend_rotations(int64_t positions) {
  const int64_t half = shape_.head_dim / 2, known = static_cast<int64_t>(cosines_.size()) / half;
  if (positions <= known) return;
  const int64_t target =
      std::min(std::max(round_up(positions, kSpanTokens), 2 * known), shape_.max_positions);
  cosines_.resize(target * half);
  sines_.resize(target * half);
  for (int64_t position = known; position < target; ++position)
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * shape_.inverse_frequencies[i];
      const int64_t place = position * half + i;
      cosines_[place] = static_cast<float>(std::cos(static_cast<double>(angle))) * shape_.rope_factor;
      sines_[place] = static_cast<float>(std::sin(static_cast<double>(angle))) * shape_.rope_factor;
    }
}

template <class Body>
void Model::share(int64_t count, int64_t work, int64_t multiple, const Body& body) {
  const int64_t fair = count / (pool_.threads() * 4), worth = kWorthSharing / std::max<int64_t>(work, 1);
  const int64_t piece =
      pool_.threads() == 1 ? count : round_up(std::max<int64_t>({fair, worth, 1}), multiple);
  pool_.run((count + piece - 1) / piece, [&](int64_t task, int thread) {
    body(task * piece, std::min((task + 1) * piece, count), thread);
  });
}

void Model::multiply(const Projection& projection, const Activations& input, const Segments& segments,
                     int64_t first, int64_t last, float* out) const {
  const Matrix& matrix = projection.matrix;
  const int64_t stride = matrix.rows, columns = input.columns();
  const auto run = [&](Tier tier, int64_t begin, int64_t end) {
    if (matrix.group_size == 0)
      kernels_.linear_float(matrix, input.row(begin), end - begin, columns, first, last, out + begin * stride,
                            stride);
    else
      kernels_.linear_int(matrix, tier, input.quantized(matrix.group_size, begin), end - begin, first, last,
                          out + begin * stride, stride);
  };
  // Only a layered matrix knows tiers: any other is read once for all rows.
  if (matrix.format == Format::layered)
    for (const Segment& segment : segments) run(segment.tier, segment.begin, segment.end);
  else
    run(Tier::best, 0, segments.back().end);
  if (projection.bias == nullptr) return;
  const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, matrix.rows);
  for (int64_t row = 0; row < segments.back().end; ++row)
    for (int64_t i = from; i < to; ++i) out[row * stride + i] += projection.bias[i];
}

void Model::embed() {
  const int64_t hidden = shape_.hidden_size;
  float* to = hidden_.reserve(rows_.size() * hidden);
  share(rows_.size(), hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) {
      const StepSequence& sequence = *rows_[row].sequence;
      const int32_t token = sequence.tokens[rows_[row].position - sequence.first_position];
      kernels_.dequantize_row(ends_.embedding, sequence.tier, token, to + row * hidden);
    }
  });
}

void Model::normalize(const float* weight, std::initializer_list<const Matrix*> matrices) {
  const int64_t hidden = shape_.hidden_size;
  normed_.prepare(rows_.size(), matrices);
  share(rows_.size(), 8 * hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row)
      kernels_.rms_norm(hidden_.data() + row * hidden, weight, shape_.norm_eps, hidden, normed_.row(row));
    normed_.quantize(kernels_, first, last);
  });
}

void Model::quantize(Activations& activations) {
  if (!activations.has_quantized()) return;
  share(rows_.size(), 8 * activations.columns(), 1,
        [&](int64_t first, int64_t last, int) { activations.quantize(kernels_, first, last); });
}

void Model::project_heads(const Block& block) {
  const auto rows = static_cast<int64_t>(rows_.size());
  const Projection* projections[] = {&block.query, &block.key, &block.value};
  float* outs[] = {query_.reserve(rows * block.query.matrix.rows), key_.reserve(rows * block.key.matrix.rows),
                   value_.reserve(rows * block.value.matrix.rows)};
  int64_t tiles = 0;
  for (const Projection* projection : projections) tiles += projection->matrix.row_tiles();
  const int64_t work = kRowsPerTile * shape_.hidden_size * rows;
  share(tiles, work, kTilesTogether, [&](int64_t first, int64_t last, int) {
    int64_t begin = 0;  // of this matrix among the tiles of all three
    for (int i = 0; i < 3; ++i) {
      const int64_t end = begin + projections[i]->matrix.row_tiles();
      const int64_t from = std::max(first, begin), to = std::min(last, end);
      if (from < to) multiply(*projections[i], normed_, segments_, from - begin, to - begin, outs[i]);
      begin = end;
    }
  });
}

void Model::place_heads(size_t index) {
  const Block& block = blocks_[index];
  const int64_t head_dim = shape_.head_dim, half = head_dim / 2;
  const auto finish = [&](float* heads, int64_t num_heads, const float* norm, int64_t position) {
    for (int64_t head = 0; head < num_heads; ++head) {
      float* vector = heads + head * head_dim;
      if (norm != nullptr) kernels_.rms_norm(vector, norm, shape_.norm_eps, head_dim, vector);
      kernels_.rotate(vector, cosines_.data() + position * half, sines_.data() + position * half, head_dim);
    }
  };
  const int64_t key_size = block.num_kv_heads * head_dim, query_size = block.num_heads * head_dim;
  share(rows_.size(), 8 * (query_size + 2 * key_size), 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t position = rows_[row].position;
      float* key = key_.data() + row * key_size;
      finish(query_.data() + row * query_size, block.num_heads, block.query_norm, position);
      finish(key, block.num_kv_heads, block.key_norm, position);
      const int64_t page = rows_[row].sequence->pages[position / kPageTokens], slot = position % kPageTokens;
      kernels_.write_kv(keys_[index], page, slot, key);
      kernels_.write_kv(values_[index], page, slot, value_.data() + row * key_size);
    }
  });
}

// Pairs of (kv head, row), rows innermost: neighbours read the same keys and values.
void Model::attend(size_t index) {
  const Block& block = blocks_[index];
  const auto rows = static_cast<int64_t>(rows_.size());
  const int64_t head_dim = shape_.head_dim, queries = block.num_heads / block.num_kv_heads;
  const int64_t scratch_size = round_up(queries * (kSpanTokens + head_dim + 4), kRowsPerTile);
  attended_.prepare(rows, {&block.output.matrix});
  float* scratch = attention_scratch_.reserve(pool_.threads() * scratch_size);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  const auto first_seen = [&](int64_t position) {
    return block.sliding_window ? std::max<int64_t>(0, position - block.sliding_window + 1) : 0;
  };
  int64_t seen = 0;
  for (const Row& row : rows_) seen += row.position + 1 - first_seen(row.position);
  const int64_t work = 2 * queries * head_dim * (seen / rows);
  share(rows * block.num_kv_heads, work, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t pair = first; pair < last; ++pair) {
      const int64_t kv_head = pair / rows, row = pair % rows, place = kv_head * queries * head_dim;
      const int64_t position = rows_[row].position;
      kernels_.attend(keys_[index], values_[index], rows_[row].sequence->pages, kv_head, first_seen(position),
                      position, query_.data() + row * attended_.columns() + place, queries, scale,
                      scratch + thread * scratch_size, attended_.row(row) + place);
    }
  });
}

void Model::add_projection(const Projection& projection, const Activations& input) {
  const auto rows = static_cast<int64_t>(rows_.size());
  const int64_t hidden = shape_.hidden_size;
  float* out = projected_.reserve(rows * hidden);
  const int64_t work = kRowsPerTile * input.columns() * rows;
  share(projection.matrix.row_tiles(), work, kTilesTogether, [&](int64_t first, int64_t last, int) {
    multiply(projection, input, segments_, first, last, out);
    const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, hidden);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = row * hidden + from; i < row * hidden + to; ++i) hidden_.data()[i] += out[i];
  });
}

void Model::project_gated(const Block& block) {
  const auto rows = static_cast<int64_t>(rows_.size());
  const int64_t inner = block.intermediate_size;
  gated_.prepare(rows, {&block.down.matrix});
  float* up = up_.reserve(rows * inner);
  const int64_t work = 2 * kRowsPerTile * shape_.hidden_size * rows;
  share(block.gate.matrix.row_tiles(), work, kTilesTogether, [&](int64_t first, int64_t last, int) {
    multiply(block.gate, normed_, segments_, first, last, gated_.row(0));
    multiply(block.up, normed_, segments_, first, last, up);
    const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, inner);
    for (int64_t row = 0; row < rows; ++row) {
      float* gate = gated_.row(row) + from;
      kernels_.silu_multiply(gate, up + row * inner + from, to - from, gate);
    }
  });
}

// Rows whose logits nobody wants have written keys and values, too: a NaN among them must not hide in the
// cache.
void Model::check_hidden() {
  const int64_t hidden = shape_.hidden_size;
  share(rows_.size(), hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row)
      if (!all_finite(hidden_.data() + row * hidden, hidden))
        nonfinite_[rows_[row].sequence_index].store(true, std::memory_order_relaxed);
  });
}

void Model::project_logits(float* logits) {
  const auto wanted = static_cast<int64_t>(wanted_rows_.size());
  const int64_t hidden = shape_.hidden_size;
  // Where each wanted row stands among rows_: rows of a sequence follow one another.
  std::vector<int64_t> first_row;
  for (size_t row = 0; row < rows_.size(); ++row) {
    const auto sequence = static_cast<size_t>(rows_[row].sequence_index);
    if (first_row.size() <= sequence) first_row.resize(sequence + 1);
    if (rows_[row].position == rows_[row].sequence->first_position) first_row[sequence] = row;
  }
  normed_.prepare(wanted, {&ends_.head});
  share(wanted, 8 * hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const Row& row = wanted_rows_[i];
      const int64_t from = first_row[row.sequence_index] + row.position - row.sequence->first_position;
      kernels_.rms_norm(hidden_.data() + from * hidden, ends_.final_norm, shape_.norm_eps, hidden,
                        normed_.row(i));
    }
    normed_.quantize(kernels_, first, last);
  });
  const Projection head{ends_.head, nullptr};
  share(ends_.head.row_tiles(), kRowsPerTile * hidden * wanted, kTilesTogether,
        [&](int64_t first, int64_t last, int) {
          multiply(head, normed_, wanted_segments_, first, last, logits);
          finish_logits(first, last, logits);
        });
}

// Look for NaN and Inf before a mask writes its own.
void Model::finish_logits(int64_t first, int64_t last, float* logits) {
  const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, shape_.vocab_size);
  for (size_t i = 0; i < wanted_rows_.size(); ++i) {
    float* row = logits + i * shape_.vocab_size;
    if (!all_finite(row + from, to - from))
      nonfinite_[wanted_rows_[i].sequence_index].store(true, std::memory_order_relaxed);
    const uint8_t* allowed = wanted_rows_[i].sequence->allowed;
    if (allowed == nullptr) continue;
    for (int64_t token = from; token < to; ++token)
      if (!allowed[token]) row[token] = -std::numeric_limits<float>::infinity();
  }
}

void Model::spread_nonfinite(float* logits) const {
  for (size_t i = 0; i < wanted_rows_.size(); ++i)
    if (nonfinite_[wanted_rows_[i].sequence_index].load(std::memory_order_relaxed))
      std::fill_n(logits + i * shape_.vocab_size, shape_.vocab_size, std::numeric_limits<float>::quiet_NaN());
}

}  // namespace penjing
