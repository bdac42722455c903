// Python's view of the model. Array sizes are checked here, shapes of weights and steps in model.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "binding.h"
#include "model.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penjing {
namespace {

using Floats = Flat<float>;
using TierFloats = nb::ndarray<const float, nb::shape<2, -1>, nb::c_contig, nb::device::cpu>;
using OptionalTierFloats = std::optional<TierFloats>;
template <class T>
using Writable = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

void check_size(const char* name, size_t size, int64_t expected) {
  if (size == static_cast<size_t>(expected)) return;
  throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) + " elements, and " +
                              std::to_string(expected) + " are expected");
}

TierVector view_of(const TierFloats& values) {
  return {values.data(), static_cast<int64_t>(values.shape(1))};
}

const Kernels& kernels_named(const std::string& isa) {
  if (const Kernels* kernels = find_kernels(isa.c_str())) return *kernels;
  throw std::invalid_argument("this CPU cannot run the instruction set '" + isa + "'");
}

Tier tier_named(const std::string& name) {
  if (name == "fast") return Tier::fast;
  if (name == "best") return Tier::best;
  throw std::invalid_argument("unknown tier '" + name + "': use fast or best");
}

KvFormat kv_format_named(const std::string& name) {
  if (name == "fp32") return KvFormat::fp32;
  if (name == "bf16") return KvFormat::bf16;
  if (name == "int8") return KvFormat::int8;
  if (name == "int6") return KvFormat::int6;
  if (name == "int5") return KvFormat::int5;
  if (name == "int4") return KvFormat::int4;
  throw std::invalid_argument("unknown KV format '" + name + "': use int8, int6, int5, int4, bf16 or fp32");
}

Gating gating_named(const std::string& name) {
  if (name == "silu") return Gating::silu;
  if (name == "gelu_tanh") return Gating::gelu_tanh;
  throw std::invalid_argument("unknown activation '" + name + "': use silu or gelu_tanh");
}

// Each Bound class holds the arrays that its view points into.
struct BoundProjection {
  BoundMatrix matrix;
  OptionalTierFloats bias;

  BoundProjection(const BoundMatrix& matrix, OptionalTierFloats bias) : matrix(matrix), bias(bias) {
    if (bias) check_size("bias", bias->shape(1), matrix.view.rows);
  }
  Projection view() const { return {matrix.view, bias ? view_of(*bias) : TierVector{}}; }
};

using BoundFeedForward = std::vector<BoundProjection>;  // gate, up, down

struct BoundBlock {
  Block view;
  std::vector<BoundProjection> projections;
  std::vector<BoundFeedForward> feed_forwards;
  std::optional<BoundProjection> router;
  std::vector<std::pair<const char*, TierFloats>> hidden_norms, head_norms;

  // projections: query, key, value, output. feed_forwards: one without a router, else one for each expert.
  BoundBlock(int64_t num_heads, int64_t num_kv_heads, int64_t intermediate_size,
             std::optional<int64_t> window, int64_t rotation, float attention_scale,
             std::optional<float> attention_softcap, const std::string& key_format,
             const std::string& value_format, TierFloats attention_norm, TierFloats feed_forward_norm,
             OptionalTierFloats post_attention_norm, OptionalTierFloats post_feed_forward_norm,
             OptionalTierFloats query_norm, OptionalTierFloats key_norm,
             std::vector<BoundProjection> bound_projections, std::vector<BoundFeedForward> bound_feed_forwards,
             std::optional<BoundProjection> bound_router, int64_t experts_per_token, bool normalize_experts)
      : view{},
        projections(std::move(bound_projections)),
        feed_forwards(std::move(bound_feed_forwards)),
        router(std::move(bound_router)) {
    if (query_norm.has_value() != key_norm.has_value())
      throw std::invalid_argument("query_norm and key_norm come together");
    if (window && *window < 1) throw std::invalid_argument("sliding_window must be positive");
    view.num_heads = num_heads;
    view.num_kv_heads = num_kv_heads;
    view.intermediate_size = intermediate_size;
    view.sliding_window = window.value_or(0);
    view.rotation = rotation;
    view.attention_scale = attention_scale;
    view.attention_softcap = attention_softcap.value_or(0.0f);
    view.key_format = kv_format_named(key_format);
    view.value_format = kv_format_named(value_format);
    view.attention_norm = keep(hidden_norms, "attention_norm", attention_norm);
    view.feed_forward_norm = keep(hidden_norms, "feed_forward_norm", feed_forward_norm);
    view.post_attention_norm = keep(hidden_norms, "post_attention_norm", post_attention_norm);
    view.post_feed_forward_norm = keep(hidden_norms, "post_feed_forward_norm", post_feed_forward_norm);
    view.query_norm = keep(head_norms, "query_norm", query_norm);
    view.key_norm = keep(head_norms, "key_norm", key_norm);
    view.experts_per_token = experts_per_token;
    view.normalize_experts = normalize_experts;
    take_matrices();
  }

