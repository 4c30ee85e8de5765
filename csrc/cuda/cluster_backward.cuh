// SPDX-License-Identifier: MIT
// Tier C, backward, 16-bit formats: all steps in one launch of clusters, in reverse. A block
// multiplies the gradients of its own gates with the rows of W_hh that make them, which gives a
// part of dh of all units; each part is pushed to the units' block, which sums them in rank order.
#pragma once

#include "cluster.cuh"
#include "inputs.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kBlocks, int kGroups>
struct ClusterBackward {
  static constexpr int G = gate_count(cell), D = grad_count(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  // Tiles of units of a warp; its k-steps, and those whose weights are in registers.
  static constexpr int kTiles = kBlocks / kGroupWarps, kAll = backward_steps(cell, kGroups);
  static constexpr int kHeld = kAll < held_steps(kGroups) ? kAll : held_steps(kGroups);
  // From one row of both tiles to the next; what a block gets of a push and a pass.
  static constexpr int kColumns = kAll * 16, kPitch = twin_pitch(kColumns);
  static constexpr int kLetters = kBlocks * kGroups * kSumWords;

  using Inputs = BackwardInputs<cell, IO>;
  using Memory = ClusterMemory<kGroups>;

  const Backward& p;
  const ClusterPlace<kBlocks, kGroups> at;
  const Walk walk;
  const int H;
  Memory& memory;
  const Fragments<1> fragments;  // (warps, kAll - kHeld, kTiles)
  float* const inbox;            // (passes, 2, blocks, groups, kSumWords)
  IO* const tiles;               // (rows, 2, kColumns): gates of the block's units
  const Pushes pushes;
  // Where in the tiles a thread writes and a lane reads matrices, where in an inbox a lane's part
  // lands and a thread takes what it adds up.
  int writes, reads, lands, takes;
  uint32_t w[kTiles][kHeld][4];

  DEVICE_FN ClusterBackward(const Backward& p, int rows, unsigned char* shared)
      : p(p),
        at(rows),
        walk(p, blockIdx.z),
        H(p.sizes.H),
        memory(*reinterpret_cast<Memory*>(shared)),
        fragments{reinterpret_cast<Vector*>(shared + sizeof(Memory)), (kAll - kHeld) * kTiles},
        inbox(reinterpret_cast<float*>(&fragments.at(kGroups * kGroupWarps, 0, 0, 0))),
        tiles(reinterpret_cast<IO*>(inbox + 2 * (rows / kTileRows) * kLetters)),
        pushes{memory.barriers, p.stuck},
        writes(at.row * kPitch + at.own),
        reads(matrix_place(kPitch, at.lane)),
        lands(at.rank * kGroups * kSumWords + fragment_word(at.lane)),
        takes(at.group * kSumWords + at.word) {
    static_assert(sizeof(Memory) == cluster_state_bytes(kGroups));
    hold(writes), hold(reads);
    load_weights();
    for (int i = threadIdx.x; i < rows; i += blockDim.x) {
      memory.lengths[i] = walk.length(at.first_row + i);
    }
    for (int i = threadIdx.x; i < rows * kPitch; i += blockDim.x) tiles[i] = IO{};
    __syncthreads();
    for (int pass = 0; pass * kTileRows < rows; ++pass) {
      const ClusterRow own = row(pass);
      const int64_t state = walk.state(own.b) + at.unit;
      dh(own) = there(own) && p.dhn ? widen(static_cast<const IO*>(p.dhn)[state]) : 0;
      dc(own) = there(own) && p.dcn ? widen(static_cast<const IO*>(p.dcn)[state]) : 0;
    }
    pushes.start();
  }

  DEVICE_FN ClusterRow row(int pass) const { return {at, memory.lengths, pass}; }
  DEVICE_FN float& dh(const ClusterRow& own) const { return memory.states[0][own.index]; }
  DEVICE_FN float& dc(const ClusterRow& own) const { return memory.states[1][own.index]; }
  DEVICE_FN bool there(const ClusterRow& own) const { return own.b < walk.B && at.unit < H; }
  DEVICE_FN bool active(int t, const ClusterRow& own) const {
    return at.unit < H && t < own.length;
  }

  // Of tile m of this warp: rows of W_hh are the block's own, gate after gate.
  DEVICE_FN void load_fragment(uint32_t (&a)[4], int m, int step) const {
    const int gate = step / kGroups, own = step % kGroups * 16 + at.lane % 4 * 2;
    if (gate >= G) {
      a[0] = a[1] = a[2] = a[3] = 0;
      return;
    }
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + (int64_t(walk.n) * G + gate) * H * H;
    load_transposed(a, w_hh, (at.warp * kTiles + m) * kTileUnits + at.lane / 4 * 2,
                    at.first_unit + own, H, p.paired);
  }

  DEVICE_FN void load_weights() {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int s = 0; s < kHeld; ++s) load_fragment(w[m][s], m, s);
    }
#pragma unroll 1
    for (int i = 0; i < fragments.steps; ++i) {
      uint32_t a[4];
      load_fragment(a, i % kTiles, kHeld + i / kTiles);
      fragments.at(at.warp, i, 0, at.lane) = {a[0], a[1], a[2], a[3]};
    }
  }

  // Stages are counted from the last step.
  DEVICE_FN int time(int stage) const { return walk.time(walk.T - 1 - stage); }

  // What a stage needs of the tape, the state before and dy.
  DEVICE_FN Inputs load_inputs(int stage, int pass) const {
    Inputs in = {};
    const ClusterRow own = row(pass);
    const int t = time(stage);
    if (stage < walk.T && active(t, own)) in.load(p, walk, t, own.b, at.unit, own.length);
    return in;
  }

  // Asks for what a later stage reads: the first lanes of a group's sixteen units for a part each.
  DEVICE_FN void prefetch_inputs(int stage, int pass) const {
    const ClusterRow own = row(pass);
    const int lane = at.own % kTileUnits, t = time(stage);
    if (stage >= walk.T || at.unit - lane >= H || t >= own.length) return;
    Inputs::fetch(p, walk, t, own.b, at.unit - lane, lane);
  }

  // Two in turns: while some warps have all they wait for, others may still read.
  DEVICE_FN IO* tile(int stage) const { return tiles + stage % 2 * kColumns; }

  // Puts the gradient that meets the rows of gate g where the product reads it.
  DEVICE_FN void put(int stage, int pass, int g, float value) const {
    tile(stage)[pass * kTileRows * kPitch + writes + g * at.kUnits] = narrow<IO>(value);
  }

  // Columns first.. of dG.
  template <int first, int count>
  DEVICE_FN void store(int t, const ClusterRow& own, const float (&dg)[count]) const {
    if (!there(own)) return;
    IO* column = static_cast<IO*>(p.dg) + walk.offset(walk.number(t, own.b), D) + at.unit;
    if (first) column += first * H;
#pragma unroll
    for (int d = first; d < count; ++d, column += H) *column = narrow<IO>(dg[d]);
  }

  // The gates' gradients of one unit and row, of the textbook GRU all but r's; dh keeps the path
  // past the products.
  DEVICE_FN void differentiate(int stage, int t, int pass, const Inputs& in) {
    const ClusterRow own = row(pass);
    float dg[D] = {}, saved[Inputs::kSaved];
    if (active(t, own)) {
      in.widened(saved);
      float d = dh(own) + widen(in.dy);
      if constexpr (kBefore) {
        backward_output(saved, widen(in.before), d, dg);
      } else {
        backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, saved, widen(in.before), d, dc(own),
                                dg);
      }
      dh(own) = d;
    }
