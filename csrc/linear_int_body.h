// Products of integer matrices and quantized rows: linear_int of kernels.h.
#pragma once
#include "dot_body.h"
#include "kernels.h"
#include "patches.h"
#include "vec.h"

namespace penjing {

// Scales and zero points are prefetched eight groups ahead: streams too slow for the processor to follow by itself.
constexpr int64_t kScalePrefetchBytes = 256;
constexpr int64_t kZeroPrefetchBytes = 128;

// Where tile `tile` has its planes.
template <Packing kPacking>
PENJING_INLINE TileCodes tile_codes(const Matrix& w, int64_t tile) {
  const int64_t stride = 2 * low_bits(kPacking) * w.padded_columns();
  const int64_t second_stride = 2 * high_bits(kPacking) * w.padded_columns();
  const uint8_t* second = kPacking == Packing::layers ? w.residual : high_bits(kPacking) ? w.high : w.codes;
  return {w.codes + tile * stride, second + tile * second_stride, stride, second_stride, w.table};
}

// Where a group's sums start: what is taken off every code, times the sum of the activations.
template <class Isa, Packing kPacking, bool kZeros, int kTiles, int kTokens>
PENJING_INLINE void start_group(const uint8_t* zeros, int64_t tile_stride, const int32_t* sums,
                                typename Vec<Isa>::Ints (&acc)[kTiles][kTokens]) {
  using V = Vec<Isa>;
  if (kZeros && zeros != nullptr) {
    for (int tile = 0; tile < kTiles; ++tile) {
      __builtin_prefetch(zeros + tile * tile_stride + kZeroPrefetchBytes);
      const auto zero = V::load_ints(zeros + tile * tile_stride);
#pragma GCC unroll 16
      for (int token = 0; token < kTokens; ++token) acc[tile][token] = V::mul(zero, V::set1(-sums[token]));
    }
    return;
  }
#pragma GCC unroll 16
  for (int token = 0; token < kTokens; ++token) {
    const auto offset = V::set1(-code_offset(kPacking) * sums[token]);
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile) acc[tile][token] = offset;
  }
}

// Output of kTiles tiles for kTokens tokens; `a` starts at the block, `out` at the patch's first token. kZeros:
// whether there may be zero points.
template <class Isa, Packing kPacking, bool kZeros, int kTiles, int kTokens>
static void int_patch(const Matrix& w, const QuantizedRows& a, int64_t width, int64_t first_token,
                      int64_t first_tile, float* out, int64_t out_stride) {
  using V = Vec<Isa>;
  const int64_t groups = w.groups();
  const TileCodes codes = tile_codes<kPacking>(w, first_tile);
  const auto* scales = reinterpret_cast<const Fp16*>(w.scales) + first_tile * groups * kRowsPerTile;
  const uint8_t* zeros = w.zeros == nullptr ? nullptr : w.zeros + first_tile * groups * kRowsPerTile;

  Sums<Isa, kTiles, kTokens, kTiles * kTokens <= Patches<Isa>::most_sums> sum;
#pragma GCC unroll 8
  for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
    for (int token = 0; token < kTokens; ++token) sum.set(tile, token, V::set1(0.0f));

  for (int64_t group = 0; group < groups; ++group) {
    const int64_t place = group * width + first_token;
    typename V::Ints acc[kTiles][kTokens];
    start_group<Isa, kPacking, kZeros, kTiles, kTokens>(zeros ? zeros + group * kRowsPerTile : nullptr,
                                                        groups * kRowsPerTile, a.sums + place, acc);
    const int64_t first = group * w.group_size, last = first + w.group_size;
    const int8_t* x = a.codes + 4 * first_token;
    if constexpr (V::kWideDot) {
      dot_group_wide<Isa, kPacking, kTiles, kTokens>(codes, x, width, first, last, acc);
    } else {
      dot_group_nibbles<Isa, kPacking, kTokens>(codes, x, width, first, last, acc);
    }
#pragma GCC unroll 8
    for (int tile = 0; tile < kTiles; ++tile) {
      const auto* from = scales + (tile * groups + group) * kRowsPerTile;
      __builtin_prefetch(reinterpret_cast<const uint8_t*>(from) + kScalePrefetchBytes);
      auto weight_scale = V::load(from);
      if constexpr (kPacking == Packing::layers) weight_scale = V::mul(weight_scale, V::set1(0.125f));
#pragma GCC unroll 16
      for (int token = 0; token < kTokens; ++token) {
        const auto scale = V::mul(weight_scale, V::set1(a.scales[place + token]));
        sum.set(tile, token, V::fma(V::to_float(acc[tile][token]), scale, sum.get(tile, token)));
      }
    }
  }
  store_patch<Isa, kTiles, kTokens>(sum, w.rows, first_tile * kRowsPerTile, out, out_stride);
}

