// SPDX-License-Identifier: MIT
// Kernels for weights of fewer bits, on AVX2 with FMA and F16C.
#define FUSED_RNN_ISA stored_avx2
#define FUSED_RNN_VECTOR_BYTES 32
#define FUSED_RNN_INTRINSICS "../isa/vec_avx2.h"
#include "../kernels/stored_table.h"

namespace fused_rnn::cpu {
constinit const StoredKernels kStoredAvx2 = stored_avx2::make_stored_kernels("avx2");
}  // namespace fused_rnn::cpu
