// Which tables this CPU, and its operating system, can run.
#include <cstring>

#include "kernels.h"

namespace penjing {

extern const Kernels kernels_scalar, kernels_avx2, kernels_avx2vnni, kernels_avx512;

namespace {

struct Choices {
  const Kernels* tables[5] = {};
  const char* names[5] = {};
};

#if defined(__x86_64__)
// __builtin_cpu_supports has checked with xgetbv that the system saves ymm and zmm registers. AVX-VNNI is not
// among the names it knows everywhere: CPUID leaf 7, subleaf 1, EAX bit 4.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avxvnni() {
  uint32_t a, b, c, d;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  if (a < 1) return false;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
  return (a >> 4 & 1) != 0;
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

Choices detect() {
  Choices found;
  int count = 0;
  const auto add = [&](const Kernels& kernels) {
    found.tables[count] = &kernels;
    found.names[count++] = kernels.name;
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (has_avx2() && has_avx512()) add(kernels_avx512);
  if (has_avx2() && has_avxvnni()) add(kernels_avx2vnni);
  if (has_avx2()) add(kernels_avx2);
#endif
  add(kernels_scalar);
  return found;
}

const Choices& choices() {
  static const Choices found = detect();
  return found;
}

}  // namespace

const Kernels* find_kernels(const char* name) {
  for (int i = 0; choices().tables[i]; ++i)
    if (std::strcmp(choices().names[i], name) == 0) return choices().tables[i];
  return nullptr;
}

const char* const* available_kernels() { return choices().names; }

}  // namespace penjing