  static TierVector keep(std::vector<std::pair<const char*, TierFloats>>& norms, const char* name,
                         const OptionalTierFloats& norm) {
    if (!norm) return {};
    norms.emplace_back(name, *norm);
    return view_of(*norm);
  }

  void take_matrices() {
    if (projections.size() != 4) throw std::invalid_argument("a block has four projections");
    Projection* const targets[] = {&view.query, &view.key, &view.value, &view.output};
    for (size_t i = 0; i < projections.size(); ++i) *targets[i] = projections[i].view();
    for (const BoundFeedForward& weights : feed_forwards) {
      if (weights.size() != 3) throw std::invalid_argument("a feed-forward has three projections");
      view.feed_forwards.push_back({weights[0].view(), weights[1].view(), weights[2].view()});
    }
    if (router) view.router = router->view();
  }

  void check_norms(int64_t hidden_size, int64_t head_dim) const {
    for (const auto& [name, norm] : hidden_norms) check_size(name, norm.shape(1), hidden_size);
    for (const auto& [name, norm] : head_norms) check_size(name, norm.shape(1), head_dim);
  }
};

// Copies of what is used as an index, so that nobody can change it once it has been checked.
struct BoundSequence {
  std::vector<int32_t> tokens, pages, wanted;
  int64_t first_position;
  Tier tier;
  std::optional<Flat<bool>> allowed;

  BoundSequence(Flat<int32_t> tokens, int64_t first_position, Flat<int32_t> pages, Flat<int32_t> wanted,
                const std::string& tier, std::optional<Flat<bool>> allowed)
      : tokens(tokens.data(), tokens.data() + tokens.size()),
        pages(pages.data(), pages.data() + pages.size()),
        wanted(wanted.data(), wanted.data() + wanted.size()),
        first_position(first_position),
        tier(tier_named(tier)),
        allowed(allowed) {}

  StepSequence view() const {
    return {tokens.data(),
            static_cast<int64_t>(tokens.size()),
            first_position,
            pages.data(),
            static_cast<int64_t>(pages.size()),
            wanted.data(),
            static_cast<int64_t>(wanted.size()),
            tier,
            allowed ? reinterpret_cast<const uint8_t*>(allowed->data()) : nullptr};
  }
};

struct BoundModel {
  BoundMatrix embedding, head;
  TierFloats final_norm;
  std::vector<BoundBlock> blocks;
  std::unique_ptr<Model> model;

  // rotations: inverse frequencies, and the factor of cosine and sine.
  BoundModel(const std::string& isa, int threads, int64_t vocab_size, int64_t hidden_size, int64_t head_dim,
             int64_t max_positions, float norm_eps, float embedding_scale, std::optional<float> logit_softcap,
             const std::string& activation, std::vector<std::pair<std::vector<float>, float>> rotations,
             const BoundMatrix& embedding, const BoundMatrix& head, TierFloats final_norm,
             std::vector<BoundBlock> bound)
      : embedding(embedding), head(head), final_norm(final_norm), blocks(std::move(bound)) {
    check_size("final_norm", final_norm.shape(1), hidden_size);
    std::vector<Block> views;
    for (const BoundBlock& block : blocks) {
      block.check_norms(hidden_size, head_dim);
      views.push_back(block.view);
    }
    ModelShape shape{vocab_size,      hidden_size,
                     head_dim,        max_positions,
                     norm_eps,        embedding_scale,
                     logit_softcap.value_or(0.0f), gating_named(activation),
                     {}};
    for (auto& [frequencies, factor] : rotations) shape.rotations.push_back({std::move(frequencies), factor});
    const Ends ends{embedding.view, head.view, view_of(final_norm)};
    model = std::make_unique<Model>(kernels_named(isa), threads, std::move(shape), ends, std::move(views));
  }

