// SPDX-License-Identifier: MIT
// The cluster tier, backward, 16-bit formats: all steps in one launch of clusters, in reverse. A
// block multiplies the gradients of its own gates with the rows of W_hh that make them, which gives
// a part of dh of all units; each part is pushed to the units' block, which sums them in rank
// order.
#pragma once

#include "../device/inputs.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/tile.cuh"
#include "../device/units.cuh"
#include "../device/waits.cuh"
#include "../device/walk.cuh"
#include "../shapes.h"
#include "exchange.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kSteps, int kGroups>
struct ClusterBackward {
  static constexpr int G = gate_count(cell), D = grad_count(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  static constexpr int kMostTiles = kLargestCluster / kGroupWarps;
  static constexpr int kHeld =
      kSteps < backward_steps(cell, kGroups) ? kSteps : backward_steps(cell, kGroups);

  using Inputs = BackwardInputs<cell, IO>;

  const Backward& p;
  const ClusterPlace at;
  const Walk walk;
  const int H, steps, stride;
  const int count;               // tiles of units of a warp
  const Fragments<1> fragments;  // (warps, steps - kSteps, count)
  IO* const tiles;               // (2, rows, stride): gates of the block's units
  float* const inbox;            // (2, passes, blocks, groups, kSumWords)
  float *const dh, *const dc;    // (rows, units)
  int* const lengths;            // (rows,)
  const Pushes pushes;
  uint32_t w[kMostTiles][kHeld][4];

  DEVICE_FN ClusterBackward(const Backward& p, int rows, unsigned char* shared)
      : p(p),
        at(p.sizes.H, rows),
        walk(p, blockIdx.z),
        H(p.sizes.H),
        steps(backward_steps(cell, at.groups)),
        stride(steps * 16 + kPad),
        count(at.blocks / kGroupWarps),
        fragments{reinterpret_cast<Vector*>(shared), (steps > kSteps ? steps - kSteps : 0) * count},
        tiles(reinterpret_cast<IO*>(&fragments.at(blockDim.x / 32, 0, 0, 0))),
        inbox(reinterpret_cast<float*>(tiles + 2 * rows * stride)),
        dh(inbox + 2 * (rows / kTileRows) * at.blocks * at.groups * kSumWords),
        dc(dh + rows * at.units),
        lengths(reinterpret_cast<int*>(dc + rows * at.units)),
        pushes{reinterpret_cast<uint64_t*>(lengths + rows), p.stuck} {
    load_weights();
    for (int i = threadIdx.x; i < rows; i += blockDim.x) lengths[i] = walk.length(at.first_row + i);
    for (int i = threadIdx.x; i < 2 * rows * stride; i += blockDim.x) tiles[i] = IO{};
    for (int pass = 0; pass * kTileRows < rows; ++pass) {
      const ClusterSpot spot(at, pass);
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      dh[spot.index] = there(spot) && p.dhn ? widen(static_cast<const IO*>(p.dhn)[state]) : 0;
      dc[spot.index] = there(spot) && p.dcn ? widen(static_cast<const IO*>(p.dcn)[state]) : 0;
    }
    pushes.start();
  }

  DEVICE_FN int unit(const ClusterSpot& spot) const { return at.first_unit + spot.unit; }
  DEVICE_FN bool there(const ClusterSpot& spot) const {
    return at.first_row + spot.row < walk.B && unit(spot) < H;
  }

  // Of tile m of this warp: rows of W_hh are the block's own, gate after gate.
  DEVICE_FN void load_fragment(uint32_t (&a)[4], int m, int step) const {
    const int gate = step / at.groups, own = step % at.groups * 16 + at.lane % 4 * 2;
    if (gate >= G) {
      a[0] = a[1] = a[2] = a[3] = 0;
      return;
    }
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + (int64_t(walk.n) * G + gate) * H * H;
    load_transposed(a, w_hh, (at.warp * count + m) * kTileUnits + at.lane / 4 * 2,
                    at.first_unit + own, H, p.paired);
  }

  DEVICE_FN void load_weights() {
#pragma unroll
    for (int m = 0; m < kMostTiles; ++m) {
#pragma unroll
      for (int s = 0; s < kHeld; ++s) load_fragment(w[m][s], m, s);
    }
#pragma unroll 1
    for (int i = 0; i < fragments.steps; ++i) {
      uint32_t a[4];
      load_fragment(a, i % count, kSteps + i / count);
      fragments.at(at.warp, i, 0, at.lane) = {a[0], a[1], a[2], a[3]};
    }
  }

  // What a stage needs of the tape, the state before and dy; stages are counted from the last step.
  DEVICE_FN Inputs load_inputs(int stage, int pass) const {
    Inputs in = {};
    const ClusterSpot spot(at, pass);
    if (stage >= walk.T || !there(spot)) return in;
    const int t = walk.time(walk.T - 1 - stage), length = lengths[spot.row];
    if (t < length) in.load(p, walk, t, at.first_row + spot.row, unit(spot), length);
    return in;
  }

  // Asks for what a later stage reads.
  DEVICE_FN void prefetch_inputs(int stage, int pass) const {
    const ClusterSpot spot(at, pass);
    if (stage >= walk.T || !there(spot)) return;
    Inputs::fetch(p, walk, walk.time(walk.T - 1 - stage), at.first_row + spot.row, unit(spot));
  }

  // Two in turns: while some warps have all they wait for, others may still read.
  DEVICE_FN IO* tile(int stage) const { return tiles + stage % 2 * at.rows * stride; }

  // Puts the gradient that meets the rows of gate g where the product reads it.
  DEVICE_FN void put(int stage, const ClusterSpot& spot, int g, float value) const {
    tile(stage)[spot.row * stride + g * at.units + spot.unit] = narrow<IO>(value);
  }

  DEVICE_FN void store(int t, const ClusterSpot& spot, int column, float value) const {
    if (!there(spot)) return;
    IO* columns = static_cast<IO*>(p.dg) + walk.row(t, at.first_row + spot.row, D);
    columns[column * H + unit(spot)] = narrow<IO>(value);
  }

  // The gates' gradients of one unit and row, of the textbook GRU all but r's; dh keeps the path
  // past the products.
  DEVICE_FN void differentiate(int stage, int t, const ClusterSpot& spot, const Inputs& in) {
    float dg[D] = {}, saved[Inputs::kSaved];
    if (there(spot) && t < lengths[spot.row]) {
      in.widened(saved);
      float& own = dh[spot.index];
      own += widen(in.dy);
      if constexpr (kBefore) {
        backward_output(saved, widen(in.before), own, dg);
      } else {
        backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, saved, widen(in.before), own,
                                dc[spot.index], dg);
      }
    }
#pragma unroll
    for (int g = kBefore ? 1 : 0; g < G; ++g) put(stage, spot, g, dg[recurrent_column(cell, g)]);
#pragma unroll
    for (int d = kBefore ? 1 : 0; d < D; ++d) store(t, spot, d, dg[d]);
  }

