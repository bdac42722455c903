// Which rows a step has, in which order, and their rotations.
#include <algorithm>
#include <cmath>

#include "model.h"

namespace penjing {
namespace {

}  // namespace

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
  int64_t vectors = 0;
  for (const Block& block : blocks_) {
    most_query_columns_ = std::max(most_query_columns_, block.query.matrix.rows);
    vectors = std::max(vectors, rows_of_tile(block) * block.num_heads / block.num_kv_heads);
  }
  hidden_.reserve(rows_.size() * shape_.hidden_size);
  query_.reserve(rows_.size() * most_query_columns_);
  scratch_size_ = round_up(attention_scratch_floats(vectors, shape_.head_dim), kRowsPerTile);
  attention_scratch_.reserve(pool_.threads() * scratch_size_);
}

// Wanted rows stand in the caller's order; a new segment begins wherever the tier changes, if the head knows
// tiers: any other is read once for all rows.
void Model::gather_wanted(const std::vector<StepSequence>& sequences) {
  wanted_rows_.clear();
  wanted_segments_.clear();
  const bool has_tiers = ends_.head.format == Format::layered;
  for (size_t index = 0; index < sequences.size(); ++index) {
    const StepSequence& sequence = sequences[index];
    if (sequence.num_wanted == 0) continue;
    const auto begin = static_cast<int64_t>(wanted_rows_.size());
    for (int64_t i = 0; i < sequence.num_wanted; ++i)
      wanted_rows_.push_back(
          {&sequence, static_cast<int64_t>(index), sequence.first_position + sequence.wanted[i]});
    const auto end = static_cast<int64_t>(wanted_rows_.size());
    if (!wanted_segments_.empty() && (!has_tiers || wanted_segments_.back().tier == sequence.tier))
      wanted_segments_.back().end = end;
    else
      wanted_segments_.push_back({sequence.tier, begin, end});
  }
}

// The angle is rounded to float32 as transformers rounds it; its cosine and sine are then exact to the last
// bit or so. Grown in strides, because a context of 131,072 positions would take 64 MiB.
void Model::extend_rotations(int64_t positions) {
  const int64_t known = turned_positions_;
  if (positions <= known) return;
  const int64_t target =
      std::min(std::max(round_up(positions, kSpanTokens), 2 * known), shape_.max_positions);
  turns_.resize(shape_.rotations.size());
  for (size_t index = 0; index < turns_.size(); ++index) {
    const Rotation& rotation = shape_.rotations[index];
    const int64_t pairs = rotation.inverse_frequencies.size();
    Turns& turns = turns_[index];
    turns.cosines.resize(target * pairs);
    turns.sines.resize(target * pairs);
    for (int64_t position = known; position < target; ++position)
      for (int64_t i = 0; i < pairs; ++i) {
        const float angle = static_cast<float>(position) * rotation.inverse_frequencies[i];
        const int64_t place = position * pairs + i;
        turns.cosines[place] = static_cast<float>(std::cos(static_cast<double>(angle))) * rotation.factor;
        turns.sines[place] = static_cast<float>(std::sin(static_cast<double>(angle))) * rotation.factor;
      }
  }
  turned_positions_ = target;
}

}  // namespace penjing