  void step(const std::vector<const BoundSequence*>& sequences, Writable<float> logits) {
    std::vector<StepSequence> views;
    int64_t wanted = 0;
    for (const BoundSequence* sequence : sequences) {
      if (sequence->allowed) check_size("allowed", sequence->allowed->size(), model->vocab_size());
      views.push_back(sequence->view());
      wanted += views.back().num_wanted;
    }
    check_size("logits", logits.size(), wanted * model->vocab_size());
    nb::gil_scoped_release released;
    model->step(views, logits.data());
  }
};

// --- single kernels, for tests ---

void rms_norm(Floats x, Floats weight, float eps, const std::string& isa, Writable<float> out) {
  check_size("weight", weight.size(), x.size());
  check_size("out", out.size(), x.size());
  kernels_named(isa).rms_norm(x.data(), weight.data(), eps, x.size(), out.data());
}

void rotate(Writable<float> head, Floats cosine, Floats sine, const std::string& isa) {
  check_size("cosine", cosine.size(), head.size() / 2);
  check_size("sine", sine.size(), head.size() / 2);
  kernels_named(isa).rotate(head.data(), cosine.data(), sine.data(), head.size() / 2 * 2);
}

void gate_multiply(Floats gate, Floats up, const std::string& activation, const std::string& isa,
                   Writable<float> out) {
  check_size("up", up.size(), gate.size());
  check_size("out", out.size(), gate.size());
  const Kernels& kernels = kernels_named(isa);
  const bool silu = gating_named(activation) == Gating::silu;
  (silu ? kernels.silu_multiply : kernels.gelu_multiply)(gate.data(), up.data(), gate.size(), out.data());
}

void softcap(Writable<float> values, float cap, const std::string& isa) {
  kernels_named(isa).softcap(values.data(), cap, values.size());
}

void softmax(Writable<float> values, const std::string& isa) {
  kernels_named(isa).softmax(values.data(), values.size());
}

using Vectors = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// One plane of KV memory, and the [tokens][kv_heads][head_dim] vectors written to it through `pages`.
struct PlaneOfVectors {
  std::vector<uint8_t> memory;
  KvPlane plane;

  PlaneOfVectors(const Kernels& kernels, Vectors vectors, const std::string& format, bool keys,
                 const Flat<int32_t>& pages) {
    const int64_t tokens = vectors.shape(0), heads = vectors.shape(1), head_dim = vectors.shape(2);
    const int64_t num_pages = pages.size();
    for (int64_t i = 0; i < num_pages; ++i)
      if (pages.data()[i] < 0 || pages.data()[i] >= num_pages)
        throw std::invalid_argument("page out of range");
    if (num_pages * kPageTokens < tokens) throw std::invalid_argument("too few pages");
    plane = {kv_format_named(format), keys, nullptr, 0, heads, head_dim};
    plane.page_stride = heads * plane.head_bytes();
    memory.assign(num_pages * plane.page_stride, 0xff);  // NaN wherever nothing was written
    plane.base = memory.data();
    for (int64_t token = 0; token < tokens; ++token)
      kernels.write_kv(plane, pages.data()[token / kPageTokens], token % kPageTokens,
                       vectors.data() + token * heads * head_dim);
  }
};

// The first page's raw bytes after one page of tokens has been written.
nb::bytes written_page(Vectors vectors, const std::string& format, bool keys, const std::string& isa) {
  const int32_t page = 0;
  const size_t shape[] = {1};
  const Flat<int32_t> pages(&page, 1, shape);
  const PlaneOfVectors written(kernels_named(isa), vectors, format, keys, pages);
  return nb::bytes(reinterpret_cast<const char*>(written.memory.data()), written.memory.size());
}

using Queries = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

