// SPDX-License-Identifier: MIT
// The kernels of AMX with their tiles and vectors in plain C++, to test them on any machine.
#define FUSED_RNN_ISA amx_twin
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_TILES
#define FUSED_RNN_TILES_TWIN
#define FUSED_RNN_PLAIN
#include "../kernels/table.h"

namespace fused_rnn::cpu {
constinit const Kernels kAmxTwin = amx_twin::make_kernels("amx_twin");
}  // namespace fused_rnn::cpu
