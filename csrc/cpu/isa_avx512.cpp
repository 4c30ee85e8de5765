// SPDX-License-Identifier: MIT
// Kernels for AVX-512.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_INTRINSICS "vec_avx512.h"
#include "kernels.h"

namespace fused_rnn {
constinit const Kernels kAvx512 = avx512::make_kernels("avx512");
}  // namespace fused_rnn
