// SPDX-License-Identifier: MIT
// What both passes of the cluster tier share: a block's place in its cluster, the numbered pushes
// between the blocks.
//
// W_hh is parted by rows, the gates of a block's own units, in both passes. Forward, a block needs
// the whole h and computes its own gates: h is gathered. Backward, it has the gradients of its own
// gates and computes a part of all of dh: the parts are scattered to the units' owners and summed.
#pragma once

#include "../device/primitives.cuh"
#include "../device/records.cuh"
#include "../device/tile.cuh"
#include "../device/waits.cuh"
#include "../shapes.h"

namespace fused_rnn {
namespace cuda {

// Blocks (rank, batch group, n); the blocks of a cluster are all ranks of one batch group. A thread
// computes one unit, and of each pass one row.
template <int kGroups, int kBlocks>
struct ClusterPlace {
  static constexpr int groups = kGroups, blocks = kBlocks, units = kGroups * kTileUnits;
  static constexpr int threads = kGroups * kGroupThreads, warps = threads / 32;
  static constexpr int record = record_words(kGroups);

  const int rank, first_unit, first_row, rows, end_row;
  // A warp's group of units, its number in the block and among the four of its group.
  const int warp, group, part, lane;
  // The thread's unit, counted in the block; its row of the first pass; where its sum stands among
  // those of its group.
  const int own, row, word;
  const bool in_layer;

  DEVICE_FN ClusterPlace(const Sizes& s, int rows)
      : rank(blockIdx.x),
        first_unit(rank * units),
        first_row(blockIdx.y * rows),
        rows(rows),
        end_row(s.B),
        warp(threadIdx.x / 32),
        group(warp / kGroupWarps),
        part(warp % kGroupWarps),
        lane(threadIdx.x % 32),
        own(group * kTileUnits + lane % kTileUnits),
        row(part * 2 + lane / kTileUnits),
        word(sum_word(lane % kTileUnits, row)),
        in_layer(first_unit + own < s.H) {}

  DEVICE_FN Share share() const { return {first_unit, units, first_row, rows}; }
  DEVICE_FN int unit() const { return first_unit + own; }
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
    return landed(barriers + (uint32_t(n) & 1), uint32_t(n) / 2 & 1);
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