  // The textbook GRU's second half: what d(r * h) gives r and h.
  DEVICE_FN void differentiate_reset_gate(int stage, int t, int push, bool lost,
                                          const ClusterSpot& spot, const Inputs& in) {
    float dg[1] = {};
    if (there(spot) && t < lengths[spot.row]) {
      const float saved[1] = {widen(in.saved[0])};
      const float d_reset_h = lost ? missing() : collected(push, spot);
      backward_gates(saved, widen(in.before), d_reset_h, dh[spot.index], dg);
    }
    put(stage, spot, 0, dg[0]);
    store(t, spot, 0, dg[0]);
  }

  DEVICE_FN float* letter(int push, int pass, int from, int group) const {
    const int passes = at.rows / kTileRows;
    return inbox +
           (((push % 2 * passes + pass) * at.blocks + from) * at.groups + group) * kSumWords;
  }

  // The sum of all blocks' parts of a push, in rank order.
  DEVICE_FN float collected(int push, const ClusterSpot& spot) const {
    float total = 0;
    for (int from = 0; from < at.blocks; ++from) {
      total += letter(push, spot.row / kTileRows, from, at.group)[spot.word];
    }
    return total;
  }

  // The products of k-steps first to end, an even number, each tile to its units' block.
  DEVICE_FN void multiply_and_push(int stage, int push, int pass, int first, int end) const {
    float acc[kMostTiles][4] = {};
    const IO* own = tile(stage) + pass * kTileRows * stride + matrix_place(stride, at.lane);
#pragma unroll
    for (int s = 0; s < kHeld; s += 2) {
      if (s < first || s >= end) continue;
      uint32_t b[4];
      ldmatrix_x4(b, own + s * 16);
#pragma unroll
      for (int m = 0; m < kMostTiles; ++m) {
        if (m < count) mma<IO>(acc[m], w[m][s], b[0], b[1]);
      }
#pragma unroll
      for (int m = 0; m < kMostTiles; ++m) {
        if (m < count) mma<IO>(acc[m], w[m][s + 1], b[2], b[3]);
      }
    }
#pragma unroll 1
    for (int s = first > kSteps ? first : kSteps; s < end; s += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, own + s * 16);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int m = 0; m < kMostTiles; ++m) {
          if (m >= count) continue;
          const Vector a = fragments.at(at.warp, (s + i - kSteps) * count + m, 0, at.lane);
          mma<IO>(acc[m], a.words, b[2 * i], b[2 * i + 1]);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kMostTiles; ++m) {
      if (m >= count) continue;
      const int which = at.warp * count + m;
      Vector value;
      memcpy(&value, acc[m], sizeof(value));
      pushes.send(push, which / at.groups,
                  letter(push, pass, at.rank, which % at.groups) + fragment_word(at.lane), value);
    }
  }

  // Sends the products of some k-steps, once all gradients are in the tile. False, and nothing is
  // sent, where a thread has lost the push before.
  DEVICE_FN bool exchange(int stage, int push, bool lost, int first, int end) const {
    pushes.expect(push, at.rows / kTileRows * at.blocks * at.groups * 512);
    if (__syncthreads_or(lost)) return false;
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      multiply_and_push(stage, push, pass, first, end);
    }
    return true;
  }

  // Returns the number of a push that is not sent, as the one before it did not come; or -1.
  DEVICE_FN int step(int stage, bool& lost, Inputs& ahead) {
    const int t = walk.time(walk.T - 1 - stage), push = kBefore ? 2 * stage + 1 : stage;
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      differentiate(stage, t, ClusterSpot(at, pass), pass ? load_inputs(stage, pass) : ahead);
    }
    if constexpr (kBefore) {
      // The row blocks of r and z come first, then that of n.
      if (!exchange(stage, push - 1, lost, 2 * at.groups, steps)) return push - 1;
      lost = !pushes.wait(push - 1);
#pragma unroll 1
      for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
        differentiate_reset_gate(stage, t, push - 1, lost, ClusterSpot(at, pass),
                                 pass ? load_inputs(stage, pass) : ahead);
      }
    }
    if (!exchange(stage, push, lost, 0, kBefore ? 2 * at.groups : steps)) return push;
    ahead = load_inputs(stage + 1, 0);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) prefetch_inputs(stage + 2, pass);
    lost = !pushes.wait(push);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      collect(t, push, lost, ClusterSpot(at, pass));
    }
    return -1;
  }

  // dh of the step before, where the rows are not cut off from it.
  DEVICE_FN void collect(int t, int push, bool lost, const ClusterSpot& spot) {
    const int length = lengths[spot.row];
    if (!there(spot) || t >= length) return;
    const bool cut = walk.cut(t, at.first_row + spot.row, length);
    dh[spot.index] = cut ? 0 : dh[spot.index] + (lost ? missing() : collected(push, spot));
    if (cut) dc[spot.index] = 0;
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
    // Where the last push was lost, dh is no number already.
    if (__any_sync(0xFFFFFFFF, lost)) pushes.drain((1 + kBefore) * walk.T);
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const ClusterSpot spot(at, pass);
      if (!there(spot)) continue;
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      if (p.dh0) static_cast<IO*>(p.dh0)[state] = narrow<IO>(dh[spot.index]);
      if (p.dc0) static_cast<IO*>(p.dc0)[state] = narrow<IO>(dc[spot.index]);
    }
  }
};

template <Cell cell, class IO, int kSteps, int kGroups>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    cluster_backward_kernel(const Backward p, int rows) {
  if constexpr (kHasClusters) {
    SHARED_MEMORY(shared);
    ClusterBackward<cell, IO, kSteps, kGroups> block(p, rows, shared);
    block.run();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
