// SPDX-License-Identifier: MIT
// What both passes of the grid tier share: a block's place in the grid, and the way from the
// operands that all blocks wrote to a tile in shared memory.
//
// Operands tell by their values that they are there: a word is kAbsent until its two numbers are.
// Nothing need be ordered for that. A block gives a step when it has gathered the one before. So
// once it has gathered a step, all whose numbers it read have gathered the one before, and no other
// block reads its own: what stands in the ring before that step may be cleared. That the old
// numbers are gone is what a reader has to know before it waits for new ones: blocks count the laps
// that they have cleared, and wait for each other's half a ring later, when that is long done.
#pragma once

#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/tile.cuh"
#include "../device/waits.cuh"
#include "../device/walk.cuh"
#include "../problem.h"
#include "../shapes.h"

namespace fused_rnn {
namespace cuda {

// The unit and row of a pass that a thread computes.
struct GridSpot {
  int unit, row;
  int index;  // in the block's states
  int word;   // in a warp's sums of the pass, (kHalves, kSumWords)

  DEVICE_FN explicit GridSpot(int pass) {
    const int own = threadIdx.x / kTileUnits;
    unit = threadIdx.x % kTileUnits;
    row = pass * kPassRows + own;
    index = row * kTileUnits + unit;
    word = own / kTileRows * kSumWords + sum_word(unit, own % kTileRows);
  }
};

// Blocks (slice, group, n): 16 units, `rows` batch rows, one recurrence. Slices are dealt out to
// columns; blocks gather what those of their own column give, its peers.
struct GridPlace {
  const Walk walk;
  const Exchange& x;
  const int H, rows, first_unit, first_row;
  const int operands, columns, peers;
  uint32_t* const counter;
  int* const stuck;

  DEVICE_FN GridPlace(const Recurrence& p, const Exchange& x, int operands, int columns)
      : walk(p, blockIdx.z),
        x(x),
        H(p.sizes.H),
        rows(x.rows),
        first_unit(blockIdx.x * kTileUnits),
        first_row(blockIdx.y * x.rows),
        operands(operands),
        columns(columns),
        peers(gridDim.x / columns),
        counter(x.counter + (blockIdx.z * gridDim.y + blockIdx.y) * columns + blockIdx.x % columns),
        stuck(p.stuck) {}

  DEVICE_FN Share share() const { return {first_unit, kTileUnits, first_row, rows}; }

  // What the column gives of a row at the k-th step: (operands, peers, 16).
  DEVICE_FN uint16_t* given(int k, int b) const {
    const int64_t row = (int64_t(low_bits(k, kRingSteps - 1)) * walk.N + walk.n) * walk.B + b;
    return x.ring + (row * columns + blockIdx.x % columns) * operands * peers * kTileUnits;
  }

  // Tiles of a pass that have rows of the batch.
  DEVICE_FN int halves(int pass) const {
    return first_row + pass * kPassRows + kTileRows < walk.B ? 2 : 1;
  }

  // The word of two units' numbers, which the even unit's thread writes.
  DEVICE_FN bool writes(const GridSpot& spot) const {
    return spot.unit % 2 == 0 && first_row + spot.row < walk.B;
  }
  DEVICE_FN uint32_t* word(int k, const GridSpot& spot, int operand) const {
    const int slice = operand * peers + blockIdx.x / columns;
    uint16_t* row = given(k, first_row + spot.row);
    return reinterpret_cast<uint32_t*>(row + slice * kTileUnits + spot.unit);
  }

  // Gives the peers a number of the k-th step. All lanes of a warp call it together.
  template <class IO>
  DEVICE_FN void give(int k, const GridSpot& spot, int operand, float value) const {
    const uint32_t own = to_pair<IO>(value, 0), next = __shfl_xor_sync(0xFFFFFFFF, own, 1);
    const uint32_t pair = own | next << 16;
    // A diverged model's NaNs are numbers like any other.
    if (writes(spot)) store_relaxed(word(k, spot, operand), pair == kAbsent ? kNans : pair);
  }

  // Copies `count` operands of a pass's rows, of up to kVectors for each lane, into a tile as soon
  // as they are there; false where they do not come. Meet afterwards.
  template <int kVectors, class IO>
  DEVICE_FN bool gather(IO* tile, int stride, int k, int pass, int first_operand, int count) const {
    // As many as registers have room for.
    constexpr int kRows = kVectors > 4 ? 1 : 2;
    const int begin = first_operand * peers * kTileUnits, length = count * peers * kTileUnits;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int b = first_row + pass * kPassRows;
    for (int first = warp; first < kPassRows; first += kRows * kGridWarps) {
      Vector found[kRows][kVectors] = {};
      const auto each = [&](auto use) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int v = 0; v < kVectors; ++v) {
            const int row = first + r * kGridWarps, at = (v * 32 + lane) * 8;
            if (b + row < walk.B && at < length) use(found[r][v], row, at);
          }
        }
      };
      const bool there = wait_for(stuck, [&, this] {
        bool absent = false;
        each([&](Vector& vector, int row, int at) {
          const uint16_t* from = given(k, b + row) + begin + at;
          vector = load_relaxed(reinterpret_cast<const Vector*>(from));
        });
        each([&](const Vector& vector, int, int) {
          for (const uint32_t word : vector.words) absent |= word == kAbsent;
        });
        return !absent;
      });
      if (!there) return false;
      each([&](const Vector& vector, int row, int at) {
        *reinterpret_cast<Vector*>(tile + row * stride + at) = vector;
      });
    }
    return true;
  }

  // Before the k-th step is gathered: a ring that is written again must be seen to be clear. False
  // where it is not.
  DEVICE_FN bool begin(int k) const {
    if (k % kLapSteps || k < kRingSteps) return true;
    bool clear = true;
    if (threadIdx.x == 0) {
      const uint32_t target = uint32_t(k / kLapSteps - 1) * peers;
      clear = wait_for(stuck, [&, this] { return load_acquire(counter) >= target; });
    }
    return !__syncthreads_or(!clear);
  }

  // After the whole block has gathered the k-th step: clears what it gave to the lap before.
  DEVICE_FN void end(int k) const {
    if (k % kLapSteps || k == 0) return;
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      const GridSpot spot(pass);
      if (!writes(spot)) continue;
      for (int step = k - kLapSteps; step < k; ++step) {
        for (int operand = 0; operand < operands; ++operand) {
          store_relaxed(word(step, spot, operand), kAbsent);
        }
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) add_release(counter, 1);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
