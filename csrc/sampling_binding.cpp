// Python's view of the sampler. Tokens are checked here, against the vocabulary of the logits.
#include "sampling.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "binding.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penjing {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Normalizers = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const Kernels& kernels_named(const std::string& isa) {
  if (const Kernels* kernels = find_kernels(isa.c_str())) return *kernels;
  throw std::invalid_argument("this CPU cannot run the instruction set '" + isa + "'");
}

int64_t vocabulary_of(const Rows& logits) {
  const auto size = static_cast<int64_t>(logits.shape(1));
  if (size < 1 || size > kMostTokens)
    throw std::invalid_argument("a row of " + std::to_string(size) + " logits; there must be 1 to " +
                                std::to_string(kMostTokens));
  return size;
}

void check_token(int64_t token, int64_t vocab_size) {
  if (token < 0 || token >= vocab_size)
    throw std::invalid_argument("token " + std::to_string(token) + " is outside the vocabulary of " +
                                std::to_string(vocab_size));
}

ChoiceRequest view_of(const Rows& logits, int64_t row, const SamplingOptions* options,
                      const Flat<int32_t>& tokens) {
  const int64_t vocab_size = vocabulary_of(logits);
  if (row < 0 || row >= static_cast<int64_t>(logits.shape(0)))
    throw std::invalid_argument("row " + std::to_string(row) + " is not one of the logits'");
  for (const auto& [token, bias] : options->logit_bias) check_token(token, vocab_size);
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  if (options->repetition_penalty != 1.0f)
    for (int64_t i = 0; i < num_tokens; ++i) check_token(tokens.data()[i], vocab_size);
  return {logits.data() + row * vocab_size, options, tokens.data(), num_tokens};
}

std::vector<Choice> choose(Sampler& sampler, Rows logits, const std::vector<int64_t>& rows,
                           const std::vector<const SamplingOptions*>& options,
                           const std::vector<Flat<int32_t>>& tokens) {
  if (rows.size() != options.size() || rows.size() != tokens.size())
    throw std::invalid_argument("rows, options and tokens must be equally many");
  std::vector<ChoiceRequest> requests;
  for (size_t i = 0; i < rows.size(); ++i)
    requests.push_back(view_of(logits, rows[i], options[i], tokens[i]));
  nb::gil_scoped_release released;
  return sampler.choose(requests, vocabulary_of(logits));
}

void log_normalizers(Sampler& sampler, Rows logits, Normalizers out) {
  if (out.size() != logits.shape(0)) throw std::invalid_argument("out must have an element for every row");
  const int64_t vocab_size = vocabulary_of(logits);
  nb::gil_scoped_release released;
  sampler.log_normalizers(logits.data(), static_cast<int64_t>(logits.shape(0)), vocab_size, out.data());
}

}  // namespace

void bind_sampling(nb::module_& module) {
  nb::class_<SamplingOptions>(module, "SamplingOptions")
      .def(
          "__init__",
          [](SamplingOptions* self, std::vector<std::pair<int32_t, float>> logit_bias, float repetition_penalty,
             double temperature, int64_t top_k, double top_p, double min_p, uint64_t seed,
             std::optional<int64_t> num_alternatives) {
            new (self) SamplingOptions{std::move(logit_bias), repetition_penalty, temperature, top_k, top_p,
                                       min_p, seed, num_alternatives.value_or(-1)};
          },
          "logit_bias"_a, "repetition_penalty"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "seed"_a,
          "num_alternatives"_a.none());
  nb::class_<Choice>(module, "Choice")
      .def_prop_ro("token",
                   [](const Choice& choice) {
                     return choice.token == Choice::kNonFinite ? std::nullopt : std::optional(choice.token);
                   })
      .def_ro("log_probability", &Choice::log_probability)
      .def_ro("alternatives", &Choice::alternatives);
  nb::class_<Sampler>(module, "Sampler")
      .def(
          "__init__",
          [](Sampler* self, const std::string& isa, int threads) {
            new (self) Sampler(kernels_named(isa), threads);
          },
          "isa"_a, "threads"_a)
      .def("choose", &choose, "logits"_a.noconvert(), "rows"_a, "options"_a, "tokens"_a)
      .def("log_normalizers", &log_normalizers, "logits"_a.noconvert(), "out"_a.noconvert());
}

}  // namespace penjing
