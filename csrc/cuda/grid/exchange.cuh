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
#include "../device/records.cuh"
#include "../device/tile.cuh"
#include "../device/waits.cuh"
#include "../device/walk.cuh"
#include "../problem.h"
#include "../shapes.h"

namespace fused_rnn {
namespace cuda {

// Blocks (slice, group, n): 16 units, `rows` batch rows, one recurrence. A thread computes one
// unit, and of each pass one row. Slices are dealt out to columns; blocks gather what those of
// their own column give, its peers.
template <int operands>
struct GridPlace {
  static constexpr int units = kTileUnits, record = record_words(1);

  const Walk walk;
  const int H, rows, first_unit, first_row, end_row;
  // The thread's unit, its row of the first pass; where its sum stands among those of a pass.
  const int own, row, word;
  const bool in_layer;
  const int columns, peers;
  uint32_t* const counter;
  int* const stuck;
  // The ring: (kRingSteps, N, B, columns, operands, peers, 16). It has fewer than 2^32 bytes.
  const uint32_t row_bytes, step_bytes;
  // In its first step: the first vector that a lane gathers, the number that a thread gives.
  unsigned char *const gathered, *const given;

  DEVICE_FN GridPlace(const Recurrence& p, const Exchange& x, int columns)
      : walk(p, blockIdx.z),
        H(p.sizes.H),
        rows(x.rows),
        first_unit(blockIdx.x * kTileUnits),
        first_row(blockIdx.y * x.rows),
        end_row(first_row + rows < walk.B ? first_row + rows : walk.B),
        own(threadIdx.x % kTileUnits),
        row(threadIdx.x / kTileUnits),
        word(row / kTileRows * kSumWords + sum_word(own, row % kTileRows)),
        in_layer(first_unit + own < H),
        columns(columns),
        peers(gridDim.x / columns),
        counter(x.counter + (blockIdx.z * gridDim.y + blockIdx.y) * columns + blockIdx.x % columns),
        stuck(p.stuck),
        row_bytes(columns * operands * slice_bytes()),
        step_bytes(walk.N * walk.B * row_bytes),
        gathered(column(x) + threadIdx.x / 32 * row_bytes + threadIdx.x % 32 * 16),
        given(column(x) + row * row_bytes + (blockIdx.x / columns * kTileUnits + own) * 2) {}

  // From one operand of a row to the next.
  DEVICE_FN uint32_t slice_bytes() const { return uint32_t(peers) * kTileUnits * 2; }
  DEVICE_FN unsigned char* column(const Exchange& x) const {
    const uint32_t number = walk.n * walk.B + first_row;
    return reinterpret_cast<unsigned char*>(x.ring) + number * row_bytes +
           blockIdx.x % columns * operands * slice_bytes();
  }
  DEVICE_FN uint32_t step(int k, int pass) const {
    return low_bits(k, kRingSteps - 1) * step_bytes + uint32_t(pass * kPassRows) * row_bytes;
  }

  DEVICE_FN int passes() const { return grid_passes(rows); }
  DEVICE_FN Share share() const { return {first_unit, kTileUnits, first_row, rows}; }
  DEVICE_FN int unit() const { return first_unit + own; }
  DEVICE_FN OwnRow own_row(const Records& records, int pass) const {
    const int place = row + pass * kPassRows;
    return {*this, records, place, first_row + place};
  }

  // Tiles of a pass that have rows of the group's.
  DEVICE_FN int halves(int pass) const {
    return first_row + pass * kPassRows + kTileRows < end_row ? 2 : 1;
  }

  // The word of two units' numbers, which the even unit's thread writes.
  DEVICE_FN bool writes(int pass) const {
    return own % 2 == 0 && first_row + row + pass * kPassRows < end_row;
  }
  DEVICE_FN uint32_t* word_of(int k, int pass, int operand) const {
    return reinterpret_cast<uint32_t*>(given + (step(k, pass) + operand * slice_bytes()));
  }

  // Gives the peers the numbers of the thread's unit at the k-th step, one of each operand. All
  // lanes of a warp call it together.
  template <class IO, int count>
  DEVICE_FN void give(int k, int pass, const float (&values)[count]) const {
    uint32_t* to = word_of(k, pass, 0);
    const bool mine = writes(pass);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float next = __shfl_xor_sync(0xFFFFFFFF, values[i], 1);
      const uint32_t pair = to_pair<IO>(values[i], next);
      // A diverged model's NaNs are numbers like any other.
      if (mine) store_relaxed(to + i * (slice_bytes() / 4), pair == kAbsent ? kNans : pair);
    }
  }

  // Copies `count` operands of a pass's rows, of up to kVectors for each lane, into a tile as soon
  // as they are there, zeros where there are none; false where they do not come. Meet afterwards.
  template <int kVectors, class IO>
  DEVICE_FN bool gather(IO* tile, int stride, int k, int pass, int first_operand, int count) const {
    // Rows at once, as many as registers have room for.
    constexpr int kRows = kVectors > 4 ? 1 : 2, kAtOnce = kRows * kVectors;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // A bit for each vector of the lane's, of a row.
    const int vectors = (count * slice_bytes() / 16 + 31 - lane) / 32;
    const uint32_t of_row = (1u << vectors) - 1;
#pragma unroll 1
    for (int first = warp; first < kPassRows; first += kRows * kGridWarps) {
      const unsigned char* from =
          gathered + (step(k, pass) + (first - warp) * row_bytes + first_operand * slice_bytes());
      const int left = end_row - first_row - pass * kPassRows - first;
      uint32_t absent = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r * kGridWarps < left) absent |= of_row << r * kVectors;
      }
      Vector found[kAtOnce] = {};
      const bool there = wait_for(stuck, [&, this] {
      // Looks again only for what was absent.
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const unsigned char* row = from + i / kVectors * kGridWarps * row_bytes;
          if (absent >> i & 1) {
            found[i] = load_relaxed(reinterpret_cast<const Vector*>(row) + i % kVectors * 32);
          }
        }
        absent = 0;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (!whole(found[i])) absent |= 1u << i;
        }
        return absent == 0;
      });
      if (!there) return false;
      auto* to = reinterpret_cast<Vector*>(tile + first * stride) + lane;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int vector = i % kVectors * 32, row = i / kVectors * kGridWarps;
        if (vector < (stride - kPad) / 8 - lane) to[row * stride / 8 + vector] = found[i];
      }
    }
    return true;
  }
  DEVICE_FN static bool whole(const Vector& vector) {
    bool whole = true;
    for (const uint32_t word : vector.words) whole &= word != kAbsent;
    return whole;
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
#pragma unroll 1
    for (int i = 0; i < passes() * operands; ++i) {
      const int pass = i / operands;
      if (!writes(pass)) continue;
      uint32_t* to = word_of(k - kLapSteps, pass, i % operands);
#pragma unroll 1
      for (int step = 0; step < kLapSteps; ++step, to += step_bytes / 4) store_relaxed(to, kAbsent);
    }
    __syncthreads();
    if (threadIdx.x == 0) add_release(counter, 1);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
