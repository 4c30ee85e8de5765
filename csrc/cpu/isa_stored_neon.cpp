// SPDX-License-Identifier: MIT
// Kernels for weights of fewer bits, on any aarch64.
#include <arm_neon.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA stored_neon
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_INTRINSICS "vec_neon.h"
#include "stored_kernels.h"

namespace fused_rnn {
constinit const StoredKernels kStoredNeon = stored_neon::make_stored_kernels("neon");
}  // namespace fused_rnn
