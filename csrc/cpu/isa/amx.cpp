// SPDX-License-Identifier: MIT
// Kernels for AMX with bfloat16 products, and AVX-512 for what lies between them.
#define FUSED_RNN_ISA amx
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_TILES
#define FUSED_RNN_INTRINSICS "../isa/vec_avx512.h"
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kAmx = amx::make_kernels("amx");
}  // namespace fused_rnn::cpu
