// SPDX-License-Identifier: MIT
// Kernels for aarch64's vectors.
#define FUSED_RNN_ISA neon
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_INTRINSICS "../isa/vec_neon.h"
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kNeon = neon::make_kernels("neon");
}  // namespace fused_rnn::cpu
