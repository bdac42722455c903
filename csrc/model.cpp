// What a model may be, where its pages lie, and what may be asked of it. step.cpp computes.
#include "model.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace penjing {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kHugePage = 2 << 20;

// Pages of a long context are scattered over more memory than translation caches cover in small pages: worth a
// tenth of the time of attention. The system may decline.
void ask_for_huge_pages(uint8_t* begin, int64_t bytes) {
#if defined(__linux__)
  madvise(begin, bytes, MADV_HUGEPAGE);
#else
  static_cast<void>(begin), static_cast<void>(bytes);
#endif
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

[[noreturn]] void refuse(int64_t sequence, const std::string& what) {
  refuse("sequence " + std::to_string(sequence) + " of the step: " + what);
}

std::string count(int64_t number) { return std::to_string(number); }

int64_t plane_bytes(const KvPlane& plane) { return round_up(plane.kv_heads * plane.head_bytes(), kLine); }

void check_matrix(const Matrix& matrix, int64_t rows, int64_t columns, const char* name) {
  if (matrix.rows == rows && matrix.columns == columns) return;
  refuse(std::string(name) + " is [" + count(matrix.rows) + ", " + count(matrix.columns) +
         "], and the model needs [" + count(rows) + ", " + count(columns) + "]");
}

void check_feed_forwards(const Block& block, int64_t hidden) {
  const int64_t number = block.feed_forwards.size();
  if (block.has_experts()) {
    check_matrix(block.router.matrix, number, hidden, "router");
    if (block.experts_per_token < 1 || block.experts_per_token > number)
      refuse(count(block.experts_per_token) + " experts a token cannot be chosen among " + count(number));
  } else if (number != 1) {
    refuse("a block without a router has one feed-forward, not " + count(number));
  }
  for (const FeedForward& weights : block.feed_forwards) {
    check_matrix(weights.gate.matrix, block.intermediate_size, hidden, "gate");
    check_matrix(weights.up.matrix, block.intermediate_size, hidden, "up");
    check_matrix(weights.down.matrix, hidden, block.intermediate_size, "down");
  }
}

}  // namespace

Model::Model(const Kernels& kernels, int threads, ModelShape shape, const Ends& ends,
             std::vector<Block> blocks)
    : kernels_(kernels), shape_(std::move(shape)), ends_(ends), blocks_(std::move(blocks)), pool_(threads) {
  check_shapes();
  place_planes();
}

void Model::check_shapes() const {
  const int64_t hidden = shape_.hidden_size, head_dim = shape_.head_dim;
  if (blocks_.empty()) refuse("a model needs at least one block");
  if (head_dim < 2 || head_dim % 2 || head_dim > kMostHeadDim)
    refuse("head_dim must be even and at most " + count(kMostHeadDim) + ", got " + count(head_dim));
  for (const Rotation& rotation : shape_.rotations) {
    const int64_t pairs = rotation.inverse_frequencies.size();
    if (pairs < 1 || pairs > head_dim / 2)
      refuse("a rotation must have between 1 and head_dim / 2 frequencies, got " + count(pairs));
  }
  if (shape_.max_positions < 1) refuse("max_positions must be positive, got " + count(shape_.max_positions));
  check_matrix(ends_.embedding, shape_.vocab_size, hidden, "embedding");
  check_matrix(ends_.head, shape_.vocab_size, hidden, "head");
  for (const Block& block : blocks_) {
    if (block.num_heads < 1 || block.num_kv_heads < 1 || block.num_heads % block.num_kv_heads)
      refuse(count(block.num_heads) + " heads cannot share " + count(block.num_kv_heads) +
             " key-value heads");
    const int64_t query = block.num_heads * head_dim, key = block.num_kv_heads * head_dim;
    check_matrix(block.query.matrix, query, hidden, "query");
    check_matrix(block.key.matrix, key, hidden, "key");
    check_matrix(block.value.matrix, key, hidden, "value");
    check_matrix(block.output.matrix, hidden, query, "output");
    if (block.rotation < 0 || block.rotation >= static_cast<int64_t>(shape_.rotations.size()))
      refuse("rotation " + count(block.rotation) + " is not one of the model's " +
             count(shape_.rotations.size()));
    check_feed_forwards(block, hidden);
  }
}

// --- KV memory ---

void Model::place_planes() {
  for (const Block& block : blocks_) {
    keys_.push_back({block.key_format, true, nullptr, 0, block.num_kv_heads, shape_.head_dim});
    values_.push_back({block.value_format, false, nullptr, 0, block.num_kv_heads, shape_.head_dim});
    page_bytes_ += plane_bytes(keys_.back()) + plane_bytes(values_.back());
  }
}

