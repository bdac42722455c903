// One step of the model: all blocks over a batch of sequences.
#include <algorithm>
#include <cstring>
#include <limits>

#include "share.h"

namespace penjing {
namespace {

constexpr int64_t kRowsWorthChunks = 48;    // rows a thread from which on chunks pay
constexpr int64_t kRowsOfChunk = 36;        // enough for a matrix to be read once a chunk
constexpr int64_t kMostRowsOfChunk = 120;   // activations still fit a level-2 cache

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

  if (static_cast<int64_t>(rows_.size()) >= kRowsWorthChunks * pool_.threads())
    run_in_chunks();
  else
    run_together();
  if (!wanted_rows_.empty()) project_logits(logits);
  spread_nonfinite(logits);
}

// Few rows: all threads share the row tiles of each matrix, which are read once.
void Model::run_together() {
  whole_.first = 0;
  whole_.count = rows_.size();
  whole_.segments = segments_;
  embed(whole_);
  for (size_t index = 0; index < blocks_.size(); ++index) {
    enter(index, whole_);
    finish_attention(index, whole_);
    feed_forward(blocks_[index], whole_);
  }
  check_hidden(whole_);
}

// Many rows: each thread takes chunks of them through everything between one attention and the next, so that
// activations stay in its caches and threads meet once a block, when all keys and values are in their pages.
void Model::run_in_chunks() {
  const int64_t rows = rows_.size(), threads = pool_.threads();
  const int64_t wanted = std::clamp(rows / kRowsOfChunk, threads, 4 * threads);
  const int64_t most = std::min(kMostRowsOfChunk, (rows + wanted - 1) / wanted);
  Segments pieces;
  for (const Segment& segment : segments_)
    for (int64_t begin = segment.begin; begin < segment.end; begin += most)
      pieces.push_back({segment.tier, begin, std::min(begin + most, segment.end)});
  chunks_.resize(threads);
  const auto pass = [&](const auto& body) {
    pool_.run(pieces.size(), [&](int64_t task, int thread) {
      const Segment& piece = pieces[task];
      Portion& chunk = chunks_[thread];
      chunk.thread = thread;
      chunk.first = piece.begin;
      chunk.count = piece.end - piece.begin;
      chunk.segments.assign(1, {piece.tier, 0, chunk.count});
      body(chunk);
    });
  };
  pass([&](Portion& chunk) {
    embed(chunk);
    enter(0, chunk);
  });
  const auto go_on = [&](size_t index, Portion& chunk) {
    if (index + 1 < blocks_.size())
      enter(index + 1, chunk);
    else
      check_hidden(chunk);
  };
  whole_.first = 0;
  whole_.count = rows;
  whole_.segments = segments_;
  for (size_t index = 0; index < blocks_.size(); ++index) {
    // A chunk has too few rows for each of many experts: all chunks together read an expert once.
    const Block& block = blocks_[index];
    pass([&](Portion& chunk) {
      finish_attention(index, chunk);
      if (block.has_experts()) return;
      feed_forward(block, chunk);
      go_on(index, chunk);
    });
    if (!block.has_experts()) continue;
    feed_forward(block, whole_);
    pass([&](Portion& chunk) { go_on(index, chunk); });
  }
}

// A block up to its keys and values, which others may attend to.
void Model::enter(size_t index, Portion& portion) {
  const Block& block = blocks_[index];
  normalize(portion, block.attention_norm, {&block.query.matrix, &block.key.matrix, &block.value.matrix});
  project_heads(portion, block);
  place_heads(portion, index);
}

void Model::finish_attention(size_t index, Portion& portion) {
  const Block& block = blocks_[index];
  attend(portion, index);
  quantize(portion, portion.segments, portion.attended);
  add_projection(portion, block.output, portion.attended, block.post_attention_norm);
}

void Model::feed_forward(const Block& block, Portion& portion) {
  if (block.has_experts()) {
    normalize(portion, block.feed_forward_norm, {&block.router.matrix});
    route(portion, block);
    gather(portion, block);
    project_experts(portion, block);
    add_experts(portion, block);
    return;
  }
  const FeedForward& weights = block.feed_forwards.front();
  normalize(portion, block.feed_forward_norm, {&weights.gate.matrix, &weights.up.matrix});
  project_gated(portion, block);
  quantize(portion, portion.segments, portion.gated);
  add_projection(portion, weights.down, portion.gated, block.post_feed_forward_norm);
}

void Model::multiply(const Projection& projection, const Activations& input, const Segments& segments,
                     int64_t first, int64_t last, float* out) const {
  const Matrix& matrix = projection.matrix;
  const int64_t stride = matrix.rows, columns = input.columns();
  const auto run = [&](Tier tier, int64_t begin, int64_t end) {
    if (!matrix.is_integer())
      kernels_.linear_float(matrix, input.row(begin), end - begin, columns, first, last, out + begin * stride,
                            stride);
    else
      kernels_.linear_int(matrix, tier, input.quantized(matrix.group_size, begin), end - begin, first, last,
                          out + begin * stride, stride);
  };
  for (const Segment& segment : segments) run(segment.tier, segment.begin, segment.end);
  if (projection.bias.values == nullptr) return;
  const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, matrix.rows);
  for (const Segment& segment : segments) {
    const float* bias = projection.bias.at(segment.tier);
    for (int64_t row = segment.begin; row < segment.end; ++row)
      for (int64_t i = from; i < to; ++i) out[row * stride + i] += bias[i];
  }
}

