// SPDX-License-Identifier: MIT
// Kernels for whatever the compiler's default target is.
#include <cstdint>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA portable
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_PLAIN
#include "kernels.h"

namespace fused_rnn {
constinit const Kernels kPortable = portable::make_kernels("portable");
}  // namespace fused_rnn