// Keys and values of one block that have been written to pages, and the attention to them.
struct BoundAttention {
  const Kernels& kernels;
  std::vector<int32_t> pages;
  PlaneOfVectors keys, values;
  int64_t num_tokens;

  BoundAttention(Vectors keys, Vectors values, const std::string& key_format, const std::string& value_format,
                 Flat<int32_t> pages, const std::string& isa)
      : kernels(kernels_named(isa)),
        pages(pages.data(), pages.data() + pages.size()),
        keys(kernels, keys, key_format, true, pages),
        values(kernels, values, value_format, false, pages),
        num_tokens(static_cast<int64_t>(keys.shape(0))) {
    check_size("values", values.size(), static_cast<int64_t>(keys.size()));
  }

  // query, out: [rows][kv_heads][queries][head_dim], row r at position + r; parts: through attend_spans.
  void attend(Queries query, int64_t position, int64_t window, float scale, float softcap, int64_t tile_rows,
              bool parts, Writable<float> out) const {
    const int64_t rows = query.shape(0), kv_heads = query.shape(1), queries = query.shape(2);
    const int64_t head_dim = query.shape(3), floats = queries * head_dim, stride = kv_heads * floats;
    if (kv_heads != keys.plane.kv_heads || head_dim != keys.plane.head_dim || head_dim > kMostHeadDim)
      throw std::invalid_argument("queries do not fit the keys");
    check_size("out", out.size(), static_cast<int64_t>(query.size()));
    if (position < 0 || position + rows > num_tokens || window < 0 || tile_rows < 1)
      throw std::invalid_argument("positions out of range");
    nb::gil_scoped_release released;
    const Attention attention{keys.plane, values.plane, queries, window, scale, softcap};
    Buffer<float> scratch;
    scratch.reserve(attention_scratch_floats(tile_rows * queries, head_dim));
    for (int64_t head = 0; head < kv_heads; ++head)
      for (int64_t row = 0; row < rows; row += tile_rows) {
        const int64_t place = row * stride + head * floats;
        const AttentionTile tile{pages.data(),         head,
                                 position + row,       std::min(tile_rows, rows - row),
                                 query.data() + place, out.data() + place,
                                 stride};
        if (parts)
          attend_in_parts(attention, tile, scratch.data());
        else
          kernels.attend(attention, tile, scratch.data());
      }
  }

  void attend_in_parts(const Attention& attention, const AttentionTile& tile, float* scratch) const {
    const int64_t first = first_span(attention, tile), end = end_span(tile);
    const int64_t size = part_floats(tile.rows * attention.queries, attention.keys.head_dim);
    std::vector<float> parts((end - first) * size);
    for (int64_t span = end - 1; span >= first; --span)
      kernels.attend_spans(attention, tile, span, span + 1, scratch, parts.data() + (span - first) * size);
    kernels.merge_spans(attention, tile, parts.data());
  }
};

// How often each task of a pool's loop ran; the task `failing` throws. Several loops, because a pool is
// reused.
std::vector<int> run_tasks(int threads, int tasks, int loops, int failing) {
  nb::gil_scoped_release released;
  ThreadPool pool(threads);
  std::vector<int> runs(tasks);
  for (int loop = 0; loop < loops; ++loop)
    pool.run(tasks, [&](int64_t task, int thread) {
      if (thread < 0 || thread >= threads) throw std::logic_error("no such thread");
      if (task == failing) throw std::runtime_error("task " + std::to_string(task) + " failed");
      ++runs[task];
    });
  return runs;
}

}  // namespace

