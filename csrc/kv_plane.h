// How keys and values lie in pages.
#pragma once
#include <cstdint>

namespace penjing {

constexpr int64_t kPageTokens = 32;   // tokens a KV page
constexpr int64_t kMostPadding = 31;  // dimensions that packing may add to a head

// From `int8` on, whole numbers; behind it, packed ones.
enum class KvFormat : int32_t { fp32 = 0, bf16 = 1, int8 = 2, int6 = 3, int5 = 4, int4 = 5 };

// Where one block keeps keys or values. Page p starts at base + p * page_stride and holds one head after the
// other, each its codes and then, for whole numbers, the scales of its tokens: float for int8, else bf16.
// Index of (token, dimension) in a head, D = stored_dims():
//   keys of fp32, bf16:    dimension * 32 + token, so that scores need no sum across lanes
//   keys of int8:          (dimension / 4) * 128 + token * 4 + dimension % 4, codes + 128
//   values of fp32, bf16:  token * D + dimension
//   values of int8:        (token / 4) * 4 D + dimension * 4 + token % 4
// int4, int5 and int6 cut int8's order into runs of n codes: keys have one a page, values one for every
// four tokens. In a plane of nibbles, run after run, byte i holds the low bits of code i and, above them, of
// code i + n / 2. In a plane of higher bits behind it, byte i holds those of codes i + k n / parts(), k = 0
// lowest. A byte's codes are one token's: neighbouring tokens may be written by different threads.
struct KvPlane {
  KvFormat format;
  bool keys;              // or values
  uint8_t* base;
  int64_t page_stride;    // bytes
  int64_t kv_heads, head_dim;

  [[gnu::always_inline]] bool is_integer() const { return format >= KvFormat::int8; }
  [[gnu::always_inline]] bool is_packed() const { return format > KvFormat::int8; }
  // Of an element: 4 .. 32.
  [[gnu::always_inline]] int64_t bits() const {
    switch (format) {
      case KvFormat::fp32: return 32;
      case KvFormat::bf16: return 16;
      case KvFormat::int8: return 8;
      case KvFormat::int6: return 6;
      case KvFormat::int5: return 5;
      default: return 4;
    }
  }
  // Packed codes that share a byte, in the plane of higher bits or, if there is none, of nibbles.
  [[gnu::always_inline]] int64_t parts() const {
    return format == KvFormat::int4 ? 2 : format == KvFormat::int5 ? 8 : 4;
  }
  // Dimensions with their padding: keys fill dwords, and packed codes fill bytes of whole dwords. A mask,
  // because a division for every page that is read shows.
  [[gnu::always_inline]] int64_t stored_dims() const {
    const int64_t multiple = is_packed() ? 4 * parts() : is_integer() && keys ? 4 : 1;
    return (head_dim + multiple - 1) & -multiple;
  }
  [[gnu::always_inline]] int64_t code_bytes() const { return stored_dims() * kPageTokens * bits() / 8; }
  [[gnu::always_inline]] int64_t head_bytes() const {
    return code_bytes() + (is_packed() ? 2 : is_integer() ? 4 : 0) * kPageTokens;
  }
};

}  // namespace penjing
