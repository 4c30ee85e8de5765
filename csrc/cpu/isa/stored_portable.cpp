// SPDX-License-Identifier: MIT
// Kernels for weights of fewer bits, on whatever the compiler's default target is.
#define FUSED_RNN_ISA stored_portable
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_PLAIN
#define FUSED_RNN_FUSED
#include "../kernels/stored_table.h"

namespace fused_rnn::cpu {
constinit const StoredKernels kStoredPortable = stored_portable::make_stored_kernels("portable");
}  // namespace fused_rnn::cpu
