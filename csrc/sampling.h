// From rows of logits to tokens: what penjing.engine.sampling.Sampling asks for.
//
// A choice is a function of its row of logits, its options and the tokens so far, on every machine: no result
// depends on the batch, on threads or on a mathematical library. Ties go to the lowest token.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "activations.h"
#include "kernels.h"
#include "threads.h"

namespace penjing {

constexpr int64_t kMostTokens = int64_t{1} << 20;  // of a vocabulary: see weigh_logits

// In the order in which they apply; see Sampling for what they mean. temperature 0 is greedy.
struct SamplingOptions {
  std::vector<std::pair<int32_t, float>> logit_bias;
  float repetition_penalty;
  double temperature;
  int64_t top_k;
  double top_p, min_p;
  uint64_t seed;
  int64_t num_alternatives;  // -1: no log-probabilities are wanted

  bool adjusts_logits() const { return !logit_bias.empty() || repetition_penalty != 1.0f; }
};

// One token to choose. Only a repetition penalty looks at the tokens, prompt and answer so far; their number
// is the position of the draw.
struct ChoiceRequest {
  const float* logits;
  const SamplingOptions* options;
  const int32_t* tokens;
  int64_t num_tokens;
};

struct Choice {
  static constexpr int32_t kNonFinite = -1;  // NaN or +Inf among the logits, or nothing but -Inf

  int32_t token = kNonFinite;
  double log_probability = 0;  // of the row as the model gave it
  std::vector<std::pair<int32_t, double>> alternatives;  // the likeliest, best first
};

class Sampler {
 public:
  Sampler(const Kernels& kernels, int threads) : kernels_(kernels), pool_(threads), scratch_(threads) {}

  // One caller at a time.
  std::vector<Choice> choose(const std::vector<ChoiceRequest>& requests, int64_t vocab_size);

  // log(sum(e^logits)) of each row; NaN for a row with NaN or +Inf in it, or with nothing but -Inf.
  void log_normalizers(const float* logits, int64_t rows, int64_t vocab_size, double* out);

 private:
  // Tokens that may still be drawn, ascending, and their weights.
  struct Candidates {
    Buffer<int32_t> tokens;
    Buffer<uint64_t> weights;
    int64_t count;
    uint64_t total;  // of the weights

    template <class Keep>
    void keep(const Keep& is_kept);
    void keep_top_p(double top_p, std::vector<uint64_t>& group);
    int32_t draw(uint64_t number) const;
  };

  // What one thread needs for one row. `maxima` are those of the row scanned last.
  struct Scratch {
    std::vector<float> adjusted, maxima, values;
    std::vector<int32_t> top;
    std::vector<uint64_t> group;
    Candidates candidates;
    float largest;
  };

  void choose_one(const ChoiceRequest& request, int64_t vocab_size, Scratch& scratch, Choice& choice) const;
  int32_t draw(const float* logits, int64_t vocab_size, const ChoiceRequest& request, Scratch& scratch) const;
  void report(const ChoiceRequest& request, int64_t vocab_size, Scratch& scratch, Choice& choice) const;
  bool scan(const float* logits, int64_t vocab_size, Scratch& scratch) const;
  double log_normalizer(const float* logits, int64_t vocab_size, Scratch& scratch) const;

  template <class Body>
  void share(int64_t count, int64_t work, const Body& body);

  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Scratch> scratch_;  // of each thread
};

}  // namespace penjing
