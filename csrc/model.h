// A decoder and its KV memory; `step` runs all blocks over a batch of sequences.
//
// A sequence's logits are a bitwise function of its tokens, the weights, its tier, the KV formats and the
// instruction set. Each value below is computed by one task, from whole rows or in spans of absolute
// positions, so that threads and batches decide only who computes it and when.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <vector>

#include "activations.h"
#include "kernels.h"
#include "routing.h"
#include "threads.h"

namespace penjing {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// How positions turn the first elements of a head, two for each frequency; the others stay.
struct Rotation {
  std::vector<float> inverse_frequencies;
  float factor;  // cosine and sine are multiplied by it
};

enum class Gating { silu, gelu_tanh };

struct ModelShape {
  int64_t vocab_size, hidden_size, head_dim, max_positions;
  float norm_eps;
  float embedding_scale;  // rows of the embedding are multiplied by it
  float logit_softcap;    // 0 for none
  Gating gating;
  std::vector<Rotation> rotations;  // blocks choose among them
};

// A norm or a bias, [2][size]: its values at the tiers fast and best. No values: there is none.
struct TierVector {
  const float* values = nullptr;
  int64_t size = 0;
  const float* at(Tier tier) const { return values + static_cast<int64_t>(tier) * size; }
};

struct Projection {
  Matrix matrix{};
  TierVector bias;
};

struct FeedForward {
  Projection gate, up, down;
};

struct Block {
  int64_t num_heads, num_kv_heads, intermediate_size;
  int64_t sliding_window;  // positions a token sees, itself included; 0 for all
  int64_t rotation;        // index among the model's
  float attention_scale;   // scores are multiplied by it
  float attention_softcap;  // 0 for none
  KvFormat key_format, value_format;
  TierVector attention_norm, feed_forward_norm;
  TierVector query_norm, key_norm;                         // none, or of head_dim each
  TierVector post_attention_norm, post_feed_forward_norm;  // none, or of hidden_size
  Projection query, key, value, output;
  std::vector<FeedForward> feed_forwards;  // one, or the experts
  Projection router;                       // no rows: there are no experts
  int64_t experts_per_token;
  bool normalize_experts;  // the weights of a token's experts add up to 1
  bool has_experts() const { return router.matrix.rows > 0; }
};

// Weights outside the blocks. A tied head is the embedding given twice.
struct Ends {
  Matrix embedding, head;
  TierVector final_norm;
};

// See StepSequence in src/penjing/engine/step.py. `allowed` is null or [vocab_size], zero for forbidden.
struct StepSequence {
  const int32_t* tokens;
  int64_t num_tokens, first_position;
  const int32_t* pages;
  int64_t num_pages;
  const int32_t* wanted;
  int64_t num_wanted;
  Tier tier;
  const uint8_t* allowed;
};

class Model {
 public:
  // All pointers must outlive the model. Raises std::invalid_argument for shapes that do not fit together.
  Model(const Kernels& kernels, int threads, ModelShape shape, const Ends& ends, std::vector<Block> blocks);

  int64_t vocab_size() const { return shape_.vocab_size; }
  int64_t num_pages() const { return num_pages_; }
  int64_t bytes_per_page() const { return page_bytes_; }

  // Throw away the KV memory and take room for `num_pages` pages, zeroed. std::bad_alloc leaves no pages.
  void allocate(int64_t num_pages);
  void copy_page(int64_t source, int64_t target);

  // Run one step. logits: [sum of num_wanted][vocab_size], in the order of sequences and wanted. A sequence
  // with NaN or Inf in any of its final hidden states or wanted logits gets NaN throughout its rows; the
  // others are none the worse for it. Raises std::invalid_argument, having touched nothing, for anything out
  // of range.
  void step(const std::vector<StepSequence>& sequences, float* logits);

 private:
  // One token of the step, and where it belongs.
  struct Row {
    const StepSequence* sequence;
    int64_t sequence_index, position;
  };
  // Consecutive rows that go through a block together, and scratch for them. What is indexed by a row here
  // counts from `first`.
  struct Portion {
    int thread = kAllThreads;  // the one that computes it
    int64_t first = 0, count = 0;
    Segments segments;
    Activations normed, attended, gathered, gated;
    Buffer<float> key, value, up, projected, expert_outputs;
    Routing routing;
    std::vector<AttentionTile> tiles;
  };
  static constexpr int kAllThreads = -1;

