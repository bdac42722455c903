#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

namespace penjing {
namespace {

constexpr double kLog2 = 0x1.62e42fefa39efp-1;
constexpr int kWeightBits = 44;             // the likeliest token's weight is 2^44: see weigh_logits
constexpr int64_t kWorthSharing = 1 << 19;  // logits that are looked at once, about forty microseconds
constexpr int64_t kWorkOfDraw = 8;          // of a token drawn or reported, in looks at its row

// The finalizer of splitmix64, a bijection on 64 bits (Steele et al. 2014).
uint64_t mix(uint64_t value) {
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
  value = (value ^ value >> 27) * 0x94d049bb133111ebu;
  return value ^ value >> 31;
}

// 53 random bits, a function of its arguments alone: splitmix64 at a counter.
uint64_t random_bits(uint64_t seed, int64_t position) {
  return mix(mix(seed) + (static_cast<uint64_t>(position) + 1) * 0x9e3779b97f4a7c15u) >> 11;
}

// The natural logarithm within 2 units in the last place, the same everywhere: x = 2^e m with m in
// [sqrt(1/2), sqrt(2)), and log m = 2 (z + z^3 / 3 + z^5 / 5 ...) with z = (m - 1) / (m + 1).
double log_of(double x) {
  int exponent;
  double m = std::frexp(x, &exponent);
  if (m < 0x1.6a09e667f3bcdp-1) {
    m *= 2;
    --exponent;
  }
  const double z = (m - 1) / (m + 1), square = z * z;
  double sum = 0;
  for (int power = 23; power >= 1; power -= 2) sum = sum * square + 1.0 / power;
  return 2 * z * sum + exponent * kLog2;
}

// The first token with this logit, in a row whose run maxima are known.
int32_t find_largest(const float* logits, int64_t n, const std::vector<float>& maxima, float largest) {
  const auto run = std::find(maxima.begin(), maxima.end(), largest) - maxima.begin();
  const float* begin = logits + run * kLogitsPerRun;
  return static_cast<int32_t>(std::find(begin, logits + n, largest) - logits);
}

// The k largest logits of at least `floor`, ascending by token; among equals at the border, the lowest tokens.
// At least k logits reach the k-th largest maximum of a run, so that only runs that reach it are looked at.
void find_top_k(const float* logits, int64_t n, const std::vector<float>& maxima, int64_t k, float floor,
                std::vector<float>& values, std::vector<int32_t>& tokens) {
  float lowest = floor;
  if (k <= static_cast<int64_t>(maxima.size())) {
    values = maxima;
    std::nth_element(values.begin(), values.begin() + k - 1, values.end(), std::greater<float>());
    lowest = std::max(lowest, values[k - 1]);
  }
  tokens.clear();
  values.clear();
  for (size_t run = 0; run < maxima.size(); ++run) {
    if (maxima[run] < lowest) continue;
    const int64_t begin = static_cast<int64_t>(run) * kLogitsPerRun, end = std::min(begin + kLogitsPerRun, n);
    for (int64_t i = begin; i < end; ++i)
      if (logits[i] >= lowest) {
        tokens.push_back(static_cast<int32_t>(i));
        values.push_back(logits[i]);
      }
  }
  if (static_cast<int64_t>(tokens.size()) <= k) return;
  std::nth_element(values.begin(), values.begin() + k - 1, values.end(), std::greater<float>());
  const float border = values[k - 1];
  int64_t equals = k - std::count_if(values.begin(), values.begin() + k, [&](float v) { return v > border; });
  tokens.erase(std::remove_if(tokens.begin(), tokens.end(),
                              [&](int32_t token) {
                                return logits[token] < border || (logits[token] == border && equals-- <= 0);
                              }),
               tokens.end());
}

// The row with biases added, and then seen tokens penalized: each once, however often it was seen.
void adjust(const ChoiceRequest& request, int64_t n, std::vector<float>& values, std::vector<float>& adjusted) {
  const SamplingOptions& options = *request.options;
  adjusted.assign(request.logits, request.logits + n);
  for (const auto& [token, bias] : options.logit_bias) adjusted[token] += bias;
  const float penalty = options.repetition_penalty;
  if (penalty == 1.0f) return;
  values.resize(request.num_tokens);
  for (int64_t i = 0; i < request.num_tokens; ++i) {
    const float value = adjusted[request.tokens[i]];
    values[i] = value > 0 ? value / penalty : value * penalty;
  }
  for (int64_t i = 0; i < request.num_tokens; ++i) adjusted[request.tokens[i]] = values[i];
}

}  // namespace

template <class Keep>
void Sampler::Candidates::keep(const Keep& is_kept) {
  int32_t* const token = tokens.data();
  uint64_t* const weight = weights.data();
  int64_t kept = 0;
  total = 0;
  for (int64_t i = 0; i < count; ++i) {  // without a branch: what is kept is hard to foresee
    const uint64_t candidate = weight[i];
    const bool stays = is_kept(candidate);
    token[kept] = token[i];
    weight[kept] = candidate;
    total += stays ? candidate : 0;
    kept += stays;
  }
  count = kept;
}

// Holtzman et al. 2020: the smallest set of largest weights that reaches top_p of their sum. Its least weight
// is found digit by digit, from the most significant one; nothing is sorted.
void Sampler::Candidates::keep_top_p(double top_p, std::vector<uint64_t>& group) {
  constexpr int kDigitBits = 12;
  const auto exact = static_cast<uint64_t>(std::ceil(static_cast<double>(total) * top_p));
  const uint64_t goal = std::max<uint64_t>(1, std::min(exact, total));
  // Weights below this one are together less than what may be dropped.
  const uint64_t least = (total - goal) / static_cast<uint64_t>(count);
  keep([&](uint64_t weight) { return weight >= least; });
  group.assign(weights.data(), weights.data() + count);
  uint64_t above = 0;  // sum of the weights that are larger than those in the group
  for (int shift = 3 * kDigitBits; shift >= 0; shift -= kDigitBits) {
    uint64_t sums[1 << kDigitBits] = {};
    const auto digit_of = [&](uint64_t weight) { return weight >> shift & ((1 << kDigitBits) - 1); };
    for (const uint64_t weight : group) sums[digit_of(weight)] += weight;
    uint64_t digit = (1 << kDigitBits) - 1;
    while (above + sums[digit] < goal) above += sums[digit--];
    group.erase(std::remove_if(group.begin(), group.end(), [&](uint64_t w) { return digit_of(w) != digit; }),
                group.end());
  }
  const uint64_t border = group.front();
  auto equals = static_cast<int64_t>((goal - above + border - 1) / border);
  keep([&](uint64_t weight) { return weight > border || (weight == border && equals-- > 0); });
}

// The token at a point of the cumulative distribution; number counts 2^-53 of the total.
int32_t Sampler::Candidates::draw(uint64_t number) const {
  auto left = static_cast<uint64_t>(static_cast<unsigned __int128>(total) * number >> 53);
  constexpr int64_t kStride = 64;
  const uint64_t* weight = weights.data();
  int64_t i = 0;
  for (; i + kStride <= count; i += kStride) {
    const uint64_t sum = std::accumulate(weight + i, weight + i + kStride, uint64_t{0});
    if (left < sum) break;
    left -= sum;
  }
  while (left >= weight[i]) left -= weight[i++];
  return tokens.data()[i];
}

bool Sampler::scan(const float* logits, int64_t vocab_size, Scratch& scratch) const {
  scratch.maxima.resize((vocab_size + kLogitsPerRun - 1) / kLogitsPerRun);
  if (!kernels_.scan_logits(logits, vocab_size, scratch.maxima.data())) return false;
  scratch.largest = *std::max_element(scratch.maxima.begin(), scratch.maxima.end());
  return std::isfinite(scratch.largest);
}

int32_t Sampler::draw(const float* logits, int64_t vocab_size, const ChoiceRequest& request,
                      Scratch& scratch) const {
  const SamplingOptions& options = *request.options;
  Candidates& candidates = scratch.candidates;
  const float* values = logits;
  if (options.top_k > 0 && options.top_k < vocab_size) {
    // What is ruled out has no weight and need not be looked for.
    find_top_k(logits, vocab_size, scratch.maxima, options.top_k, std::numeric_limits<float>::lowest(),
               scratch.values, scratch.top);
    candidates.count = static_cast<int64_t>(scratch.top.size());
    std::copy(scratch.top.begin(), scratch.top.end(), candidates.tokens.reserve(candidates.count));
    scratch.values.clear();
    for (const int32_t token : scratch.top) scratch.values.push_back(logits[token]);
    values = scratch.values.data();
  } else {
    candidates.count = vocab_size;
    int32_t* tokens = candidates.tokens.reserve(vocab_size);
    std::iota(tokens, tokens + vocab_size, 0);
  }
  uint64_t* weights = candidates.weights.reserve(candidates.count);
  candidates.total =
      kernels_.weigh_logits(values, candidates.count, scratch.largest, 1 / options.temperature, weights);
  if (options.top_p < 1) candidates.keep_top_p(options.top_p, scratch.group);
  if (options.min_p > 0) {
    const auto least = static_cast<uint64_t>(std::ceil(std::ldexp(options.min_p, kWeightBits)));
    candidates.keep([&](uint64_t weight) { return weight >= least; });
  }
  return candidates.draw(random_bits(options.seed, request.num_tokens));
}

double Sampler::log_normalizer(const float* logits, int64_t vocab_size, Scratch& scratch) const {
  constexpr int64_t kStride = 1024;
  uint64_t weights[kStride], total = 0;
  for (int64_t i = 0; i < vocab_size; i += kStride)
    total += kernels_.weigh_logits(logits + i, std::min(kStride, vocab_size - i), scratch.largest, 1.0, weights);
  return scratch.largest + (log_of(static_cast<double>(total)) - kWeightBits * kLog2);
}

void Sampler::report(const ChoiceRequest& request, int64_t vocab_size, Scratch& scratch, Choice& choice) const {
  const float* logits = request.logits;
  const double normalizer = log_normalizer(logits, vocab_size, scratch);
  choice.log_probability = logits[choice.token] - normalizer;
  const int64_t count = std::min(request.options->num_alternatives, vocab_size);
  if (count == 0) return;
  find_top_k(logits, vocab_size, scratch.maxima, count, -std::numeric_limits<float>::infinity(), scratch.values,
             scratch.top);
  std::stable_sort(scratch.top.begin(), scratch.top.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (const int32_t token : scratch.top) choice.alternatives.emplace_back(token, logits[token] - normalizer);
}

void Sampler::choose_one(const ChoiceRequest& request, int64_t vocab_size, Scratch& scratch,
                         Choice& choice) const {
  const SamplingOptions& options = *request.options;
  if (!scan(request.logits, vocab_size, scratch)) return;
  const float* logits = request.logits;
  if (options.adjusts_logits()) {
    adjust(request, vocab_size, scratch.values, scratch.adjusted);
    logits = scratch.adjusted.data();
    if (!scan(logits, vocab_size, scratch)) return;
  }
  choice.token = options.temperature == 0 ? find_largest(logits, vocab_size, scratch.maxima, scratch.largest)
                                          : draw(logits, vocab_size, request, scratch);
  if (options.num_alternatives < 0) return;
  if (options.adjusts_logits()) scan(request.logits, vocab_size, scratch);
  report(request, vocab_size, scratch, choice);
}

// body(index, thread) for all indices; `work` is what all of them look at. Too little is done here.
template <class Body>
void Sampler::share(int64_t count, int64_t work, const Body& body) {
  if (work < kWorthSharing)
    for (int64_t index = 0; index < count; ++index) body(index, 0);
  else
    pool_.run(count, body);
}

std::vector<Choice> Sampler::choose(const std::vector<ChoiceRequest>& requests, int64_t vocab_size) {
  std::vector<Choice> choices(requests.size());
  int64_t looks = 0;
  for (const ChoiceRequest& request : requests) {
    const bool is_greedy = request.options->temperature == 0 && request.options->num_alternatives < 0;
    looks += is_greedy ? 1 : kWorkOfDraw;
  }
  share(static_cast<int64_t>(requests.size()), looks * vocab_size, [&](int64_t index, int thread) {
    choose_one(requests[index], vocab_size, scratch_[thread], choices[index]);
  });
  return choices;
}

void Sampler::log_normalizers(const float* logits, int64_t rows, int64_t vocab_size, double* out) {
  share(rows, rows * kWorkOfDraw * vocab_size, [&](int64_t row, int thread) {
    const float* begin = logits + row * vocab_size;
    Scratch& scratch = scratch_[thread];
    out[row] = scan(begin, vocab_size, scratch) ? log_normalizer(begin, vocab_size, scratch)
                                                : std::numeric_limits<double>::quiet_NaN();
  });
}

}  // namespace penjing
