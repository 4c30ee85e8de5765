// SPDX-License-Identifier: MIT
// What both passes of the exact tier share: sums over the lanes of a unit. Eight lanes share one,
// each with every eighth term of its sums; lane s then keeps row s.
#pragma once

#include "../device/primitives.cuh"
#include "../shapes.h"

namespace fused_rnn {
namespace cuda {

// sums[r] over this lane's terms of rows r, made whole in every lane.
template <class A, int count>
DEVICE_FN void sum_parts(A (&sums)[count]) {
#pragma unroll
  for (int r = 0; r < count; ++r) {
#pragma unroll
    for (int lanes = 1; lanes < kParts; lanes *= 2) {
      sums[r] += __shfl_xor_sync(0xFFFFFFFF, sums[r], lanes);
    }
  }
}

// Element `index` of registers, which have no addresses.
template <class A, int count>
DEVICE_FN A pick(const A (&values)[count], int index) {
  A value = values[0];
#pragma unroll
  for (int i = 1; i < count; ++i) value = i == index ? values[i] : value;
  return value;
}

}  // namespace cuda
}  // namespace fused_rnn
