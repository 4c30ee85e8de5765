// SPDX-License-Identifier: MIT
// Kernels for weights of fewer bits, on AVX-512 with dot products of integers.
#define FUSED_RNN_ISA stored_avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_DOT_INT8
#define FUSED_RNN_INTRINSICS "../isa/vec_avx512.h"
#include "../kernels/stored_table.h"

namespace fused_rnn::cpu {
constinit const StoredKernels kStoredAvx512 = stored_avx512::make_stored_kernels("avx512_vnni");
}  // namespace fused_rnn::cpu
