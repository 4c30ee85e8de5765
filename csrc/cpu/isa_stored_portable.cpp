// SPDX-License-Identifier: MIT
// Kernels for weights of fewer bits, on whatever the compiler's default target is.
#include <cstdint>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA stored_portable
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_PLAIN
#define FUSED_RNN_FUSED
#include "stored_kernels.h"

namespace fused_rnn {
constinit const StoredKernels kStoredPortable = stored_portable::make_stored_kernels("portable");
}  // namespace fused_rnn
