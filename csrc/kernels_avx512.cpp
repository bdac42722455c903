#include "kernel_table.h"

namespace penjing {

extern const Kernels kernels_avx512;
constexpr Kernels kernels_avx512 = kernel_table<Avx512>("avx512");

}  // namespace penjing
