// SPDX-License-Identifier: MIT
// Kernels for AVX2 with FMA and F16C.
#define FUSED_RNN_ISA avx2
#define FUSED_RNN_VECTOR_BYTES 32
#define FUSED_RNN_INTRINSICS "../isa/vec_avx2.h"
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kAvx2 = avx2::make_kernels("avx2");
}  // namespace fused_rnn::cpu
