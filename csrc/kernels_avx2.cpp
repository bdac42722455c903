#include "kernel_table.h"

namespace penjing {

extern const Kernels kernels_avx2;
constexpr Kernels kernels_avx2 = kernel_table<Avx2>("avx2");

}  // namespace penjing