  void check_shapes() const;
  void place_planes();
  void check_sequences(const std::vector<StepSequence>& sequences) const;
  void check_pages(const std::vector<StepSequence>& sequences);
  void gather_rows(const std::vector<StepSequence>& sequences);
  void gather_wanted(const std::vector<StepSequence>& sequences);
  void extend_rotations(int64_t positions);

  void run_together();
  void run_in_chunks();
  void enter(size_t index, Portion& portion);
  void finish_attention(size_t index, Portion& portion);
  void feed_forward(const Block& block, Portion& portion);

  void embed(Portion& portion);
  void normalize(Portion& portion, const TierVector& weight, std::initializer_list<const Matrix*> matrices);
  void project_heads(Portion& portion, const Block& block);
  void place_heads(Portion& portion, size_t index);
  static int64_t rows_of_tile(const Block& block);
  void gather_tiles(Portion& portion, const Block& block);
  void attend(Portion& portion, size_t index);
  void attend_in_parts(const Attention& attention, const std::vector<AttentionTile>& tiles, int64_t piece);
  void project_gated(Portion& portion, const Block& block);
  void gate(Portion& portion, const FeedForward& weights, const Activations& input, const Segments& segments,
            int64_t first, int64_t last);
  void quantize(const Portion& portion, const Segments& segments, Activations& activations);
  void add_projection(Portion& portion, const Projection& projection, const Activations& input,
                      const TierVector& norm);
  void add_normed(const Portion& portion, int64_t row, float* output, const TierVector& norm);

  void route(Portion& portion, const Block& block);
  void gather(Portion& portion, const Block& block);
  void project_experts(Portion& portion, const Block& block);
  void add_experts(Portion& portion, const Block& block);
  template <class Body>
  void share_experts(const Portion& portion, int64_t tiles, int64_t work, const Body& body);
  void check_hidden(const Portion& portion);
  void project_logits(float* logits);
  void finish_logits(int64_t first, int64_t last, float* logits);
  void spread_nonfinite(float* logits) const;

  // out[row][column] for all rows of the segments and the columns of tiles [first, last).
  void multiply(const Projection& projection, const Activations& input, const Segments& segments,
                int64_t first, int64_t last, float* out) const;

  // Share out [0, count) in pieces body(first, last, thread) worth the trouble of sharing, or do it all here
  // if the portion belongs to one thread. `work` estimates the multiply-adds of one; pieces are multiples of
  // `multiple`.
  template <class Body>
  void share(const Portion& portion, int64_t count, int64_t work, int64_t multiple, const Body& body);

  float* hidden_row(int64_t row) { return hidden_.data() + row * shape_.hidden_size; }
  // [rows of the portion][query columns of a block]. Blocks may differ in width, and while one chunk writes
  // the next block's, another reads this one's: so a portion's place does not depend on the block.
  float* queries_of(const Portion& portion) { return query_.data() + portion.first * most_query_columns_; }

  float* attention_scratch(int thread) { return attention_scratch_.data() + thread * scratch_size_; }

  const Kernels& kernels_;
  const ModelShape shape_;
  const Ends ends_;
  const std::vector<Block> blocks_;
  ThreadPool pool_;
  std::mutex mutex_;  // one step, copy or allocation at a time

  // A page holds every block's keys and values one after another: copying a page is one memcpy.
  std::vector<KvPlane> keys_, values_;
  std::unique_ptr<void, decltype(&std::free)> kv_memory_{nullptr, &std::free};
  uint8_t* first_page_ = nullptr;
  int64_t num_pages_ = 0, page_bytes_ = 0;

  // Of each rotation, [positions so far][its frequencies].
  struct Turns {
    std::vector<float> cosines, sines;
  };
  std::vector<Turns> turns_;
  int64_t turned_positions_ = 0;

  // Scratch of a step. Rows stand in the order of tiers, and within a tier of sequences. Hidden states and
  // queries outlast the pass in which they were computed.
  std::vector<Row> rows_, wanted_rows_;
  Segments segments_, wanted_segments_;
  std::vector<int32_t> page_writer_, page_user_;  // of each page: a sequence's index, or -1
  Buffer<float> hidden_, query_, attention_scratch_, attention_parts_;
  int64_t most_query_columns_ = 0;
  int64_t scratch_size_ = 0;  // of each thread's attention
  Portion whole_;
  std::vector<Portion> chunks_;               // one of each thread
  std::vector<std::atomic<bool>> nonfinite_;  // of each sequence
};

}  // namespace penjing
