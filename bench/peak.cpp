// What this machine can do at most: int8 dot products and bytes read, on a number of threads, per second of
// processor time. Prints "GOP/s GB/s". Compiled by bench/kernels.py with -O3 -march=native.
#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512VNNI__)
constexpr double kOperations = 128;  // multiplications and additions of an instruction
using Register = __m512i;
static Register dot(Register acc, Register a, Register b) { return _mm512_dpbusd_epi32(acc, a, b); }
static Register ones() { return _mm512_set1_epi8(1); }
static Register load(const uint8_t* p) { return _mm512_loadu_si512(p); }
static Register mix(Register a, Register b) { return _mm512_xor_si512(a, b); }
#else
constexpr double kOperations = 64;
using Register = __m256i;
static Register dot(Register acc, Register a, Register b) {
  const __m256i pairs = _mm256_maddubs_epi16(a, b);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static Register ones() { return _mm256_set1_epi8(1); }
static Register load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
static Register mix(Register a, Register b) { return _mm256_xor_si256(a, b); }
#endif

static volatile uint8_t sink;

static void keep(Register x) {
  uint8_t bytes[sizeof(Register)];
  __builtin_memcpy(bytes, &x, sizeof bytes);
  sink = bytes[0];
}

static void compute(int64_t rounds) {
  Register acc[12], a = ones(), b = ones();
  for (auto& x : acc) x = ones();
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (auto& x : acc) x = dot(x, a, b);
    __asm__ volatile("" : "+x"(a), "+x"(b));
  }
  for (auto& x : acc) keep(x);
}

static void read(const uint8_t* data, int64_t size) {
  Register acc[4] = {ones(), ones(), ones(), ones()};
  constexpr int64_t kStep = 4 * sizeof(Register);
  for (int64_t i = 0; i + kStep <= size; i += kStep)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[j] = mix(acc[j], load(data + i + j * sizeof(Register)));
  for (auto& x : acc) keep(x);
}

static double processor_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Of the slowest thread, in the best of several trials.
template <class Work>
static double best_seconds(int threads, const Work& work) {
  double best = 1e9;
  for (int trial = 0; trial < 7; ++trial) {
    std::vector<double> seconds(threads);
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        const double start = processor_seconds();
        work(i);
        seconds[i] = processor_seconds() - start;
      });
    }
    for (auto& worker : workers) worker.join();
    best = std::min(best, *std::max_element(seconds.begin(), seconds.end()));
  }
  return best;
}

int main(int, char** arguments) {
  const int threads = std::atoi(arguments[1]);
  constexpr int64_t kRounds = 20'000'000, kBytes = int64_t{512} << 20;
  const std::vector<uint8_t> data(kBytes, 1);
  const int64_t share = kBytes / threads;
  const double compute_seconds = best_seconds(threads, [](int) { compute(kRounds); });
  const double read_seconds = best_seconds(threads, [&](int i) { read(data.data() + i * share, share); });
  std::printf("%.1f %.1f\n", kRounds * 12 * kOperations * threads / compute_seconds / 1e9,
              static_cast<double>(share) * threads / read_seconds / 1e9);
}
