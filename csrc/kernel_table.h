// All bodies in one table. Included once for every instruction set, by kernels_*.cpp.
#pragma once
#include "activation_body.h"
#include "attention_body.h"
#include "elementwise_body.h"
#include "kernels.h"
#include "kv_write_body.h"
#include "linear_float_body.h"
#include "linear_int_body.h"
#include "sampling_body.h"

namespace penjing {

template <class Isa>
constexpr Kernels kernel_table(const char* name) {
  return {name,
          quantize_rows<Isa>,
          linear_int<Isa>,
          linear_float<Isa>,
          dequantize_row<Isa>,
          rms_norm<Isa>,
          rotate<Isa>,
          silu_multiply<Isa>,
          gelu_multiply<Isa>,
          softcap<Isa>,
          softmax<Isa>,
          write_kv<Isa>,
          attend<Isa>,
          attend_spans<Isa>,
          merge_spans<Isa>,
          scan_logits<Isa>,
          weigh_logits<Isa>};
}

}  // namespace penjing
