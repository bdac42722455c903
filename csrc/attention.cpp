// The attention of a step: which tiles there are, and who computes them.
#include <algorithm>

#include "model.h"

namespace penjing {
namespace {

constexpr int64_t kVectorsOfTile = 16;  // queries whose scores fit the level-1 cache beside a span's values
constexpr int64_t kMostRowsOfTile = 8;
constexpr int64_t kTasksOfThread = 4;       // fewer than these are not shared out evenly
constexpr int64_t kWorthSharing = 1 << 20;  // multiply-adds, about ten microseconds

}  // namespace

int64_t Model::rows_of_tile(const Block& block) {
  return std::clamp<int64_t>(kVectorsOfTile * block.num_kv_heads / block.num_heads, 1, kMostRowsOfTile);
}

// Each KV head's tiles follow one another: neighbours read the same keys and values.
void Model::gather_tiles(Portion& portion, const Block& block) {
  const int64_t queries = block.num_heads / block.num_kv_heads, most = rows_of_tile(block);
  const int64_t stride = portion.attended.columns();
  portion.tiles.clear();
  for (int64_t kv_head = 0; kv_head < block.num_kv_heads; ++kv_head) {
    const int64_t place = kv_head * queries * shape_.head_dim;
    for (int64_t i = 0, rows = 0; i < portion.count; i += rows) {
      const Row& first = rows_[portion.first + i];
      const int64_t end = first.sequence->first_position + first.sequence->num_tokens;
      rows = std::min({most, portion.count - i, end - first.position});
      portion.tiles.push_back({first.sequence->pages, kv_head, first.position, rows,
                               queries_of(portion) + i * stride + place, portion.attended.row(i) + place,
                               stride});
    }
  }
}

void Model::attend(Portion& portion, size_t index) {
  const Block& block = blocks_[index];
  const Attention attention{keys_[index],         values_[index],        block.num_heads / block.num_kv_heads,
                            block.sliding_window, block.attention_scale, block.attention_softcap};
  portion.attended.prepare(portion.count, {&block.output.matrix});
  gather_tiles(portion, block);
  const auto& tiles = portion.tiles;
  const auto count = static_cast<int64_t>(tiles.size()), threads = static_cast<int64_t>(pool_.threads());
  int64_t spans = 0;
  for (const AttentionTile& tile : tiles) spans += end_span(tile) - first_span(attention, tile);
  const int64_t span_work = 2 * kSpanTokens * attention.queries * shape_.head_dim;
  const int64_t worth = std::max<int64_t>(kWorthSharing / span_work, 1);  // spans
  if (portion.thread != kAllThreads || threads == 1 || spans <= worth) {
    float* scratch = attention_scratch(std::max(portion.thread, 0));
    for (const AttentionTile& tile : tiles) kernels_.attend(attention, tile, scratch);
  } else if (count >= kTasksOfThread * threads) {
    const int64_t piece = std::clamp<int64_t>(worth * count / spans, 1, count / threads);
    pool_.run((count + piece - 1) / piece, [&](int64_t task, int thread) {
      for (int64_t i = task * piece; i < std::min((task + 1) * piece, count); ++i)
        kernels_.attend(attention, tiles[i], attention_scratch(thread));
    });
  } else {
    attend_in_parts(attention, tiles, std::max(worth, spans / (kTasksOfThread * threads)));
  }
}

// Few tiles and long contexts: threads share the spans of each tile, and its parts are merged when all of
// them are there, in the order in which one thread would have merged them.
void Model::attend_in_parts(const Attention& attention, const std::vector<AttentionTile>& tiles,
                            int64_t piece) {
  struct Task {
    const AttentionTile* tile;
    int64_t first, last, place;
  };
  std::vector<Task> tasks;
  std::vector<int64_t> places;
  int64_t size = 0;
  for (const AttentionTile& tile : tiles) {
    const int64_t floats = part_floats(tile.rows * attention.queries, shape_.head_dim);
    const int64_t begin = first_span(attention, tile), end = end_span(tile);
    places.push_back(size);
    for (int64_t first = begin; first < end; first += piece)
      tasks.push_back({&tile, first, std::min(first + piece, end), size + (first - begin) * floats});
    size += (end - begin) * floats;
  }
  float* parts = attention_parts_.reserve(size);
  pool_.run(tasks.size(), [&](int64_t index, int thread) {
    const Task& task = tasks[index];
    kernels_.attend_spans(attention, *task.tile, task.first, task.last, attention_scratch(thread),
                          parts + task.place);
  });
  pool_.run(tiles.size(), [&](int64_t index, int) {
    kernels_.merge_spans(attention, tiles[index], parts + places[index]);
  });
}

}  // namespace penjing
