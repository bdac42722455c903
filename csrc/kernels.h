// The table of kernels, one per instruction set, and the data they read.
//
// Bodies are written once over Vec<Isa> (vec.h) and compiled once per instruction set; dispatch.cpp chooses.
// Determinism: every output element is computed by one fixed sequence of operations, whatever the number of
// tokens, blocks or threads in the call. K is never split across threads. No fast-math; contraction is off,
// so a fused multiply-add happens where Isa::fma is written and nowhere else.
#pragma once
#include <cstdint>

#include "kv_plane.h"

namespace penjing {

constexpr int64_t kRowsPerTile = 16;    // output rows whose weights share a 64-byte line
constexpr int64_t kBlockTokens = 16;    // most tokens whose activations share a line
constexpr int64_t kSpanTokens = 256;    // attention is computed in spans of this many absolute positions
constexpr int64_t kLogitsPerRun = 64;   // logits whose maximum is noted when a row is scanned
constexpr int64_t kMostHeadDim = 1024;  // kernels keep vectors on the stack

enum class Format : int32_t {
  fp32, fp16, bf16, int8, int4, layered, int2, int3, int5, int6, table2, table3, table4, nf4,
  mxfp4, fp8
};
constexpr int kFormats = 16;
// Bits of a weight in `codes`, and in `high`.
constexpr int64_t kLowBits[kFormats] = {32, 16, 16, 8, 4, 4, 2, 2, 4, 4, 2, 2, 4, 4, 4, 8};
constexpr int64_t kHighBits[kFormats] = {0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 1, 0, 0, 0, 0};
enum class Tier : int32_t { fast = 0, best = 1 };

// A weight matrix [rows, columns] in tile order (docs/artifact.md); pointers into a mapped file.
struct Matrix {
  Format format;
  int64_t rows, columns;         // as the model has them
  int64_t group_size;            // 32, 64 or 128; 0 for fp32, fp16, bf16
  const uint8_t* codes;          // the codes or their low bits; layered: base codes; fp32, fp16, bf16: elements
  const uint16_t* scales;        // fp16 bits [row tiles][groups][16]; null for fp32, fp16, bf16
  const uint8_t* residual;       // layered: the residual plane; else null
  const uint8_t* high;           // int3, int5, int6, table3: the plane of the high bits; else null
  const uint8_t* zeros;          // zero points [row tiles][groups][16], or null
  const int8_t* table;           // table2, table3, table4: 16 levels, of which codes name the first; else null
  // Always inlined, because files compiled for different instruction sets include this.
  [[gnu::always_inline]] int64_t row_tiles() const { return (rows + kRowsPerTile - 1) / kRowsPerTile; }
  [[gnu::always_inline]] int64_t groups() const {
    return group_size ? (columns + group_size - 1) / group_size : 0;
  }
  [[gnu::always_inline]] int64_t padded_columns() const {
    return group_size ? groups() * group_size : columns;
  }
  // Of a row tile in `codes` and in `high`.
  [[gnu::always_inline]] int64_t low_bytes() const {
    return kRowsPerTile * padded_columns() * kLowBits[static_cast<int>(format)] / 8;
  }
  [[gnu::always_inline]] int64_t high_bytes() const {
    return kRowsPerTile * padded_columns() * kHighBits[static_cast<int>(format)] / 8;
  }
  // Whether it multiplies quantized rows; any other takes rows of floats.
  [[gnu::always_inline]] bool is_integer() const { return group_size != 0 && format < Format::nf4; }
};

// Rows of activations are cut into the fewest blocks of at most kBlockTokens, as equal as they can be.
[[gnu::always_inline]] inline int64_t num_blocks(int64_t tokens) {
  return (tokens + kBlockTokens - 1) / kBlockTokens;
}
// The first token of a block; of block num_blocks(tokens), the end.
[[gnu::always_inline]] inline int64_t block_begin(int64_t tokens, int64_t block) {
  return tokens == 0 ? 0 : tokens * block / num_blocks(tokens);
}

// Rows of activations as the integer kernels read them. Within a block, four columns of all its tokens lie side
// by side: a tile that runs them together reads one line after another, whatever the row's length.
struct QuantizedRows {
  const int8_t* codes;   // of each block: [padded columns / 4][tokens of the block][4], zero in the padding
  const float* scales;   // of each block: [groups][tokens of the block]
  const int32_t* sums;   // of each block: [groups][tokens of the block], the sum of the group's codes
};

// What the attention of one block is, for all its tokens.
struct Attention {
  KvPlane keys, values;
  int64_t queries;        // heads that share a KV head
  int64_t window;         // positions that a token sees, itself included; 0 for all
  float scale;            // of the scores
  float softcap;          // score = softcap * tanh(score / softcap); 0 for none
};

// Consecutive tokens of one sequence, and one KV head: token r is at position + r, its queries at
// query + r * stride [queries][head_dim], their outputs likewise.
struct AttentionTile {
  const int32_t* pages;   // of the whole sequence
  int64_t kv_head, position, rows;
  const float* query;
  float* out;
  int64_t stride;         // floats
};

// Spans that some token of the tile sees.
[[gnu::always_inline]] inline int64_t first_span(const Attention& attention, const AttentionTile& tile) {
  const int64_t hidden = attention.window ? tile.position - attention.window + 1 : 0;
  return hidden > 0 ? hidden / kSpanTokens : 0;
}
[[gnu::always_inline]] inline int64_t end_span(const AttentionTile& tile) {
  return (tile.position + tile.rows - 1) / kSpanTokens + 1;
}
// Floats of what attend_spans leaves for one span of a tile with this many queries over all its rows, and of
// the scratch that attend and attend_spans need: of each query, and bytes of a span of values and a page of
// keys.
[[gnu::always_inline]] inline int64_t part_floats(int64_t queries, int64_t head_dim) {
  return queries * (head_dim + 2);
}
[[gnu::always_inline]] inline int64_t attention_scratch_floats(int64_t queries, int64_t head_dim) {
  const int64_t bytes = (kSpanTokens + kPageTokens) * (head_dim + kMostPadding);
  return queries * (3 * kSpanTokens / 2 + 2 * head_dim + 16) + 2 * kSpanTokens + kPageTokens + 16 +
         bytes / 4;
}

struct Kernels {
  const char* name;

