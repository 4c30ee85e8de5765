// SPDX-License-Identifier: MIT
// Waits that end: for a count of looks, after which a block gives up. It sets the word that the
// host reads at its next call and the other waits look at now and then, takes what is still pushed
// into it, and leaves NaN where its numbers would have stood.
#pragma once

#include "../problem.h"
#include "primitives.cuh"
#include "walk.cuh"

namespace fused_rnn {
namespace cuda {

// A number that did not come.
DEVICE_FN float missing() { return float_of_bits(0x7FC00000); }

// Looks until what is waited for is there; false where that is too often.
template <class Look>
DEVICE_FN bool wait_for(int* stuck, Look look) {
  for (uint32_t looks = 1; !look(); ++looks) {
    if (looks % kFewLooks == 0 && (is_set(stuck) || !patient(looks))) {
      set(stuck);
      return false;
    }
  }
  return true;
}

// The units and rows of a block.
struct Share {
  int first_unit, units, first_row, rows;
};

// NaN in `columns` tensors of H, of the block's units and rows; row(b) is where row b begins.
template <class IO, class Row>
DEVICE_FN void spoil(const Walk& walk, const Share& own, int columns, Row row) {
  for (int i = threadIdx.x; i < own.rows * columns * own.units; i += blockDim.x) {
    const int u = own.first_unit + i % own.units, column = i / own.units % columns;
    const int b = own.first_row + i / own.units / columns;
    if (b < walk.B && u < walk.H) row(b)[int64_t(column) * walk.H + u] = IO{0xFFFF};
  }
}

// Those of visits `begin` to `end` of a tensor (T, B, N, columns, H).
template <class IO>
DEVICE_FN void spoil_steps(const Walk& walk, const Share& own, void* steps, int columns, int begin,
                           int end) {
  for (int k = begin; k < end; ++k) {
    const int t = walk.time(k);
    spoil<IO>(walk, own, columns,
              [&](int b) { return static_cast<IO*>(steps) + walk.row(t, b, columns); });
  }
}

// Those of a state (N, B, H), if there is one.
template <class IO>
DEVICE_FN void spoil_state(const Walk& walk, const Share& own, void* state) {
  if (!state) return;
  spoil<IO>(walk, own, 1, [&](int b) { return static_cast<IO*>(state) + walk.state(b); });
}

// The results of a forward pass from the k-th step on.
template <Cell cell, class IO>
DEVICE_FN void spoil_forward(const Forward& p, const Walk& walk, const Share& own, int k) {
  spoil_steps<IO>(walk, own, p.y, 1, k, walk.T);
  if (p.tape) spoil_steps<IO>(walk, own, p.tape, saved_slots(cell), k, walk.T);
  spoil_state<IO>(walk, own, p.hn);
  spoil_state<IO>(walk, own, p.cn);
}

// Of a backward pass, whose stages are counted from the last step.
template <Cell cell, class IO>
DEVICE_FN void spoil_backward(const Backward& p, const Walk& walk, const Share& own, int stage) {
  spoil_steps<IO>(walk, own, p.dg, grad_count(cell), 0, walk.T - stage);
  spoil_state<IO>(walk, own, p.dh0);
  spoil_state<IO>(walk, own, p.dc0);
}

}  // namespace cuda
}  // namespace fused_rnn