template <class Isa, Packing kPacking, bool kZeros>
struct IntPatch {
  const Matrix& w;
  const QuantizedRows& a;
  float* out;
  int64_t out_stride;

  template <int kTiles, int kTokens>
  [[gnu::always_inline]] void run(const Place& place, int64_t tile) const {
    const int64_t begin = place.block_begin, groups = w.groups();
    const QuantizedRows rows{a.codes + begin * w.padded_columns(), a.scales + begin * groups,
                             a.sums + begin * groups};
    int_patch<Isa, kPacking, kZeros, kTiles, kTokens>(w, rows, place.width, place.first, tile,
                                                      out + (begin + place.first) * out_stride, out_stride);
  }
};

template <class Isa, Packing kPacking, bool kZeros = !is_plain(kPacking)>
static void linear_codes(const Matrix& w, const QuantizedRows& a, int64_t tokens, int64_t first_tile,
                         int64_t last_tile, float* out, int64_t out_stride) {
  const int64_t tile_bytes = 2 * (low_bits(kPacking) + high_bits(kPacking)) * w.padded_columns();
  using Patch = IntPatch<Isa, kPacking, kZeros>;
  using Size = Patches<Isa>;
  const Patch patch{w, a, out, out_stride};
  if constexpr (kZeros) {
    run_panels<Patch, 1, Size::other_tokens>(patch, tile_bytes, tokens, first_tile, last_tile);
  } else {
    if (tokens <= kBlockTokens)
      return run_panels<Patch, Size::one_tiles, Size::one_tokens>(patch, tile_bytes, tokens, first_tile, last_tile);
    run_panels<Patch, Size::many_tiles, Size::many_tokens>(patch, tile_bytes, tokens, first_tile, last_tile);
  }
}

template <class Isa>
static void linear_int(const Matrix& w, Tier tier, const QuantizedRows& a, int64_t tokens, int64_t first_tile,
                       int64_t last_tile, float* out, int64_t out_stride) {
  const auto run = [&](auto linear) { linear(w, a, tokens, first_tile, last_tile, out, out_stride); };
  switch (w.format) {
    case Format::int2: return run(linear_codes<Isa, Packing::crumbs>);
    case Format::int3: return run(linear_codes<Isa, Packing::crumbs_bits>);
    case Format::int5: return run(linear_codes<Isa, Packing::nibbles_bits>);
    case Format::int6: return run(linear_codes<Isa, Packing::nibbles_crumbs>);
    case Format::table2: return run(linear_codes<Isa, Packing::crumbs_table>);
    case Format::table3: return run(linear_codes<Isa, Packing::crumbs_bits_table>);
    case Format::table4: return run(linear_codes<Isa, Packing::nibbles_table>);
    case Format::int8:
      return w.zeros ? run(linear_codes<Isa, Packing::bytes, true>) : run(linear_codes<Isa, Packing::bytes>);
    case Format::layered:
      if (tier == Tier::best) return run(linear_codes<Isa, Packing::layers>);
      return run(linear_codes<Isa, Packing::nibbles>);
    default:
      return w.zeros ? run(linear_codes<Isa, Packing::nibbles, true>) : run(linear_codes<Isa, Packing::nibbles>);
  }
}

}  // namespace penjing
