// SPDX-License-Identifier: MIT
// Kernels for AVX-512 with the bfloat16 dot product.
#define FUSED_RNN_ISA avx512_bf16
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_DOT_BF16
#define FUSED_RNN_INTRINSICS "../isa/vec_avx512.h"
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kAvx512Bf16 = avx512_bf16::make_kernels("avx512_bf16");
}  // namespace fused_rnn::cpu
