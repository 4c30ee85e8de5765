// SPDX-License-Identifier: MIT
// Kernels for AVX-512.
#define FUSED_RNN_ISA avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_INTRINSICS "../isa/vec_avx512.h"
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kAvx512 = avx512::make_kernels("avx512");
}  // namespace fused_rnn::cpu
