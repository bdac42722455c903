#include "kernel_table.h"

namespace penjing {

extern const Kernels kernels_scalar;
constexpr Kernels kernels_scalar = kernel_table<Scalar>("scalar");

}  // namespace penjing
