// SPDX-License-Identifier: MIT
// What both passes of tier G share: a block's place in the grid, and the way from the operands that
// all blocks wrote to a tile in shared memory.
//
// Operands tell by their values that they are there: a word is kAbsent until its two numbers are.
// Nothing need be ordered for that. A block gives a step when it has gathered the one before. So
// once it has gathered a step, all whose numbers it read have gathered the one before, and no other
// block reads its own: what stands in the ring before that step may be cleared. That the old
// numbers are gone is what a reader has to know before it waits for new ones: blocks count the laps
// that they have cleared, and wait for each other's half a ring later, when that is long done.
#pragma once

#include "tile.cuh"
#include "units.cuh"
#include "waits.cuh"

namespace fused_rnn {
namespace cuda {

// The start of a block's shared memory: what lies where whatever its rows.
struct GridMemory {
  int lengths[kMostGridRows];
  // The states h and c or their gradients.
  float states[2][kMostGridRows * kTileUnits];
};

// Blocks (slice, group, n): 16 units, `rows` batch rows, one recurrence. Slices are dealt out to
// columns; blocks gather what those of their own column give, its peers. A thread computes a unit
// and a row of each pass.
template <int kOperands, int kColumns>
struct GridPlace {
  const Walk walk;
  const Exchange& x;
  const int H, rows, first_unit, first_row, end_row;
  const int peers;
  // From one row of the ring to the next.
  const int pitch;
  uint32_t* const counter;
  int* const stuck;
  // The thread's unit, counted in the block and in all, its row of a pass, and where they stand in
  // the sums of a pass, (kHalves, kSumWords).
  int own, unit, row, word;

  DEVICE_FN GridPlace(const Recurrence& p, const Exchange& x)
      : walk(p, blockIdx.z),
        x(x),
        H(p.sizes.H),
        rows(x.rows),
        first_unit(blockIdx.x * kTileUnits),
        first_row(blockIdx.y * x.rows),
        end_row(first_row + rows < walk.B ? first_row + rows : walk.B),
        peers(gridDim.x / kColumns),
        pitch(gridDim.x * kOperands * kTileUnits),
        counter(x.counter + (blockIdx.z * gridDim.y + blockIdx.y) * kColumns +
                blockIdx.x % kColumns),
        stuck(p.stuck),
        own(threadIdx.x % kTileUnits),
        unit(first_unit + own),
        row(threadIdx.x / kTileUnits),
        word(row / kTileRows * kSumWords + sum_word(own, row % kTileRows)) {
    hold(own), hold(unit), hold(row), hold(word);
  }

  DEVICE_FN Share share() const { return {first_unit, kTileUnits, first_row, rows}; }
  DEVICE_FN int passes() const { return (rows + kPassRows - 1) / kPassRows; }

  // By the whole block, which meets afterwards.
  DEVICE_FN void load_lengths(GridMemory& memory) const {
    for (int i = threadIdx.x; i < passes() * kPassRows; i += blockDim.x) {
      memory.lengths[i] = i < rows ? walk.length(first_row + i) : 0;
    }
  }

  // Where the column's numbers of a row at the k-th step begin in the ring: (operands, peers, 16).
  // No ring holds 2^32.
  DEVICE_FN uint32_t given(int k, int b) const {
    const int number = (k % kRingSteps * walk.N + walk.n) * walk.B + b;
    return uint32_t(number * pitch) + blockIdx.x % kColumns * (kOperands * peers * kTileUnits);
  }

  // Tiles of a pass that have rows of the batch.
  DEVICE_FN int halves(int pass) const {
    return first_row + pass * kPassRows + kTileRows < end_row ? 2 : 1;
  }

