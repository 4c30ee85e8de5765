// SPDX-License-Identifier: MIT
// What both passes of tier G share: a block's place in the grid, and the way from the operands that
// all blocks wrote to a tile in shared memory.
//
// Operands tell by their values that they are there: a word is kAbsent until its two numbers are.
// Nothing need be ordered for that. Blocks gather a step when all have given it, so all have
// gathered the step before, and what stands in the ring before that may be cleared. That the old
// numbers are gone is what a reader has to know before it waits for new ones: blocks count the laps
// that they have cleared, and wait for each other's half a ring later, when that is long done.
#pragma once

#include "tile.cuh"
#include "units.cuh"

namespace fused_rnn {
namespace cuda {

// The unit and row of a pass that a thread computes.
struct GridSpot {
  int unit, row;

  DEVICE_FN explicit GridSpot(int pass)
      : unit(threadIdx.x % kTileUnits), row(pass * kPassRows + threadIdx.x / kTileUnits) {}
};

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

  // Operand `which` of the `count` that a row has at the k-th step: (exchange_row(H),).
  DEVICE_FN uint16_t* operand(int k, int b, int count, int which) const {
    const int64_t row = (int64_t(k % kRingSteps) * walk.N + walk.n) * walk.B + b;
    return x.ring + (row * count + which) * row_length;
  }

  // The word of two units' numbers, which the even unit's thread writes.
  DEVICE_FN bool writes(const GridSpot& spot) const {
    return spot.unit % 2 == 0 && first_row + spot.row < walk.B;
  }
  DEVICE_FN uint32_t* word(int k, const GridSpot& spot, int count, int which) const {
    uint16_t* row = operand(k, first_row + spot.row, count, which);
    return reinterpret_cast<uint32_t*>(row + first_unit + spot.unit);
  }

  // Gives the group a number of the k-th step. All lanes of a warp call it together.
  template <class IO>
  DEVICE_FN void give(int k, const GridSpot& spot, int count, int which, float value) const {
    const uint32_t own = pack<IO>(value, 0), next = __shfl_xor_sync(0xFFFFFFFF, own, 1);
    const uint32_t pair = own | next << 16;
    // A diverged model's NaNs are numbers like any other.
    if (writes(spot)) store_relaxed(word(k, spot, count, which), pair == kAbsent ? kNans : pair);
  }

  // Copies the group's rows of one operand into a tile as soon as they are there. Meet afterwards.
  template <int kSteps, class IO>
  DEVICE_FN void gather(IO* tile, int stride, int k, int count, int which) const {
    // As many as registers have room for.
    constexpr int kVectors = kSteps / 2, kRows = kVectors > 4 ? 1 : 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int first = warp; first < rows; first += kRows * kGridWarps) {
      Vector found[kRows][kVectors] = {};
      const auto each = [&](auto use) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int v = 0; v < kVectors; ++v) {
            const int row = first + r * kGridWarps, at = (v * 32 + lane) * 8;
            const bool there = row < rows && first_row + row < walk.B && at < row_length;
            if (there) use(found[r][v], row, at);
          }
        }
      };
      bool absent;
      do {
        absent = false;
        each([&](Vector& vector, int row, int at) {
          const uint16_t* from = operand(k, first_row + row, count, which) + at;
          vector = load_relaxed(reinterpret_cast<const Vector*>(from));
        });
        each([&](const Vector& vector, int, int) {
          for (const uint32_t word : vector.words) absent |= word == kAbsent;
        });
      } while (absent);
      each([&](const Vector& vector, int row, int at) {
        *reinterpret_cast<Vector*>(tile + row * stride + at) = vector;
      });
    }
  }

  // Before the k-th step is gathered: a ring that is written again must be seen to be clear.
  DEVICE_FN void begin(int k) const {
    if (k % kLapSteps || k < kRingSteps) return;
    if (threadIdx.x == 0) {
      const uint32_t target = uint32_t(k / kLapSteps - 1) * gridDim.x;
      while (load_acquire(counter) < target) {
      }
    }
    __syncthreads();
  }

  // After the whole block has gathered the k-th step: clears what it gave to the lap before.
  DEVICE_FN void end(int k, int count) const {
    if (k % kLapSteps || k == 0) return;
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      const GridSpot spot(pass);
      if (!writes(spot)) continue;
      for (int step = k - kLapSteps; step < k; ++step) {
        for (int which = 0; which < count; ++which) {
          store_relaxed(word(step, spot, count, which), kAbsent);
        }
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) add_release(counter, 1);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
