// SPDX-License-Identifier: MIT
// What both passes of tier C share: a block's place in its cluster, the numbered pushes between the
// blocks.
//
// W_hh is parted by rows, the gates of a block's own units, in both passes. Forward, a block needs
// the whole h and computes its own gates: h is gathered. Backward, it has the gradients of its own
// gates and computes a part of all of dh: the parts are scattered to the units' owners and summed.
#pragma once

#include "tile.cuh"
#include "units.cuh"
#include "waits.cuh"

namespace fused_rnn {
namespace cuda {

// The start of a block's shared memory: what lies where whatever its rows.
template <int kGroups>
struct ClusterMemory {
  static constexpr int kUnits = kGroups * kTileUnits;
  uint64_t barriers[2];
  int lengths[kMostClusterRows];
  // The states h and c or their gradients; of the textbook GRU, c is z between its halves.
  float states[2][kMostClusterRows * kUnits];
};

// Blocks (rank, batch group, n); the blocks of a cluster are all ranks of one batch group.
template <int kBlocks, int kGroups>
struct ClusterPlace {
  static constexpr int kUnits = kGroups * kTileUnits;
  const int rank, first_unit, first_row, rows;
  // A warp's group of units, its number in the block and among the four of its group.
  const int warp, group, part, lane;
  // What a thread computes of each pass: a unit, counted in the block and in all, and a row; which
  // word of its group's sums that is.
  int own, unit, row, word;

  DEVICE_FN explicit ClusterPlace(int rows)
      : rank(blockIdx.x),
        first_unit(rank * kUnits),
        first_row(blockIdx.y * rows),
        rows(rows),
        warp(threadIdx.x / 32),
        group(warp / kGroupWarps),
        part(warp % kGroupWarps),
        lane(threadIdx.x % 32),
        own(group * kTileUnits + threadIdx.x % kTileUnits),
        unit(first_unit + own),
        row(threadIdx.x % kGroupThreads / kTileUnits),
        word(sum_word(threadIdx.x % kTileUnits, row)) {
    hold(own), hold(unit), hold(row), hold(word);
  }

  DEVICE_FN Share share() const { return {first_unit, kUnits, first_row, rows}; }
};

// The row that a thread computes in a pass.
struct ClusterRow {
  int row, b;  // of the block, of the batch
  int index;   // of its unit in the block's states
  int length;

  template <int kBlocks, int kGroups>
  DEVICE_FN ClusterRow(const ClusterPlace<kBlocks, kGroups>& at, const int* lengths, int pass)
      : row(pass * kTileRows + at.row),
        b(at.first_row + row),
        index(row * at.kUnits + at.own),
        length(lengths[row]) {}
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
    if (threadIdx.x == 0) expect_bytes(barriers + n % 2, uint32_t(bytes));
  }
  DEVICE_FN void send(int n, int rank, void* to, const Vector& value) const {
    push(to, uint32_t(rank), value, barriers + n % 2);
  }
  // False where push n does not come; then the block sends none behind it.
  DEVICE_FN bool wait(int n) const {
    uint64_t* const barrier = barriers + n % 2;
    const uint32_t parity = uint32_t(n) / 2 % 2;
    if (__builtin_expect(landed(barrier, parity), 1)) return true;
    return wait_for(stuck, [&] { return landed_soon(barrier, parity); });
  }
  // By a block that gave up before it sent push n. When its cluster meets, the other blocks have
  // given up or exited, all that they pushed is on its way, and it must not find an exited block.
  DEVICE_FN void drain(int n) const {
    cluster_sync();
    for (int late = n > 0 ? n - 1 : 0; late <= n; ++late) {
      const uint32_t parity = uint32_t(late) / 2 % 2;
      for (uint32_t looks = 0; looks < kFewLooks; ++looks) {
        if (landed_soon(barriers + late % 2, parity)) break;
      }
    }
  }
};

}  // namespace cuda
}  // namespace fused_rnn
