// SPDX-License-Identifier: MIT
// The cluster tier, backward, 16-bit formats: all steps in one launch of clusters, in reverse. A
// block multiplies the gradients of its own gates with the rows of W_hh that make them, which gives
// a part of dh of all units; each part is pushed to the units' block, which sums them in rank
// order.
#pragma once

#include "../device/inputs.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/records.cuh"
#include "../device/tile.cuh"
#include "../device/units.cuh"
#include "../device/waits.cuh"
#include "../device/walk.cuh"
#include "../shapes.h"
#include "exchange.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kGroups, int kBlocks>
struct ClusterBackward {
  static constexpr int G = gate_count(cell), D = grad_count(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  // K-steps of a warp, and those of them whose weights are in registers; its tiles of units.
  static constexpr int kSteps = backward_steps(cell, kGroups);
  static constexpr int kHeld = kSteps < held_steps(kGroups) ? kSteps : held_steps(kGroups);
  static constexpr int kTiles = kBlocks / kGroupWarps;
  static constexpr int kColumns = kSteps * 16, kStride = twin_stride(kColumns);

  using Inputs = BackwardInputs<cell, IO>;

  const Backward& p;
  const ClusterPlace<kGroups, kBlocks> at;
  const Walk walk;
  const BackwardSource<cell, IO> source;
  const Rows<IO> gates;  // dG
  const int H;
  const Pushes pushes;
  const Fragments<1> fragments;  // (warps, (kSteps - kHeld) * kTiles)
  unsigned char* const passes;   // of each: records, tile and letters
  uint32_t w[kTiles][kHeld][4];
  Inputs inputs;  // of the row that comes next

  DEVICE_FN ClusterBackward(const Backward& p, int rows, unsigned char* shared)
      : p(p),
        at(p.sizes, rows),
        walk(p, blockIdx.z),
        source(p, walk, at.unit()),
        gates(walk, static_cast<IO*>(p.dg), D, at.unit()),
        H(p.sizes.H),
        pushes{reinterpret_cast<uint64_t*>(shared), p.stuck},
        fragments{reinterpret_cast<Vector*>(shared + 16), (kSteps - kHeld) * kTiles},
        passes(reinterpret_cast<unsigned char*>(&fragments.at(at.warps, 0, 0, 0))) {
    load_weights();
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < rows; ++pass) start(pass);
    pushes.start();
  }

  DEVICE_FN Records records(int pass) const {
    return {reinterpret_cast<float*>(passes + pass * pass_bytes(cell, kGroups, kBlocks))};
  }
  DEVICE_FN OwnRow row(int pass) const {
    return {at, records(pass), at.row, at.first_row + at.row + pass * kTileRows};
  }
  // Gates of the block's units, twice: while some warps have all they wait for, others may still
  // read.
  DEVICE_FN IO* tile(int pass, int stage) const {
    float* behind = records(pass).memory + kTileRows * at.record;
    return reinterpret_cast<IO*>(behind) + (stage & 1) * kColumns;
  }
  // Of pushes in turns.
  DEVICE_FN float* letter(int pass, int push, int from, int group) const {
    float* first = reinterpret_cast<float*>(tile(pass, 0) + kTileRows * kStride);
    return first + (push & 1) * letters(kGroups, kBlocks) + (from * kGroups + group) * kSumWords;
  }

  // Lengths, which are not read before the cluster has met, zeros and the gradients of the states.
  DEVICE_FN void start(int pass) const {
    const int first = at.first_row + pass * kTileRows;
    if (threadIdx.x < kTileRows) {
      records(pass).length(at, threadIdx.x) = walk.length(first + threadIdx.x);
    }
    for (int i = threadIdx.x; i < kTileRows * kStride; i += at.threads) tile(pass, 0)[i] = IO{};
    source.start(at, walk, records(pass), at.row, first + at.row);
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
  DEVICE_FN int time(int stage) const { return walk.stage_time(stage); }

  // Takes what the next pass needs, else what comes behind the last.
  DEVICE_FN void take_next(int stage, int pass, int next_stage) {
    const bool more = pass * kTileRows < at.rows;
    const int next = more ? stage : next_stage;
    if (next < walk.T) source.take(inputs, walk, next, row(more ? pass : 0));
  }

  // Puts the gradient that meets the rows of gate g where the product reads it.
  DEVICE_FN void put(IO* tile, int g, float value) const {
    tile[at.row * kStride + g * at.units + at.own] = narrow<IO>(value);
  }

  // The gates' gradients of a pass, of the textbook GRU all but r's; dh keeps the path past the
  // products.
  DEVICE_FN void differentiate(int stage, int pass, const OwnRow& own) {
    const int t = time(stage);
    float dg[D] = {}, saved[Inputs::kSaved];
    if (t < own.length) {
      inputs.widened(saved);
      float dh = own.h + widen(inputs.dy), dc = own.c;
      if constexpr (kBefore) {
        backward_output(saved, widen(inputs.before), dh, dg);
      } else {
        backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, saved, widen(inputs.before), dh, dc,
                                dg);
      }
      own.h = dh, own.c = dc;
    }
    IO* to = tile(pass, stage);
#pragma unroll
    for (int g = kBefore ? 1 : 0; g < G; ++g) put(to, g, dg[recurrent_column(cell, g)]);
    take_next(stage, pass + 1, kBefore ? stage : stage + 1);
    if (!own.there) return;
    IO* columns = gates[walk.number(t, own.b)];
#pragma unroll
    for (int d = kBefore ? 1 : 0; d < D; ++d) columns[d * H] = narrow<IO>(dg[d]);
  }

