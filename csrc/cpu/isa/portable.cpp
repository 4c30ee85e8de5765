// SPDX-License-Identifier: MIT
// Kernels for whatever the compiler's default target is.
#define FUSED_RNN_ISA portable
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_PLAIN
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kPortable = portable::make_kernels("portable");
}  // namespace fused_rnn::cpu