void Model::embed(Portion& portion) {
  const int64_t hidden = shape_.hidden_size;
  share(portion, portion.count, hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = portion.first + first; row < portion.first + last; ++row) {
      const StepSequence& sequence = *rows_[row].sequence;
      const int32_t token = sequence.tokens[rows_[row].position - sequence.first_position];
      float* hidden_state = hidden_row(row);
      kernels_.dequantize_row(ends_.embedding, sequence.tier, token, hidden_state);
      if (shape_.embedding_scale == 1.0f) continue;
      for (int64_t i = 0; i < hidden; ++i) hidden_state[i] *= shape_.embedding_scale;
    }
  });
}

void Model::normalize(Portion& portion, const TierVector& weight,
                      std::initializer_list<const Matrix*> matrices) {
  const int64_t hidden = shape_.hidden_size;
  portion.normed.prepare(portion.count, matrices);
  share(portion, portion.count, 8 * hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row)
      kernels_.rms_norm(hidden_row(portion.first + row), weight.at(rows_[portion.first + row].sequence->tier),
                        shape_.norm_eps, hidden, portion.normed.row(row));
  });
  quantize(portion, portion.segments, portion.normed);
}

// Shared out by columns: a block of rows has its codes side by side, and threads that write one line wait for
// each other.
void Model::quantize(const Portion& portion, const Segments& segments, Activations& activations) {
  if (!activations.has_quantized()) return;
  const int64_t work = 8 * Activations::kPieceColumns * segments.back().end;
  share(portion, activations.pieces(), work, 1, [&](int64_t first, int64_t last, int) {
    for (const Segment& segment : segments)
      activations.quantize(kernels_, segment.begin, segment.end, first, last);
  });
}

void Model::project_heads(Portion& portion, const Block& block) {
  const Projection* projections[] = {&block.query, &block.key, &block.value};
  float* outs[] = {queries_of(portion), portion.key.reserve(portion.count * block.key.matrix.rows),
                   portion.value.reserve(portion.count * block.value.matrix.rows)};
  int64_t tiles = 0;
  for (const Projection* projection : projections) tiles += projection->matrix.row_tiles();
  const int64_t work = kRowsPerTile * shape_.hidden_size * portion.count;
  share(portion, tiles, work, kTilesTogether, [&](int64_t first, int64_t last, int) {
    int64_t begin = 0;  // of this matrix among the tiles of all three
    for (int i = 0; i < 3; ++i) {
      const int64_t end = begin + projections[i]->matrix.row_tiles();
      const int64_t from = std::max(first, begin), to = std::min(last, end);
      if (from < to)
        multiply(*projections[i], portion.normed, portion.segments, from - begin, to - begin, outs[i]);
      begin = end;
    }
  });
}

void Model::place_heads(Portion& portion, size_t index) {
  const Block& block = blocks_[index];
  const int64_t head_dim = shape_.head_dim;
  const int64_t pairs = shape_.rotations[block.rotation].inverse_frequencies.size();
  const Turns& turns = turns_[block.rotation];
  const auto finish = [&](float* heads, int64_t num_heads, const TierVector& norm, const Row& row) {
    const float* cosines = turns.cosines.data() + row.position * pairs;
    const float* sines = turns.sines.data() + row.position * pairs;
    for (int64_t head = 0; head < num_heads; ++head) {
      float* vector = heads + head * head_dim;
      if (norm.values != nullptr)
        kernels_.rms_norm(vector, norm.at(row.sequence->tier), shape_.norm_eps, head_dim, vector);
      kernels_.rotate(vector, cosines, sines, 2 * pairs);
    }
  };
  const int64_t key_size = block.num_kv_heads * head_dim, query_size = block.num_heads * head_dim;
  share(portion, portion.count, 8 * (query_size + 2 * key_size), 1, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const Row& row = rows_[portion.first + i];
      float* key = portion.key.data() + i * key_size;
      finish(queries_of(portion) + i * query_size, block.num_heads, block.query_norm, row);
      finish(key, block.num_kv_heads, block.key_norm, row);
      const int64_t page = row.sequence->pages[row.position / kPageTokens], slot = row.position % kPageTokens;
      kernels_.write_kv(keys_[index], page, slot, key);
      kernels_.write_kv(values_[index], page, slot, portion.value.data() + i * key_size);
    }
  });
}

