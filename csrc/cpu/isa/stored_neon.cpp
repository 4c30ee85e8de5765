// SPDX-License-Identifier: MIT
// Kernels for weights of fewer bits, on any aarch64.
#define FUSED_RNN_ISA stored_neon
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_INTRINSICS "../isa/vec_neon.h"
#include "../kernels/stored_table.h"

namespace fused_rnn::cpu {
constinit const StoredKernels kStoredNeon = stored_neon::make_stored_kernels("neon");
}  // namespace fused_rnn::cpu