  // x[tokens][columns] -> int8 per token and group, for groups [first_group, last_group),
  // in the order of QuantizedRows:
  //   scale = max|x| / 127; code = clamp(round_half_even(x * (127 / max|x|)), -127, 127);
  //   a group whose max|x| is below 1e-30 has scale 0 and codes 0;
  //   a group with NaN or Inf in it has scale NaN and codes 0, so that what depends on it becomes NaN.
  void (*quantize_rows)(const float* x, int64_t tokens, int64_t columns, int64_t group_size,
                        int64_t first_group, int64_t last_group, int8_t* codes, float* scales, int32_t* sums);

  // out[t][row] for rows of tiles [first_tile, last_tile), integer formats. Per element, groups ascending:
  //   acc = sum over the group of (unsigned code - offset) * activation code      (int32, exact)
  //   where the offset is the group's zero point, if there are any; tables look codes up: level * activation
  //   sum = fma(float(acc), weight_scale * activation_scale, sum)                 (float32, starting at 0)
  // `best` on a layered matrix uses codes 8q + r and weight_scale = s * 0.125f.
  void (*linear_int)(const Matrix& w, Tier tier, const QuantizedRows& a, int64_t tokens,
                     int64_t first_tile, int64_t last_tile, float* out, int64_t out_stride);

  // The same for the other formats, with float32 activations: sum = fma(w[k], x[k], sum), k ascending, where
  // w[k] of nf4, mxfp4 and fp8 is level * scale, rounded to float32.
  void (*linear_float)(const Matrix& w, const float* x, int64_t tokens, int64_t x_stride,
                       int64_t first_tile, int64_t last_tile, float* out, int64_t out_stride);

  // One row of a matrix of any format, dequantized: float32 [columns].
  void (*dequantize_row)(const Matrix& w, Tier tier, int64_t row, float* out);

  // out = x * rsqrt(mean(x^2) + eps) * weight, over n elements. In place is allowed.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);

  // Rotate the first `size` elements of a head in place: pairs (i, i + size / 2); cosine and sine hold
  // size / 2 floats.
  void (*rotate)(float* head, const float* cosine, const float* sine, int64_t size);

  // out = silu(gate) * up, or gelu(gate) * up in its tanh form; n elements. In place over gate is allowed.
  void (*silu_multiply)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_multiply)(const float* gate, const float* up, int64_t n, float* out);

  // values = cap * tanh(values / cap), n elements in place.
  void (*softcap)(float* values, float cap, int64_t n);

  // values = e^values / sum of e^values, n elements in place. NaN or infinity makes all of them NaN.
  void (*softmax)(float* values, int64_t n);

  // Write one token's vectors [kv_heads][head_dim] into its slot, in the plane's format (docs/artifact.md).
  // Different tokens may be written by different threads.
  void (*write_kv)(const KvPlane& plane, int64_t page, int64_t slot, const float* vectors);

  // Attention of a tile. Spans of kSpanTokens absolute positions are computed separately and merged in
  // ascending order; a span that lies wholly beyond a row is none of it. In a span, for each row and query:
  //   dot = query . key                      integers: both mixed, exact in int32, times the scales
  //   weight = 2^(dot * f - max(dot) * f)    f = scale * log2 e, over the positions that the row sees
  //   out = sum of weight * value            integers: weight * value scale in 16 bits, exact in int32
  // A row's result does not depend on the tile it stands in. Scratch is aligned to 64 bytes.
  void (*attend)(const Attention& attention, const AttentionTile& tile, float* scratch);

  // The same in two steps, to be shared by threads: spans [first, last) of a tile to parts[span - first], and,
  // when all of the tile's spans are there, parts from its first on to the output. Equal bits.
  void (*attend_spans)(const Attention& attention, const AttentionTile& tile, int64_t first, int64_t last,
                       float* scratch, float* parts);
  void (*merge_spans)(const Attention& attention, const AttentionTile& tile, const float* parts);

  // The maximum of each run of kLogitsPerRun logits, into maxima; false if there is a NaN among them.
  bool (*scan_logits)(const float* logits, int64_t n, float* maxima);

  // weights = round(2^44 e^((logits - largest) * inverse_temperature)), n of them; their sum. n is at most 2^20.
  uint64_t (*weigh_logits)(const float* logits, int64_t n, float largest, double inverse_temperature,
                           uint64_t* weights);
};

// The table for a name ("avx512", "avx2vnni", "avx2", "scalar"), or null if this CPU cannot run it.
const Kernels* find_kernels(const char* name);
// Every name that this CPU can run, best first, null-terminated; "scalar" is always there.
const char* const* available_kernels();

}  // namespace penjing