void Model::add_projection(Portion& portion, const Projection& projection, const Activations& input,
                           const TierVector& norm) {
  const int64_t hidden = shape_.hidden_size;
  float* out = portion.projected.reserve(portion.count * hidden);
  const int64_t work = kRowsPerTile * input.columns() * portion.count;
  share(portion, projection.matrix.row_tiles(), work, kTilesTogether, [&](int64_t first, int64_t last, int) {
    multiply(projection, input, portion.segments, first, last, out);
    if (norm.values != nullptr) return;
    const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, hidden);
    for (int64_t row = 0; row < portion.count; ++row) {
      float* sum = hidden_row(portion.first + row);
      for (int64_t i = from; i < to; ++i) sum[i] += out[row * hidden + i];
    }
  });
  if (norm.values == nullptr) return;
  share(portion, portion.count, 8 * hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) add_normed(portion, row, out + row * hidden, norm);
  });
}

// Add what attention or feed-forward made of a row, normed first if there is a norm for it.
void Model::add_normed(const Portion& portion, int64_t row, float* output, const TierVector& norm) {
  const int64_t hidden = shape_.hidden_size;
  if (norm.values != nullptr) {
    const Tier tier = rows_[portion.first + row].sequence->tier;
    kernels_.rms_norm(output, norm.at(tier), shape_.norm_eps, hidden, output);
  }
  float* sum = hidden_row(portion.first + row);
  for (int64_t i = 0; i < hidden; ++i) sum[i] += output[i];
}

void Model::project_gated(Portion& portion, const Block& block) {
  const FeedForward& weights = block.feed_forwards.front();
  portion.gated.prepare(portion.count, {&weights.down.matrix});
  portion.up.reserve(portion.count * block.intermediate_size);
  const int64_t work = 2 * kRowsPerTile * shape_.hidden_size * portion.count;
  share(portion, weights.gate.matrix.row_tiles(), work, kTilesTogether,
        [&](int64_t first, int64_t last, int) {
          gate(portion, weights, portion.normed, portion.segments, first, last);
        });
}

// The gated product of some rows, in the columns of tiles [first, last).
void Model::gate(Portion& portion, const FeedForward& weights, const Activations& input,
                 const Segments& segments, int64_t first, int64_t last) {
  const int64_t inner = weights.gate.matrix.rows;
  multiply(weights.gate, input, segments, first, last, portion.gated.row(0));
  multiply(weights.up, input, segments, first, last, portion.up.data());
  const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, inner);
  const auto gated = shape_.gating == Gating::silu ? kernels_.silu_multiply : kernels_.gelu_multiply;
  for (int64_t row = segments.front().begin; row < segments.back().end; ++row) {
    float* values = portion.gated.row(row) + from;
    gated(values, portion.up.data() + row * inner + from, to - from, values);
  }
}

// Rows whose logits nobody wants have written keys and values, too: a NaN among them must not hide in the
// cache.
void Model::check_hidden(const Portion& portion) {
  const int64_t hidden = shape_.hidden_size;
  share(portion, portion.count, hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = portion.first + first; row < portion.first + last; ++row)
      if (!all_finite(hidden_row(row), hidden))
        nonfinite_[rows_[row].sequence_index].store(true, std::memory_order_relaxed);
  });
}

void Model::project_logits(float* logits) {
  const int64_t wanted = wanted_rows_.size(), hidden = shape_.hidden_size;
  // Where each wanted row stands among rows_: rows of a sequence follow one another.
  std::vector<int64_t> first_row(nonfinite_.size());
  for (size_t row = 0; row < rows_.size(); ++row)
    if (rows_[row].position == rows_[row].sequence->first_position)
      first_row[rows_[row].sequence_index] = static_cast<int64_t>(row);
  Activations& normed = whole_.normed;
  normed.prepare(wanted, {&ends_.head});
  share(whole_, wanted, 8 * hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const Row& row = wanted_rows_[i];
      const int64_t from = first_row[row.sequence_index] + row.position - row.sequence->first_position;
      kernels_.rms_norm(hidden_row(from), ends_.final_norm.at(row.sequence->tier), shape_.norm_eps, hidden,
                        normed.row(i));
    }
  });
  quantize(whole_, wanted_segments_, normed);
  const Projection head{ends_.head, {}};
  share(whole_, ends_.head.row_tiles(), kRowsPerTile * hidden * wanted, kTilesTogether,
        [&](int64_t first, int64_t last, int) {
          multiply(head, normed, wanted_segments_, first, last, logits);
          finish_logits(first, last, logits);
        });
}

// Look for NaN and Inf before a soft cap hides them and a mask writes its own.
void Model::finish_logits(int64_t first, int64_t last, float* logits) {
  const int64_t from = first * kRowsPerTile, to = std::min(last * kRowsPerTile, shape_.vocab_size);
  for (size_t i = 0; i < wanted_rows_.size(); ++i) {
    float* row = logits + i * shape_.vocab_size;
    if (!all_finite(row + from, to - from))
      nonfinite_[wanted_rows_[i].sequence_index].store(true, std::memory_order_relaxed);
    if (shape_.logit_softcap > 0) kernels_.softcap(row + from, shape_.logit_softcap, to - from);
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
