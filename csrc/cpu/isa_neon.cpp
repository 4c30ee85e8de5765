// SPDX-License-Identifier: MIT
// Kernels for aarch64's vectors.
#include <arm_neon.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA neon
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_INTRINSICS "vec_neon.h"
#include "kernels.h"

namespace fused_rnn {
constinit const Kernels kNeon = neon::make_kernels("neon");
}  // namespace fused_rnn
