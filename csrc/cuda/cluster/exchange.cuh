// SPDX-License-Identifier: MIT
// What both passes of the cluster tier share: a block's place in its cluster, the numbered pushes
// between the blocks.
//
// W_hh is parted by rows, the gates of a block's own units, in both passes. Forward, a block needs
// the whole h and computes its own gates: h is gathered. Backward, it has the gradients of its own
// gates and computes a part of all of dh: the parts are scattered to the units' owners and summed.
#pragma once

#include "../device/primitives.cuh"
#include "../device/tile.cuh"
#include "../device/waits.cuh"
#include "../shapes.h"

namespace fused_rnn {
namespace cuda {

// Blocks (rank, batch group, n); the blocks of a cluster are all ranks of one batch group.
struct ClusterPlace {
  const int blocks, groups, units, rank, first_unit, first_row, rows;
  // A warp's group of units, its number in the block and among the four of its group.
  const int warp, group, part, lane;

  DEVICE_FN ClusterPlace(int H, int rows)
      : blocks(gridDim.x),
        groups(blockDim.x / kGroupThreads),
        units(groups * kTileUnits),
        rank(blockIdx.x),
        first_unit(rank * units),
        first_row(blockIdx.y * rows),
        rows(rows),
        warp(threadIdx.x / 32),
        group(warp / kGroupWarps),
        part(warp % kGroupWarps),
        lane(threadIdx.x % 32) {}

  DEVICE_FN Share share() const { return {first_unit, units, first_row, rows}; }
};

// The unit and row of a pass that a thread computes, counted within the block.
struct ClusterSpot {
  int unit, row;
  int index;  // in the block's states
  int word;   // in the sums of its group

  DEVICE_FN ClusterSpot(const ClusterPlace& at, int pass) {
    const int own = threadIdx.x % kTileUnits, r = threadIdx.x % kGroupThreads / kTileUnits;
    unit = at.group * kTileUnits + own;
    row = pass * kTileRows + r;
    index = row * at.units + unit;
    word = sum_word(own, r);
  }
};

// Pushes from every block of the cluster to every other, numbered from 0. There are two barriers:
// the second next push begins only when this one has arrived everywhere.
struct Pushes {
  uint64_t* const barriers;
  int* const stuck;

  // The cluster meets behind it.
  DEVICE_FN void start() const {
    if (threadIdx.x < 2) init_transactions(barriers + threadIdx.x);
    cluster_sync();
  }
  // Before the wait for push n - 1, behind that for push n - 2: what one block gets.
  DEVICE_FN void expect(int n, int bytes) const {
    if (threadIdx.x == 0) expect_bytes(barriers + low_bits(n, 1), uint32_t(bytes));
  }
  DEVICE_FN void send(int n, int rank, void* to, const Vector& value) const {
    push(to, uint32_t(rank), value, barriers + low_bits(n, 1));
  }
  DEVICE_FN bool there(int n) const {
    return landed(barriers + low_bits(n, 1), uint32_t(n / 2 % 2));
  }
  // False where push n does not come; then the block sends none behind it.
  DEVICE_FN bool wait(int n) const {
    return wait_for(stuck, [&, this] { return there(n); });
  }
  // By a block that gave up before it sent push n, or by warps of one that sent all. When the
  // cluster meets, the other blocks have given up or exited, all that they pushed is on its way,
  // and it must not find an exited block.
  DEVICE_FN void drain(int n) const {
    cluster_sync();
    for (int late = n > 0 ? n - 1 : 0; late <= n; ++late) {
      for (uint32_t looks = 0; looks < kFewLooks && !there(late); ++looks) {
      }
    }
  }
};

}  // namespace cuda
}  // namespace fused_rnn
