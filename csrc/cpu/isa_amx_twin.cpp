// SPDX-License-Identifier: MIT
// The kernels of AMX with their tiles and vectors in plain C++, to test them on any machine.
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA amx_twin
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_TILES
#define FUSED_RNN_TILES_TWIN
#define FUSED_RNN_PLAIN
#include "kernels.h"

namespace fused_rnn {
constinit const Kernels kAmxTwin = amx_twin::make_kernels("amx_twin");
}  // namespace fused_rnn
