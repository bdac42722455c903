#include "crc32c.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "threads.h"

namespace penjing {
namespace {

// Polynomials over GF(2) modulo the Castagnoli polynomial, bit-reflected: bit 31 is x^0.
constexpr uint32_t kPolynomial = 0x82f63b78u;
constexpr uint32_t kOne = 0x80000000u;

constexpr uint32_t times_x(uint32_t a) { return a & 1 ? a >> 1 ^ kPolynomial : a >> 1; }

constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit; bit >>= 1, b = times_x(b))
    if (a & bit) product ^= b;
  return product;
}

// x^(8 n): what n zero bytes multiply a checksum by.
constexpr uint32_t zero_bytes(uint64_t n) {
  uint32_t result = kOne, square = kOne >> 8;
  for (; n; n >>= 1, square = multiply(square, square))
    if (n & 1) result = multiply(result, square);
  return result;
}

constexpr std::array<uint32_t, 256> byte_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t a = byte;
    for (int bit = 0; bit < 8; ++bit) a = times_x(a);
    table[byte] = a;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kByteTable = byte_table();

constexpr size_t kChunkBytes = size_t{1} << 20;

#if defined(__x86_64__)
// Three independent streams hide the latency of the instruction.
constexpr size_t kStreamBytes = 4096;
constexpr uint32_t kOneStream = zero_bytes(kStreamBytes), kTwoStreams = zero_bytes(2 * kStreamBytes);

uint64_t word_at(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

__attribute__((target("sse4.2"))) uint32_t crc32c_hardware(const uint8_t* data, size_t size) {
  uint64_t crc = 0xffffffffu;
  for (; size >= 3 * kStreamBytes; data += 3 * kStreamBytes, size -= 3 * kStreamBytes) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < kStreamBytes; i += 8) {
      crc = __builtin_ia32_crc32di(crc, word_at(data + i));
      second = __builtin_ia32_crc32di(second, word_at(data + kStreamBytes + i));
      third = __builtin_ia32_crc32di(third, word_at(data + 2 * kStreamBytes + i));
    }
    crc = multiply(kTwoStreams, static_cast<uint32_t>(crc)) ^
          multiply(kOneStream, static_cast<uint32_t>(second)) ^ static_cast<uint32_t>(third);
  }
  for (; size >= 8; data += 8, size -= 8) crc = __builtin_ia32_crc32di(crc, word_at(data));
  auto narrow = static_cast<uint32_t>(crc);
  for (; size; ++data, --size) narrow = __builtin_ia32_crc32qi(narrow, *data);
  return ~narrow;
}

uint32_t crc32c_chunk(const uint8_t* data, size_t size) {
  static const bool has_instruction = __builtin_cpu_supports("sse4.2");
  return has_instruction ? crc32c_hardware(data, size) : crc32c_portable(0, data, size);
}
#else
uint32_t crc32c_chunk(const uint8_t* data, size_t size) { return crc32c_portable(0, data, size); }
#endif

}  // namespace

uint32_t crc32c_portable(uint32_t before, const uint8_t* data, size_t size) {
  uint32_t crc = ~before;
  for (; size; ++data, --size) crc = crc >> 8 ^ kByteTable[(crc ^ *data) & 255];
  return ~crc;
}

uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t second_size) {
  return multiply(zero_bytes(second_size), first) ^ second;
}

std::vector<uint32_t> crc32c(const std::vector<Bytes>& buffers, ThreadPool& pool) {
  std::vector<Bytes> chunks;
  std::vector<size_t> buffer_of;  // of each chunk
  for (size_t buffer = 0; buffer < buffers.size(); ++buffer)
    for (size_t begin = 0; begin < buffers[buffer].size; begin += kChunkBytes) {
      chunks.push_back({buffers[buffer].data + begin, std::min(kChunkBytes, buffers[buffer].size - begin)});
      buffer_of.push_back(buffer);
    }
  std::vector<uint32_t> parts(chunks.size()), whole(buffers.size());
  pool.run(static_cast<int64_t>(chunks.size()),
           [&](int64_t chunk, int) { parts[chunk] = crc32c_chunk(chunks[chunk].data, chunks[chunk].size); });
  for (size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    uint32_t& sum = whole[buffer_of[chunk]];
    sum = crc32c_combine(sum, parts[chunk], chunks[chunk].size);
  }
  return whole;
}

}  // namespace penjing