#pragma unroll
    for (int g = kBefore ? 1 : 0; g < G; ++g) put(stage, pass, g, dg[recurrent_column(cell, g)]);
    store<kBefore ? 1 : 0>(t, own, dg);
  }

  // The textbook GRU's second half: what d(r * h) gives r and h.
  DEVICE_FN void differentiate_reset(int stage, int t, int pass, int push, bool lost,
                                     const Inputs& in) {
    const ClusterRow own = row(pass);
    float dg[1] = {};
    if (active(t, own)) {
      const float saved[1] = {widen(in.saved[0])};
      const float d_reset_h = lost ? missing() : collected(push, pass);
      backward_gates(saved, widen(in.before), d_reset_h, dh(own), dg);
    }
    put(stage, pass, 0, dg[0]);
    store<0>(t, own, dg);
  }

  DEVICE_FN float* letters(int push, int pass) const {
    return inbox + (2 * pass + push % 2) * kLetters;
  }

  // The sum of all blocks' parts of a push, in rank order.
  DEVICE_FN float collected(int push, int pass) const {
    const float* from = letters(push, pass) + takes;
    float total = 0;
#pragma unroll
    for (int rank = 0; rank < kBlocks; ++rank) total += from[rank * kGroups * kSumWords];
    return total;
  }

  // The products of k-steps first to end, an even number, each tile to its units' block.
  DEVICE_FN void multiply_and_push(int stage, int push, int pass, int first, int end) const {
    float acc[kTiles][4] = {};
    const IO* own = tile(stage) + pass * kTileRows * kPitch + reads;
#pragma unroll
    for (int s = 0; s < kHeld; s += 2) {
      if (s < first || s >= end) continue;
      uint32_t b[4];
      ldmatrix_x4(b, own + s * 16);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        mma<IO>(acc[m], w[m][s], b[0], b[1]);
      }
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        mma<IO>(acc[m], w[m][s + 1], b[2], b[3]);
      }
    }
