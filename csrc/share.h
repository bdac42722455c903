// How threads share the work of a step.
#pragma once
#include <algorithm>

#include "model.h"

namespace penjing {

constexpr int64_t kWorthSharing = 1 << 18;  // multiply-adds, about ten microseconds
constexpr int64_t kPiecesOfThread = 16;     // finest cut of shared work
constexpr int64_t kTilesTogether = 4;       // row tiles that a kernel likes to run at once

template <class Body>
void Model::share(const Portion& portion, int64_t count, int64_t work, int64_t multiple, const Body& body) {
  if (portion.thread != kAllThreads || pool_.threads() == 1) {
    body(0, count, std::max(portion.thread, 0));
    return;
  }
  const int64_t threads = pool_.threads(), worth = kWorthSharing / std::max<int64_t>(work, 1);
  const int64_t piece = round_up(std::max<int64_t>({count / (threads * kPiecesOfThread), worth, 1}), multiple);
  // One long piece for each thread, which reads memory as one stream, and then short ones, so that all end
  // together.
  const int64_t most = count / threads * 3 / 4 / multiple * multiple, first = most > 2 * piece ? most : 0;
  const int64_t taken = first * threads;
  pool_.run((first ? threads : 0) + (count - taken + piece - 1) / piece, [&](int64_t task, int thread) {
    const bool is_long = first && task < threads;
    const int64_t begin = is_long ? task * first : taken + (first ? task - threads : task) * piece;
    body(begin, is_long ? begin + first : std::min(begin + piece, count), thread);
  });
}

}  // namespace penjing
