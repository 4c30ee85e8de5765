// SPDX-License-Identifier: MIT
// What both passes of tier G share: a block's place in the grid, its group's counter, the way from
// the operands that all blocks wrote to a tile in shared memory.
#pragma once

#include "tile.cuh"
#include "units.cuh"

namespace fused_rnn {
namespace cuda {

// Blocks (slice, group, n): 16 units, `rows` batch rows, one recurrence.
struct GridPlace {
  const Walk walk;
  const Exchange& x;
  const int H, rows, first_unit, first_row, row_length;
  uint32_t* const counter;

  DEVICE_FN GridPlace(const Recurrence& p, const Exchange& x)
      : walk(p, blockIdx.z),
        x(x),
        H(p.sizes.H),
        rows(x.rows),
        first_unit(blockIdx.x * kTileUnits),
        first_row(blockIdx.y * x.rows),
        row_length(exchange_row(H)),
        counter(x.counter + blockIdx.z * gridDim.y + blockIdx.y) {}

  // Tells the group that this block's part of a step is written.
  DEVICE_FN void signal() const {
    __syncthreads();
    if (threadIdx.x == 0) add_release(counter, 1);
  }

  // Waits until every block of the group has signalled `times`.
  DEVICE_FN void wait(int times) const {
    if (threadIdx.x == 0) {
      const uint32_t target = uint32_t(times) * gridDim.x;
      while (load_acquire(counter) < target) {
      }
    }
    __syncthreads();
  }

  // Operands of the k-th step of a row: `count` of them, (exchange_row(H),) each.
  template <class IO>
  DEVICE_FN IO* operand(int k, int b, int count) const {
    const int64_t row = (int64_t(k % 2) * walk.N + walk.n) * walk.B + b;
    return static_cast<IO*>(x.operand) + row * count * row_length;
  }

  // Copies the group's rows of one operand into a tile; wait for the copies and meet afterwards.
  template <class IO>
  DEVICE_FN void gather(IO* tile, int stride, int k, int count, int which) const {
    const int vectors = row_length / 8;
    for (int i = threadIdx.x; i < rows * vectors; i += blockDim.x) {
      const int row = i / vectors, at = i % vectors * 8;
      if (first_row + row >= walk.B) continue;
      const IO* from = operand<IO>(k, first_row + row, count) + int64_t(which) * row_length;
      cp_async16(tile + row * stride + at, from + at);
    }
  }
};

// The unit and row of a pass that a thread computes.
struct GridSpot {
  int unit, row;

  DEVICE_FN explicit GridSpot(int pass)
      : unit(threadIdx.x % kTileUnits), row(pass * kPassRows + threadIdx.x / kTileUnits) {}
};

}  // namespace cuda
}  // namespace fused_rnn
