// SPDX-License-Identifier: MIT
// The kernels of AMX for int8 weights with tiles and vectors in plain C++, to test them anywhere.
#define FUSED_RNN_ISA stored_amx_twin
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_DOT_INT8
#define FUSED_RNN_INTEGER_TILES
#define FUSED_RNN_TILES_TWIN
#define FUSED_RNN_PLAIN
#define FUSED_RNN_FUSED
#include "../kernels/stored_table.h"

namespace fused_rnn::cpu {
constinit const StoredKernels kStoredAmxTwin =
    stored_amx_twin::make_stored_kernels("amx_int8_twin");
}  // namespace fused_rnn::cpu
