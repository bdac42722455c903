// The activations that enter one or more matrices, in every form those matrices read.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>

#include "kernels.h"

namespace penjing {

// Grow-only scratch on 64-byte boundaries; its contents are lost when it grows.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t count) {
    if (count > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_.reset(static_cast<T*>(::operator new(count * sizeof(T), kAlignment)));
      capacity_ = count;
    }
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* pointer) const { ::operator delete(pointer, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t capacity_ = 0;
};

class Activations {
 public:
  // Make room for `tokens` rows that will enter `matrices`, all of which have the same number of columns.
  void prepare(int64_t tokens, std::initializer_list<const Matrix*> matrices) {
    columns_ = (*matrices.begin())->columns;
    values_.reserve(tokens * columns_);
    for (Quantized& quantized : quantized_) quantized.wanted = false;
    for (const Matrix* matrix : matrices) also_for(tokens, *matrix);
  }

  // After `prepare`: room for one more matrix that they will enter.
  void also_for(int64_t tokens, const Matrix& matrix) {
    if (!matrix.is_integer()) return;
    Quantized& quantized = quantized_[slot(matrix.group_size)];
    quantized.wanted = true;
    quantized.groups = matrix.groups();
    quantized.codes.reserve(tokens * matrix.padded_columns());
    quantized.scales.reserve(tokens * quantized.groups);
    quantized.sums.reserve(tokens * quantized.groups);
  }

  float* row(int64_t token) { return values_.data() + token * columns_; }
  const float* row(int64_t token) const { return values_.data() + token * columns_; }
  int64_t columns() const { return columns_; }
  bool has_quantized() const { return quantized_[0].wanted || quantized_[1].wanted || quantized_[2].wanted; }

  // Columns that are quantized as one piece of work: a whole number of groups, whatever their size.
  static constexpr int64_t kPieceColumns = 128;
  int64_t pieces() const { return (columns_ + kPieceColumns - 1) / kPieceColumns; }

  // Quantize pieces [first, last) of rows [begin, end), once per distinct group size; nothing to do for float
  // matrices. A kernel reads these rows together, and no others with them.
  void quantize(const Kernels& kernels, int64_t begin, int64_t end, int64_t first, int64_t last) {
    for (int index = 0; index < kSizes; ++index) {
      Quantized& to = quantized_[index];
      if (!to.wanted) continue;
      const int64_t group_size = kSmallest << index, per_piece = kPieceColumns / group_size;
      kernels.quantize_rows(row(begin), end - begin, columns_, group_size, first * per_piece,
                            std::min(last * per_piece, to.groups),
                            to.codes.data() + begin * to.groups * group_size,
                            to.scales.data() + begin * to.groups, to.sums.data() + begin * to.groups);
    }
  }

  // The quantized rows from `begin` on, as a matrix with this group size reads them.
  QuantizedRows quantized(int64_t group_size, int64_t begin) const {
    const Quantized& from = quantized_[slot(group_size)];
    return {from.codes.data() + begin * from.groups * group_size, from.scales.data() + begin * from.groups,
            from.sums.data() + begin * from.groups};
  }

 private:
  static constexpr int kSizes = 3;  // groups of 32, 64 and 128
  static constexpr int64_t kSmallest = 32;
  struct Quantized {
    bool wanted = false;
    int64_t groups = 0;
    Buffer<int8_t> codes;
    Buffer<float> scales;
    Buffer<int32_t> sums;
  };

  static int slot(int64_t group_size) { return group_size == 32 ? 0 : group_size == 64 ? 1 : 2; }

  int64_t columns_ = 0;
  Buffer<float> values_;
  std::array<Quantized, kSizes> quantized_;
};

}  // namespace penjing
