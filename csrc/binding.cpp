// Python's view of the kernels. Arrays are checked here and nowhere below; src/penjing/kernels wraps this.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "binding.h"
#include "crc32c.h"
#include "kernels.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penjing {
namespace {

template <class T>
using Table = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Writable = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr const char* kFormatNames[kFormats] = {"fp32", "fp16", "bf16", "int8", "int4",   "layered", "int2",
                                                "int3", "int5", "int6", "table2", "table3", "table4",  "nf4",
                                                "mxfp4", "fp8"};

Format parse_format(const std::string& name) {
  for (int i = 0; i < kFormats; ++i)
    if (name == kFormatNames[i]) return static_cast<Format>(i);
  throw std::invalid_argument("unknown matrix format '" + name + "'");
}

bool may_have_zeros(Format format) {
  return format == Format::int8 || format == Format::int4 ||
         (format >= Format::int2 && format <= Format::int6);
}

bool has_table(Format format) { return format >= Format::table2 && format <= Format::table4; }

Tier parse_tier(const std::string& name) {
  if (name == "fast") return Tier::fast;
  if (name == "best") return Tier::best;
  throw std::invalid_argument("unknown tier '" + name + "': use fast or best");
}

const Kernels& parse_isa(const std::string& name) {
  if (const Kernels* kernels = find_kernels(name.c_str())) return *kernels;
  throw std::invalid_argument("this CPU cannot run the instruction set '" + name + "'");
}

void expect(bool condition, const std::string& complaint) {
  if (!condition) throw std::invalid_argument(complaint);
}

void expect_size(const char* part, size_t actual, int64_t expected) {
  expect(actual == static_cast<size_t>(expected), std::string(part) + " has " + std::to_string(actual) +
                                                      " elements, and " + std::to_string(expected) +
                                                      " are expected");
}

// A part as the view reads it; the array is kept. Complains unless it is there exactly where it is wanted.
template <class T>
const T* bind_part(const char* name, const std::optional<Flat<T>>& part, bool wanted, int64_t size, Flat<T>& kept) {
  expect(part.has_value() == wanted,
         std::string(name) + (wanted ? " is missing" : " does not belong to this format"));
  if (!part) return nullptr;
  expect_size(name, part->size(), size);
  kept = *part;
  return part->data();
}

BoundMatrix bind_matrix(const std::string& format_name, int64_t rows, int64_t columns, int64_t group_size,
                        Flat<uint8_t> codes, const std::optional<Flat<uint16_t>>& scales,
                        const std::optional<Flat<uint8_t>>& residual, const std::optional<Flat<uint8_t>>& high,
                        const std::optional<Flat<uint8_t>>& zeros, const std::optional<Flat<int8_t>>& table) {
  const Format format = parse_format(format_name);
  const bool grouped = format >= Format::int8;
  constexpr int64_t kLongest = int64_t{1} << 31;
  expect(rows > 0 && columns > 0 && rows <= kLongest && columns <= kLongest,
         "rows and columns must be positive");
  expect(grouped ? group_size == 32 || group_size == 64 || group_size == 128 : group_size == 0,
         "group_size must be 32, 64 or 128 for codes, and 0 for floats");

  BoundMatrix bound{};
  bound.codes = codes;
  Matrix& view = bound.view;
  view = {format, rows, columns, group_size, codes.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
  expect_size("codes", codes.size(), view.row_tiles() * view.low_bytes());
  const int64_t element = kLowBits[static_cast<int>(format)] / 8;
  expect(grouped || reinterpret_cast<uintptr_t>(codes.data()) % element == 0, "codes are not aligned");
  const int64_t groups = view.row_tiles() * view.groups() * kRowsPerTile;
  view.scales = bind_part("scales", scales, grouped, groups, bound.scales);
  view.residual = bind_part("residual", residual, format == Format::layered,
                            view.row_tiles() * view.low_bytes(), bound.residual);
  view.high =
      bind_part("high", high, view.high_bytes() != 0, view.row_tiles() * view.high_bytes(), bound.high);
  view.zeros = bind_part("zeros", zeros, zeros && may_have_zeros(format), groups, bound.zeros);
  view.table = bind_part("table", table, has_table(format), 16, bound.table);
  return bound;
}

// Calls product(first tile, last tile) over all row tiles; each call computes its outputs whole.
template <class Product>
void share_tiles(const Matrix& w, int threads, const Product& product) {
  ThreadPool pool(threads);
  const int64_t tiles = w.row_tiles(), parts = threads == 1 ? 1 : 4 * threads;
  const int64_t step = ((tiles + parts - 1) / parts + 1) / 2 * 2;
  pool.run((tiles + step - 1) / step, [&](int64_t part, int) {
    const int64_t first = part * step;
    product(first, first + step < tiles ? first + step : tiles);
  });
}

void linear_float(const BoundMatrix& matrix, Table<const float> x, const std::string& isa, int threads,
                  Table<float> out) {
  const Matrix& w = matrix.view;
  const Kernels& kernels = parse_isa(isa);
  expect(!w.is_integer(), "an integer matrix takes quantized rows");
  expect_size("a row of x", x.shape(1), w.columns);
  expect_size("a row of out", out.shape(1), w.rows);
  expect_size("out", out.shape(0), static_cast<int64_t>(x.shape(0)));
  const auto tokens = static_cast<int64_t>(x.shape(0));
  nb::gil_scoped_release released;
  share_tiles(w, threads, [&](int64_t first, int64_t last) {
    kernels.linear_float(w, x.data(), tokens, w.columns, first, last, out.data(), w.rows);
  });
}

void linear_int(const BoundMatrix& matrix, const std::string& tier_name, int64_t tokens,
                const Flat<int8_t>& codes, const Flat<float>& scales, const Flat<int32_t>& sums,
                const std::string& isa, int threads, Table<float> out) {
  const Matrix& w = matrix.view;
  const Kernels& kernels = parse_isa(isa);
  const Tier tier = parse_tier(tier_name);
  expect(w.is_integer(), "a matrix of floats takes float32 rows");
  expect_size("codes", codes.size(), tokens * w.padded_columns());
  expect_size("scales", scales.size(), tokens * w.groups());
  expect_size("sums", sums.size(), tokens * w.groups());
  expect_size("a row of out", out.shape(1), w.rows);
  expect_size("out", out.shape(0), tokens);
  nb::gil_scoped_release released;
  const QuantizedRows rows{codes.data(), scales.data(), sums.data()};
  share_tiles(w, threads, [&](int64_t first, int64_t last) {
    kernels.linear_int(w, tier, rows, tokens, first, last, out.data(), w.rows);
  });
}

void quantize_rows(Table<const float> x, int64_t group_size, const std::string& isa, Writable<int8_t> codes,
                   Writable<float> scales, Writable<int32_t> sums) {
  const Kernels& kernels = parse_isa(isa);
  expect(group_size == 32 || group_size == 64 || group_size == 128, "group_size must be 32, 64 or 128");
  const auto tokens = static_cast<int64_t>(x.shape(0)), columns = static_cast<int64_t>(x.shape(1));
  const int64_t groups = (columns + group_size - 1) / group_size;
  expect_size("codes", codes.size(), tokens * groups * group_size);
  expect_size("scales", scales.size(), tokens * groups);
  expect_size("sums", sums.size(), tokens * groups);
  nb::gil_scoped_release released;
  kernels.quantize_rows(x.data(), tokens, columns, group_size, 0, groups, codes.data(), scales.data(),
                        sums.data());
}

void dequantize_row(const BoundMatrix& matrix, int64_t row, const std::string& tier_name,
                    const std::string& isa, Writable<float> out) {
  const Kernels& kernels = parse_isa(isa);
  const Tier tier = parse_tier(tier_name);
  expect(row >= 0 && row < matrix.view.rows, "row " + std::to_string(row) + " is outside the matrix");
  expect_size("out", out.size(), matrix.view.columns);
  kernels.dequantize_row(matrix.view, tier, row, out.data());
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const char* const* name = available_kernels(); *name; ++name) names.emplace_back(*name);
  return names;
}

}  // namespace
}  // namespace penjing

