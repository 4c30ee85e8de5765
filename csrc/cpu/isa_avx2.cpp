// SPDX-License-Identifier: MIT
// Kernels for AVX2 with FMA and F16C.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "problem.h"
#include "team.h"

#define FUSED_RNN_ISA avx2
#define FUSED_RNN_VECTOR_BYTES 32
#define FUSED_RNN_INTRINSICS "vec_avx2.h"
#include "kernels.h"

namespace fused_rnn {
constinit const Kernels kAvx2 = avx2::make_kernels("avx2");
}  // namespace fused_rnn
