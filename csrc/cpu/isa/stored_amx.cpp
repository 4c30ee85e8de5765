// SPDX-License-Identifier: MIT
// Kernels for int8 weights on AMX, and AVX-512 for what lies between the products.
#define FUSED_RNN_ISA stored_amx
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_DOT_INT8
#define FUSED_RNN_INTEGER_TILES
#define FUSED_RNN_INTRINSICS "../isa/vec_avx512.h"
#include "../kernels/stored_table.h"

namespace fused_rnn::cpu {
constinit const StoredKernels kStoredAmx = stored_amx::make_stored_kernels("amx_int8");
}  // namespace fused_rnn::cpu
