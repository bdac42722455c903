// CRC-32C (Castagnoli, RFC 3720): the checksum of a tensor's bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace penjing {

class ThreadPool;

struct Bytes {
  const uint8_t* data;
  size_t size;
};

// Of each buffer. Chunks of all of them are computed in parallel and combined.
std::vector<uint32_t> crc32c(const std::vector<Bytes>& buffers, ThreadPool& pool);

// The same by table, one byte at a time, continuing from the checksum of what came before.
uint32_t crc32c_portable(uint32_t before, const uint8_t* data, size_t size);

// The checksum of two pieces, from theirs and the length of the second.
uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t second_size);

}  // namespace penjing