#pragma unroll 1
    for (int s = first > kHeld ? first : kHeld; s < end; s += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, own + s * 16);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          const Vector a = fragments.at(at.warp, (s + i - kHeld) * kTiles + m, 0, at.lane);
          mma<IO>(acc[m], a.words, b[2 * i], b[2 * i + 1]);
        }
      }
    }
    float* const to = letters(push, pass) + lands;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      const int which = at.warp * kTiles + m;
      Vector value;
      memcpy(&value, acc[m], sizeof(value));
      pushes.send(push, which / kGroups, to + which % kGroups * kSumWords, value);
    }
  }

  // Sends the products of some k-steps, once all gradients are in the tile. False, and nothing is
  // sent, where a thread has lost the push before.
  DEVICE_FN bool exchange(int stage, int push, bool lost, int first, int end) const {
    pushes.expect(push, at.rows * (kBlocks * kGroups * 512 / kTileRows));
    if (__syncthreads_or(lost)) return false;
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      multiply_and_push(stage, push, pass, first, end);
    }
    return true;
  }

  // Returns the number of a push that is not sent, as the one before it did not come; or -1.
  DEVICE_FN int step(int stage, bool& lost, Inputs& ahead) {
    const int t = time(stage), push = kBefore ? 2 * stage + 1 : stage;
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      differentiate(stage, t, pass, pass ? load_inputs(stage, pass) : ahead);
    }
    if constexpr (kBefore) {
      // The row blocks of r and z come first, then that of n.
      if (!exchange(stage, push - 1, lost, 2 * kGroups, kAll)) return push - 1;
      lost = !pushes.wait(push - 1);
#pragma unroll 1
      for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
        differentiate_reset(stage, t, pass, push - 1, lost,
                            pass ? load_inputs(stage, pass) : ahead);
      }
    }
    if (!exchange(stage, push, lost, 0, kBefore ? 2 * kGroups : kAll)) return push;
    ahead = load_inputs(stage + 1, 0);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) prefetch_inputs(stage + 2, pass);
    lost = !pushes.wait(push);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      collect(t, push, pass, lost);
    }
    return -1;
  }

  // dh of the step before, where the rows are not cut off from it.
  DEVICE_FN void collect(int t, int push, int pass, bool lost) {
    const ClusterRow own = row(pass);
    if (!active(t, own)) return;
    const bool cut = walk.cut(t, own.b, own.length);
    dh(own) = cut ? 0 : dh(own) + (lost ? missing() : collected(push, pass));
    if (cut) dc(own) = 0;
  }

  DEVICE_FN void give_up(int stage, int push) const {
    pushes.drain(push);
    spoil_backward<cell, IO>(p, walk, at.share(), stage);
  }

  DEVICE_FN void run() {
    Inputs ahead = load_inputs(0, 0);
    bool lost = false;
#pragma unroll 1
    for (int stage = 0; stage < walk.T; ++stage) {
      const int unsent = step(stage, lost, ahead);
      if (unsent >= 0) return give_up(stage, unsent);
    }
    if (__syncthreads_or(lost)) return give_up(walk.T, (1 + kBefore) * walk.T);
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const ClusterRow own = row(pass);
      if (!there(own)) continue;
      const int64_t state = walk.state(own.b) + at.unit;
      if (p.dh0) static_cast<IO*>(p.dh0)[state] = narrow<IO>(dh(own));
      if (p.dc0) static_cast<IO*>(p.dc0)[state] = narrow<IO>(dc(own));
    }
  }
};

template <Cell cell, class IO, int kBlocks, int kGroups>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    cluster_backward_kernel(const Backward p, int rows) {
  if constexpr (kHasClusters) {
    SHARED_MEMORY(shared);
    ClusterBackward<cell, IO, kBlocks, kGroups> block(p, rows, shared);
    block.run();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