  // The textbook GRU's second half: what d(r * h) gives r and h.
  DEVICE_FN void differentiate_reset_gate(int stage, int pass, int push, bool lost) {
    const OwnRow own = row(pass);
    const int t = time(stage);
    float dg[1] = {};
    if (t < own.length) {
      const float saved[1] = {widen(inputs.saved[0])};
      const float d_reset_h = lost ? missing() : collected(pass, push);
      backward_gates(saved, widen(inputs.before), d_reset_h, own.h, dg);
    }
    put(tile(pass, stage), 0, dg[0]);
    take_next(stage, pass + 1, stage + 1);
    if (own.there) *gates[walk.number(t, own.b)] = narrow<IO>(dg[0]);
  }

  // The sum of all blocks' parts of a push, in rank order.
  DEVICE_FN float collected(int pass, int push) const {
    const float* first = letter(pass, push, 0, at.group) + at.word;
    float total = 0;
#pragma unroll
    for (int from = 0; from < kBlocks; ++from) total += first[from * kGroups * kSumWords];
    return total;
  }

  // The products of k-steps first to end, an even number, each tile to its units' block.
  template <int first, int end>
  DEVICE_FN void multiply_and_push(int stage, int push, int pass) const {
    constexpr int kMiddle = kHeld < first ? first : kHeld < end ? kHeld : end;
    float acc[kTiles][4] = {};
    const IO* own = tile(pass, stage) + matrix_place(kStride, at.lane);
#pragma unroll
    for (int s = first; s < kMiddle; s += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, own + s * 16);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) mma<IO>(acc[m], w[m][s], b[0], b[1]);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) mma<IO>(acc[m], w[m][s + 1], b[2], b[3]);
    }
#pragma unroll 1
    for (int s = kMiddle; s < end; s += 2) {
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
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      const int which = at.warp * kTiles + m;
      Vector value;
      memcpy(&value, acc[m], sizeof(value));
      pushes.send(push, which / kGroups,
                  letter(pass, push, at.rank, which % kGroups) + fragment_word(at.lane), value);
    }
  }

  // Sends the products of some k-steps, once all gradients are in the tile. False, and nothing is
  // sent, where a thread has lost the push before.
  template <int first, int end>
  DEVICE_FN bool exchange(int stage, int push, bool lost) const {
    pushes.expect(push, at.rows / kTileRows * at.blocks * at.groups * 512);
    if (__syncthreads_or(lost)) return false;
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      multiply_and_push<first, end>(stage, push, pass);
    }
    return true;
  }

  // The products of a stage whose gates are there, of the textbook GRU all but r's, and the gates
  // of the next. Returns the number of a push that is not sent, as the one before it did not come;
  // or -1.
  DEVICE_FN int step(int stage, bool& lost) {
    const int push = kBefore ? 2 * stage + 1 : stage;
    if constexpr (kBefore) {
      // The row blocks of r and z come first, then that of n.
      if (!exchange<2 * kGroups, kSteps>(stage, push - 1, lost)) return push - 1;
      lost = !pushes.wait(push - 1);
#pragma unroll 1
      for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
        differentiate_reset_gate(stage, pass, push - 1, lost);
      }
    }
    if (!exchange<0, kBefore ? 2 * kGroups : kSteps>(stage, push, lost)) return push;
    lost = !pushes.wait(push);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const OwnRow own = row(pass);
      collect(time(stage), pass, push, lost, own);
      if (stage + 1 < walk.T) differentiate(stage + 1, pass, own);
    }
    return -1;
  }

  // dh of the step before, where the rows are not cut off from it.
  DEVICE_FN void collect(int t, int pass, int push, bool lost, const OwnRow& own) const {
    if (t >= own.length) return;
    const bool cut = walk.cut(t, own.b, own.length);
    own.h = cut ? 0 : own.h + (lost ? missing() : collected(pass, push));
    if (cut) own.c = 0;
  }

  DEVICE_FN void give_up(int stage, int push) const {
    pushes.drain(push);
    spoil_backward<cell, IO>(p, walk, at.share(), stage);
  }

  DEVICE_FN void run() {
    source.take(inputs, walk, 0, row(0));
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) differentiate(0, pass, row(pass));
    bool lost = false;
#pragma unroll 1
    for (int stage = 0; stage < walk.T; ++stage) {
      const int unsent = step(stage, lost);
      if (unsent >= 0) return give_up(stage, unsent);
    }
    // Where the last push was lost, dh is no number already.
    if (__any_sync(0xFFFFFFFF, lost)) pushes.drain((1 + kBefore) * walk.T);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) source.finish(walk, row(pass));
  }
};

template <Cell cell, class IO, int kGroups, int kBlocks>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    cluster_backward_kernel(const Backward p, int rows) {
  if constexpr (kHasClusters) {
    SHARED_MEMORY(shared);
    ClusterBackward<cell, IO, kGroups, kBlocks> block(p, rows, shared);
    block.run();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
