// SPDX-License-Identifier: MIT
// Kernels for AMX with bfloat16 products, and AVX-512 for what lies between them.
#include <immintrin.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA amx
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_TILES
#define FUSED_RNN_INTRINSICS "vec_avx512.h"
#include "kernels.h"

namespace fused_rnn {
constinit const Kernels kAmx = amx::make_kernels("amx");
}  // namespace fused_rnn
