// SPDX-License-Identifier: MIT
// Kernels for aarch64 with the bfloat16 instructions.
#include <arm_neon.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA neon_bf16
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_INTRINSICS "vec_neon.h"
#define FUSED_RNN_DOT_BF16
#include "kernels.h"

namespace fused_rnn {
constinit const Kernels kNeonBf16 = neon_bf16::make_kernels("neon_bf16");
}  // namespace fused_rnn
