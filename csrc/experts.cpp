// The feed-forward of experts: each row goes to a few of them (Shazeer et al. 2017).
#include <algorithm>

#include "share.h"

namespace penjing {

// Each row's experts, and where it goes among their rows.
void Model::route(Portion& portion, const Block& block) {
  const int64_t experts = block.feed_forwards.size();
  Routing& routing = portion.routing;
  routing.prepare(portion.count, experts, block.experts_per_token);
  const int64_t work = kRowsPerTile * shape_.hidden_size * portion.count;
  share(portion, block.router.matrix.row_tiles(), work, kTilesTogether,
        [&](int64_t first, int64_t last, int) {
          multiply(block.router, portion.normed, portion.segments, first, last, routing.probabilities(0));
        });
  share(portion, portion.count, experts * (8 + block.experts_per_token), 1,
        [&](int64_t first, int64_t last, int) {
          for (int64_t row = first; row < last; ++row) {
            kernels_.softmax(routing.probabilities(row), experts);
            routing.choose(row, block.normalize_experts);
          }
        });
  routing.arrange(portion.segments);
}

// A copy of each row for each of its experts, the rows of an expert together.
void Model::gather(Portion& portion, const Block& block) {
  const Routing& routing = portion.routing;
  const FeedForward& any = block.feed_forwards.front();
  const int64_t places = routing.places(), hidden = shape_.hidden_size;
  portion.gathered.prepare(places, {&any.gate.matrix});
  portion.gated.prepare(places, {&any.down.matrix});
  for (const int64_t expert : routing.used()) {
    const FeedForward& weights = block.feed_forwards[expert];
    portion.gathered.also_for(places, weights.gate.matrix);
    portion.gathered.also_for(places, weights.up.matrix);
    portion.gated.also_for(places, weights.down.matrix);
  }
  share(portion, places, 8 * hidden, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t place = first; place < last; ++place)
      std::copy_n(portion.normed.row(routing.row_at(place)), hidden, portion.gathered.row(place));
  });
  quantize(portion, routing.runs(), portion.gathered);
}

// Every expert that has rows, on all of them: its matrices are read once.
void Model::project_experts(Portion& portion, const Block& block) {
  const Routing& routing = portion.routing;
  const int64_t places = routing.places(), hidden = shape_.hidden_size;
  const int64_t rows = std::max<int64_t>(1, places / routing.used().size());  // of an expert
  portion.up.reserve(places * block.intermediate_size);
  const int64_t inner_tiles = block.feed_forwards.front().gate.matrix.row_tiles();
  share_experts(portion, inner_tiles, 2 * kRowsPerTile * hidden * rows,
                [&](int64_t expert, int64_t first, int64_t last) {
                  gate(portion, block.feed_forwards[expert], portion.gathered, routing.places_of(expert),
                       first, last);
                });
  quantize(portion, routing.runs(), portion.gated);
  float* outputs = portion.expert_outputs.reserve(places * hidden);
  const int64_t tiles = block.feed_forwards.front().down.matrix.row_tiles();
  share_experts(portion, tiles, kRowsPerTile * block.intermediate_size * rows,
                [&](int64_t expert, int64_t first, int64_t last) {
                  multiply(block.feed_forwards[expert].down, portion.gated, routing.places_of(expert), first,
                           last, outputs);
                });
}

// Share out the row tiles of one matrix of each used expert, one expert after another: body(expert, first
// tile, last tile).
template <class Body>
void Model::share_experts(const Portion& portion, int64_t tiles, int64_t work, const Body& body) {
  const std::vector<int64_t>& used = portion.routing.used();
  const int64_t total = tiles * static_cast<int64_t>(used.size());
  share(portion, total, work, kTilesTogether, [&](int64_t first, int64_t last, int) {
    for (int64_t tile = first; tile < last;) {
      const int64_t from = tile % tiles, to = std::min(tiles, from + last - tile);
      body(used[tile / tiles], from, to);
      tile += to - from;
    }
  });
}

// A row's outputs are added in the ascending order of its experts, whoever else they worked for.
void Model::add_experts(Portion& portion, const Block& block) {
  const Routing& routing = portion.routing;
  const int64_t hidden = shape_.hidden_size, experts = block.experts_per_token;
  float* sums = portion.projected.reserve(portion.count * hidden);
  const float* outputs = portion.expert_outputs.data();
  share(portion, portion.count, hidden * (experts + 8), 1, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) {
      float* sum = sums + row * hidden;
      std::fill_n(sum, hidden, 0.0f);
      for (int64_t k = 0; k < experts; ++k) {
        const float weight = routing.weights_of_row(row)[k];
        const float* output = outputs + routing.places_of_row(row)[k] * hidden;
        for (int64_t i = 0; i < hidden; ++i) sum[i] += weight * output[i];
      }
      add_normed(portion, row, sum, block.post_feed_forward_norm);
    }
  });
}

}  // namespace penjing