  // Whether this thread writes the word of two units' numbers, the even unit's does.
  DEVICE_FN bool writes(int b) const { return own % 2 == 0 && b < end_row; }
  // Where it stands of the first operand; the others are words_apart() further each.
  DEVICE_FN uint32_t* word_of(int k, int b) const {
    const uint32_t place = given(k, b) + blockIdx.x / kColumns * kTileUnits + uint32_t(own);
    return reinterpret_cast<uint32_t*>(x.ring + place);
  }
  DEVICE_FN int words_apart() const { return peers * kTileUnits / 2; }

  // Gives the peers a number. All lanes of a warp call it together.
  template <class IO>
  DEVICE_FN void give(uint32_t* word, int b, float value) const {
    const uint32_t mine = pack<IO>(value, 0), next = __shfl_xor_sync(0xFFFFFFFF, mine, 1);
    const uint32_t pair = mine | next << 16;
    // A diverged model's NaNs are numbers like any other.
    if (writes(b)) store_relaxed(word, pair == kAbsent ? kNans : pair);
  }

  // Copies `count` operands of a pass's rows, of up to kVectors for each lane, into a tile as soon
  // as they are there; false where they do not come. Meet afterwards.
  template <int kVectors, class IO>
  DEVICE_FN bool gather(IO* tile, int stride, int k, int pass, int first_operand, int count) const {
    // As many as registers have room for.
    constexpr int kRows = kVectors > 4 ? 1 : 2;
    const int length = count * peers * kTileUnits, at = threadIdx.x % 32 * 8;
    const uint32_t begin = uint32_t(first_operand * peers * kTileUnits + at);
#pragma unroll
    for (int turn = 0; turn < kPassRows / kGridWarps / kRows; ++turn) {
      Vector found[kRows][kVectors] = {};
      const uint16_t* from[kRows];
      IO* to[kRows];
      int left[kRows];  // of a row's numbers, from this lane's first on
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int row = (turn * kRows + r) * kGridWarps + threadIdx.x / 32;
        const int b = first_row + pass * kPassRows + row;
        from[r] = x.ring + (given(k, b) + begin);
        to[r] = tile + row * stride + at;
        left[r] = b < end_row ? length - at : 0;
      }
      const auto each = [&](auto use) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int v = 0; v < kVectors; ++v) use(found[r][v], r, v * 256);
        }
      };
      each([&](Vector& vector, int r, int away) {
        if (away < left[r]) vector.words[0] = kAbsent;
      });
      const bool there = wait_for(stuck, [&] {
        bool all = true;
        // Again only those that have been absent.
        each([&](Vector& vector, int r, int away) {
          bool absent = false;
          for (const uint32_t word : vector.words) absent |= word == kAbsent;
          if (!absent) return;
          all = false;
          vector = load_relaxed(reinterpret_cast<const Vector*>(from[r] + away));
        });
        return all;
      });
      if (!there) return false;
      each([&](const Vector& vector, int r, int away) {
        if (away < left[r]) *reinterpret_cast<Vector*>(to[r] + away) = vector;
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
    for (int pass = 0; pass < passes(); ++pass) {
      const int b = first_row + pass * kPassRows + row;
      if (!writes(b)) continue;
#pragma unroll 1
      for (int step = k - kLapSteps; step < k; ++step) {
        uint32_t* word = word_of(step, b);
#pragma unroll
        for (int i = 0; i < kOperands; ++i, word += words_apart()) store_relaxed(word, kAbsent);
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) add_release(counter, 1);
  }
};

// The row that a thread computes in a pass.
struct GridRow {
  int b, index, length;  // in the batch, of its unit in the block's states
  bool there;            // a row and a unit of the layer

  template <int kOperands, int kColumns>
  DEVICE_FN GridRow(const GridPlace<kOperands, kColumns>& at, const GridMemory& memory, int pass)
      : b(at.first_row + pass * kPassRows + at.row),
        index((pass * kPassRows + at.row) * kTileUnits + at.own),
        length(memory.lengths[pass * kPassRows + at.row]),
        there(b < at.end_row && at.unit < at.H) {}
};

}  // namespace cuda
}  // namespace fused_rnn