NB_MODULE(_core, module) {
  using namespace penjing;
  nb::class_<BoundMatrix>(module, "Matrix")
      .def("__init__",
           [](BoundMatrix* self, const std::string& format, int64_t rows, int64_t columns, int64_t group_size,
              Flat<uint8_t> codes, const std::optional<Flat<uint16_t>>& scales,
              const std::optional<Flat<uint8_t>>& residual, const std::optional<Flat<uint8_t>>& high,
              const std::optional<Flat<uint8_t>>& zeros, const std::optional<Flat<int8_t>>& table) {
             new (self) BoundMatrix(bind_matrix(format, rows, columns, group_size, codes, scales, residual, high,
                                                zeros, table));
           },
           "format"_a, "rows"_a, "columns"_a, "group_size"_a, "codes"_a.noconvert(),
           "scales"_a.noconvert().none() = nb::none(), "residual"_a.noconvert().none() = nb::none(),
           "high"_a.noconvert().none() = nb::none(), "zeros"_a.noconvert().none() = nb::none(),
           "table"_a.noconvert().none() = nb::none())
      .def_prop_ro("format", [](const BoundMatrix& m) { return kFormatNames[static_cast<int>(m.view.format)]; })
      .def_prop_ro("rows", [](const BoundMatrix& m) { return m.view.rows; })
      .def_prop_ro("columns", [](const BoundMatrix& m) { return m.view.columns; })
      .def_prop_ro("group_size", [](const BoundMatrix& m) { return m.view.group_size; })
      .def_prop_ro("is_integer", [](const BoundMatrix& m) { return m.view.is_integer(); });
  module.def("available_kernels", &kernel_names);
  module.def("linear_float", &linear_float, "matrix"_a, "x"_a.noconvert(), "isa"_a, "threads"_a,
             "out"_a.noconvert());
  module.def("linear_int", &linear_int, "matrix"_a, "tier"_a, "tokens"_a, "codes"_a.noconvert(),
             "scales"_a.noconvert(), "sums"_a.noconvert(), "isa"_a, "threads"_a, "out"_a.noconvert());
  module.def("quantize_rows", &quantize_rows, "x"_a.noconvert(), "group_size"_a, "isa"_a, "codes"_a.noconvert(),
             "scales"_a.noconvert(), "sums"_a.noconvert());
  module.def("dequantize_row", &dequantize_row, "matrix"_a, "row"_a, "tier"_a, "isa"_a, "out"_a.noconvert());
  module.def(
      "crc32c",
      [](const std::vector<Flat<uint8_t>>& buffers, int threads) {
        std::vector<Bytes> views;
        for (const Flat<uint8_t>& buffer : buffers) views.push_back({buffer.data(), buffer.size()});
        nb::gil_scoped_release released;
        ThreadPool pool(threads);
        return crc32c(views, pool);
      },
      "buffers"_a, "threads"_a);
  module.def(
      "crc32c_portable", [](Flat<uint8_t> bytes) { return crc32c_portable(0, bytes.data(), bytes.size()); },
      "bytes"_a.noconvert());
  bind_model(module);
  bind_sampling(module);
}