void bind_model(nb::module_& module) {
  nb::class_<BoundProjection>(module, "Projection")
      .def(nb::init<const BoundMatrix&, OptionalTierFloats>(), "matrix"_a, "bias"_a.noconvert().none());
  nb::class_<BoundBlock>(module, "Block")
      .def(nb::init<int64_t, int64_t, int64_t, std::optional<int64_t>, int64_t, float, std::optional<float>,
                    const std::string&, const std::string&, TierFloats, TierFloats, OptionalTierFloats,
                    OptionalTierFloats, OptionalTierFloats, OptionalTierFloats, std::vector<BoundProjection>,
                    std::vector<BoundFeedForward>, std::optional<BoundProjection>, int64_t, bool>(),
           "num_heads"_a, "num_kv_heads"_a, "intermediate_size"_a, "sliding_window"_a.none(), "rotation"_a,
           "attention_scale"_a, "attention_softcap"_a.none(), "key_format"_a, "value_format"_a,
           "attention_norm"_a.noconvert(), "feed_forward_norm"_a.noconvert(),
           "post_attention_norm"_a.noconvert().none(), "post_feed_forward_norm"_a.noconvert().none(),
           "query_norm"_a.noconvert().none(), "key_norm"_a.noconvert().none(), "projections"_a,
           "feed_forwards"_a, "router"_a.none(), "experts_per_token"_a, "normalize_experts"_a);
  nb::class_<BoundSequence>(module, "Sequence")
      .def(nb::init<Flat<int32_t>, int64_t, Flat<int32_t>, Flat<int32_t>, const std::string&,
                    std::optional<Flat<bool>>>(),
           "tokens"_a.noconvert(), "first_position"_a, "pages"_a.noconvert(), "wanted"_a.noconvert(),
           "tier"_a, "allowed"_a.noconvert().none());
  nb::class_<BoundModel>(module, "Model")
      .def(nb::init<const std::string&, int, int64_t, int64_t, int64_t, int64_t, float, float,
                    std::optional<float>, const std::string&,
                    std::vector<std::pair<std::vector<float>, float>>, const BoundMatrix&, const BoundMatrix&,
                    TierFloats, std::vector<BoundBlock>>(),
           "isa"_a, "threads"_a, "vocab_size"_a, "hidden_size"_a, "head_dim"_a, "max_positions"_a,
           "norm_eps"_a, "embedding_scale"_a, "logit_softcap"_a.none(), "activation"_a, "rotations"_a,
           "embedding"_a, "head"_a, "final_norm"_a.noconvert(), "blocks"_a)
      .def_prop_ro("num_pages", [](const BoundModel& bound) { return bound.model->num_pages(); })
      .def_prop_ro("bytes_per_page", [](const BoundModel& bound) { return bound.model->bytes_per_page(); })
      .def(
          "allocate",
          [](BoundModel& bound, int64_t pages) {
            nb::gil_scoped_release released;
            bound.model->allocate(pages);
          },
          "num_pages"_a)
      .def(
          "copy_page",
          [](BoundModel& bound, int64_t source, int64_t target) {
            nb::gil_scoped_release released;
            bound.model->copy_page(source, target);
          },
          "source"_a, "target"_a)
      .def("step", &BoundModel::step, "sequences"_a, "logits"_a.noconvert());
  module.def("rms_norm", &rms_norm, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a, "isa"_a,
             "out"_a.noconvert());
  module.def("rotate", &rotate, "head"_a.noconvert(), "cosine"_a.noconvert(), "sine"_a.noconvert(), "isa"_a);
  module.def("gate_multiply", &gate_multiply, "gate"_a.noconvert(), "up"_a.noconvert(), "activation"_a, "isa"_a,
             "out"_a.noconvert());
  module.def("softcap", &softcap, "values"_a.noconvert(), "cap"_a, "isa"_a);
  module.def("softmax", &softmax, "values"_a.noconvert(), "isa"_a);
  module.def("written_page", &written_page, "vectors"_a.noconvert(), "format"_a, "keys"_a, "isa"_a);
  nb::class_<BoundAttention>(module, "Attention")
      .def(nb::init<Vectors, Vectors, const std::string&, const std::string&, Flat<int32_t>,
                    const std::string&>(),
           "keys"_a.noconvert(), "values"_a.noconvert(), "key_format"_a, "value_format"_a,
           "pages"_a.noconvert(), "isa"_a)
      .def("attend", &BoundAttention::attend, "query"_a.noconvert(), "position"_a, "window"_a, "scale"_a,
           "softcap"_a, "tile_rows"_a, "parts"_a, "out"_a.noconvert());
  module.def("run_tasks", &run_tasks, "threads"_a, "tasks"_a, "loops"_a, "failing"_a);
}

}  // namespace penjing
