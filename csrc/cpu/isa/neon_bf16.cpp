// SPDX-License-Identifier: MIT
// Kernels for aarch64 with the bfloat16 instructions.
#define FUSED_RNN_ISA neon_bf16
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_INTRINSICS "../isa/vec_neon.h"
#define FUSED_RNN_DOT_BF16
#define FUSED_RNN_MATRIX_BF16
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kNeonBf16 = neon_bf16::make_kernels("neon_bf16");
}  // namespace fused_rnn::cpu
