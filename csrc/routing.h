// Which experts a row goes to, and which rows an expert works on.
#pragma once
#include <cstdint>
#include <vector>

#include "activations.h"
#include "kernels.h"

namespace penjing {

// Consecutive rows that run at the same tier.
struct Segment {
  Tier tier;
  int64_t begin, end;
};
using Segments = std::vector<Segment>;

// Rows are first chosen for, one by one, then arranged: each row gets a place for each of its experts, and the
// places of an expert follow one another, in the order of rows. Which experts a row has, and with which weights,
// is a function of its own probabilities alone.
class Routing {
 public:
  void prepare(int64_t rows, int64_t experts, int64_t experts_per_row);

  // [experts] of a row, to be written before its experts are chosen, and used up by it.
  float* probabilities(int64_t row) { return probabilities_.data() + row * experts_; }

  // The likeliest experts of a row, of equals the first; `normalize` makes their weights add up to 1. Rows may
  // be chosen for by several threads at a time.
  void choose(int64_t row, bool normalize);

  // Segments of rows; once all rows have been chosen for.
  void arrange(const Segments& rows);

  int64_t places() const { return rows_ * experts_per_row_; }
  int64_t row_at(int64_t place) const { return row_of_place_.data()[place]; }
  // Experts that have any rows, ascending, and an expert's places.
  const std::vector<int64_t>& used() const { return used_; }
  const Segments& places_of(int64_t expert) const { return places_of_expert_[expert]; }
  // The places of all experts, one after another.
  const Segments& runs() const { return runs_; }

  // Of a row: where its outputs stand and what they weigh, in the ascending order of its experts.
  const int64_t* places_of_row(int64_t row) const { return places_.data() + row * experts_per_row_; }
  const float* weights_of_row(int64_t row) const { return weights_.data() + row * experts_per_row_; }

 private:
  int64_t rows_ = 0, experts_ = 0, experts_per_row_ = 0;
  Buffer<float> probabilities_, weights_;
  Buffer<int64_t> chosen_, places_, row_of_place_;
  std::vector<int64_t> used_;
  std::vector<Segments> places_of_expert_;
  Segments runs_;
};

}  // namespace penjing
