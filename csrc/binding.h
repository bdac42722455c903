// What the binding files share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "kernels.h"

namespace penjing {

template <class T>
using Flat = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// A weight matrix as Python hands it over: kernels.h's view, and the arrays that it points into.
struct BoundMatrix {
  Matrix view;
  Flat<uint8_t> codes, residual, high, zeros;
  Flat<uint16_t> scales;
  Flat<int8_t> table;
};

// Adds the model to the module (model_binding.cpp).
void bind_model(nanobind::module_& module);

// Adds the sampler (sampling_binding.cpp).
void bind_sampling(nanobind::module_& module);

}  // namespace penjing
