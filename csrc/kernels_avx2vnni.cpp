#include "kernel_table.h"

namespace penjing {

extern const Kernels kernels_avx2vnni;
constexpr Kernels kernels_avx2vnni = kernel_table<Avx2Vnni>("avx2vnni");

}  // namespace penjing
