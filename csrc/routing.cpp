#include "routing.h"

#include <utility>

namespace penjing {

void Routing::prepare(int64_t rows, int64_t experts, int64_t experts_per_row) {
  rows_ = rows;
  experts_ = experts;
  experts_per_row_ = experts_per_row;
  probabilities_.reserve(rows * experts);
  weights_.reserve(places());
  chosen_.reserve(places());
  places_.reserve(places());
  row_of_place_.reserve(places());
}

void Routing::choose(int64_t row, bool normalize) {
  constexpr float kTaken = -1.0f;  // below any probability
  float* left = probabilities(row);
  int64_t* chosen = chosen_.data() + row * experts_per_row_;
  float* weights = weights_.data() + row * experts_per_row_;
  float sum = 0;
  for (int64_t count = 0; count < experts_per_row_; ++count) {
    // NaN is never larger: a broken row goes to the first experts, and stays broken.
    int64_t best = -1;
    for (int64_t expert = 0; expert < experts_; ++expert)
      if (left[expert] != kTaken && (best < 0 || left[expert] > left[best])) best = expert;
    const float weight = left[best];
    left[best] = kTaken;
    sum += weight;
    int64_t at = count;
    for (; at > 0 && chosen[at - 1] > best; --at) {
      chosen[at] = chosen[at - 1];
      weights[at] = weights[at - 1];
    }
    chosen[at] = best;
    weights[at] = weight;
  }
  for (int64_t i = 0; i < experts_per_row_ && normalize; ++i) weights[i] /= sum;
}

void Routing::arrange(const Segments& rows) {
  std::vector<int64_t> next(experts_ + 1, 0);  // first how many rows, then the next free place
  for (int64_t i = 0; i < places(); ++i) ++next[chosen_.data()[i] + 1];
  used_.clear();
  places_of_expert_.resize(experts_);
  for (int64_t expert = 0; expert < experts_; ++expert) {
    places_of_expert_[expert].clear();
    if (next[expert + 1] > 0) used_.push_back(expert);
    next[expert + 1] += next[expert];
  }
  for (const Segment& segment : rows)
    for (int64_t i = segment.begin * experts_per_row_; i < segment.end * experts_per_row_; ++i) {
      const int64_t expert = chosen_.data()[i], place = next[expert]++;
      places_.data()[i] = place;
      row_of_place_.data()[place] = i / experts_per_row_;
      Segments& mine = places_of_expert_[expert];
      if (mine.empty() || mine.back().tier != segment.tier) mine.push_back({segment.tier, place, place});
      mine.back().end = place + 1;
    }
  runs_.clear();
  for (const int64_t expert : used_)
    runs_.insert(runs_.end(), places_of_expert_[expert].begin(), places_of_expert_[expert].end());
}

}  // namespace penjing