void Model::allocate(int64_t num_pages) {
  if (num_pages < 0 || num_pages > std::numeric_limits<int32_t>::max())
    refuse("the number of pages must be between 0 and 2^31 - 1, got " + count(num_pages));
  std::lock_guard<std::mutex> lock(mutex_);
  kv_memory_.reset();
  num_pages_ = 0;
  if (num_pages > (std::numeric_limits<int64_t>::max() - kHugePage) / page_bytes_) throw std::bad_alloc();
  const int64_t bytes = num_pages * page_bytes_, alignment = bytes < 4 * kHugePage ? kLine : kHugePage;
  // calloc gives untouched zero pages, so that memory is spent when it is first written.
  kv_memory_.reset(std::calloc(bytes + alignment, 1));
  if (!kv_memory_) throw std::bad_alloc();
  page_writer_.assign(num_pages, -1);
  page_user_.assign(num_pages, -1);
  auto address = reinterpret_cast<uintptr_t>(kv_memory_.get());
  first_page_ = reinterpret_cast<uint8_t*>((address + alignment - 1) / alignment * alignment);
  if (alignment == kHugePage) ask_for_huge_pages(first_page_, bytes);
  uint8_t* next = first_page_;
  for (size_t index = 0; index < blocks_.size(); ++index)
    for (KvPlane* plane : {&keys_[index], &values_[index]}) {
      plane->base = next;
      plane->page_stride = page_bytes_;
      next += plane_bytes(*plane);
    }
  num_pages_ = num_pages;
}

void Model::copy_page(int64_t source, int64_t target) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const int64_t page : {source, target})
    if (page < 0 || page >= num_pages_)
      refuse("page " + count(page) + " is not one of the " + count(num_pages_) + " allocated");
  std::memmove(first_page_ + target * page_bytes_, first_page_ + source * page_bytes_, page_bytes_);
}

// --- what may be asked for ---

void Model::check_sequences(const std::vector<StepSequence>& sequences) const {
  for (size_t index = 0; index < sequences.size(); ++index) {
    const StepSequence& sequence = sequences[index];
    if (sequence.num_tokens < 1) refuse(index, "it has no tokens");
    for (int64_t i = 0; i < sequence.num_tokens; ++i)
      if (sequence.tokens[i] < 0 || sequence.tokens[i] >= shape_.vocab_size)
        refuse(index, "token " + count(sequence.tokens[i]) + " is outside the vocabulary of " +
                          count(shape_.vocab_size));
    if (sequence.first_position < 0 || sequence.first_position > shape_.max_positions - sequence.num_tokens)
      refuse(index, count(sequence.num_tokens) + " tokens from position " + count(sequence.first_position) +
                        " do not fit a context of " + count(shape_.max_positions));
    for (int64_t i = 0; i < sequence.num_wanted; ++i) {
      const int64_t wanted = sequence.wanted[i], previous = i ? sequence.wanted[i - 1] : -1;
      if (wanted <= previous || wanted >= sequence.num_tokens)
        refuse(index, "wanted rows must ascend within the " + count(sequence.num_tokens) + " tokens, got " +
                          count(wanted) + " after " + count(previous));
    }
    const int64_t end = sequence.first_position + sequence.num_tokens;
    if (sequence.num_pages < (end + kPageTokens - 1) / kPageTokens)
      refuse(index, count(sequence.num_pages) + " pages of " + count(kPageTokens) + " tokens do not cover " +
                        count(end) + " positions");
    for (int64_t i = 0; i < sequence.num_pages; ++i)
      if (sequence.pages[i] < 0 || sequence.pages[i] >= num_pages_)
        refuse(index,
               "page " + count(sequence.pages[i]) + " is not one of the " + count(num_pages_) + " allocated");
  }
}

// A page that is written in a step belongs to one sequence and stands in it once: whoever else reads it would
// see it change while the step runs.
void Model::check_pages(const std::vector<StepSequence>& sequences) {
  std::fill(page_writer_.begin(), page_writer_.end(), -1);
  std::fill(page_user_.begin(), page_user_.end(), -1);
  for (size_t index = 0; index < sequences.size(); ++index) {
    const StepSequence& sequence = sequences[index];
    const int64_t end = sequence.first_position + sequence.num_tokens;
    for (int64_t i = sequence.first_position / kPageTokens; i * kPageTokens < end; ++i)
      page_writer_[sequence.pages[i]] = static_cast<int32_t>(index);
  }
  for (size_t index = 0; index < sequences.size(); ++index) {
    const StepSequence& sequence = sequences[index];
    for (int64_t i = 0; i < sequence.num_pages; ++i) {
      const int32_t page = sequence.pages[i], writer = page_writer_[page];
      if (page_user_[page] == static_cast<int32_t>(index))
        refuse(index, "page " + count(page) + " holds two stretches of its positions");
      if (writer >= 0 && writer != static_cast<int32_t>(index))
        refuse(index,
               "page " + count(page) + " is written by sequence " + count(writer) + " in the same step");
      page_user_[page] = static_cast<int32_t>(index);
    }
  }
}

}  // namespace penjing
