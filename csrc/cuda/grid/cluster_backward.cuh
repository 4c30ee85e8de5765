// SPDX-License-Identifier: MIT
// The grid tier, backward by two dimensions, 16-bit formats: all steps in one cooperative launch of
// clusters, in reverse. The ranks of the clusters are the columns of the grid. A block gathers dG
// of its column's units and multiplies it with their rows of W_hh, those columns of them that make
// dh of its cluster's units; each part is pushed to the units' block, which sums them in rank
// order.
#pragma once

#include "../cluster/exchange.cuh"
#include "../device/primitives.cuh"
#include "../device/tile.cuh"
#include "../device/waits.cuh"
#include "../problem.h"
#include "../shapes.h"
#include "exchange.cuh"
#include "gradients.cuh"

namespace fused_rnn {
namespace cuda {

// kKept: some weights are in shared memory, behind those in registers.
template <Cell cell, class IO, int ranks, bool kKept>
struct GridClusterBackward {
  static constexpr int G = gate_count(cell), kHeld = held_column_steps(cell);
  // Warps that share a rank's units part the k-steps.
  static constexpr int kSharers = kGridWarps / ranks;
  // Vectors that a lane gathers of each row: a tile's columns, but where weights are kept all.
  static constexpr int kColumns = kSharers * kHeld * 16, kOfWarp = 32 * sizeof(Vector) / sizeof(IO);
  static constexpr int kVectors = kKept || kColumns > (kColumnVectors - 1) * kOfWarp
                                      ? kColumnVectors
                                      : (kColumns + kOfWarp - 1) / kOfWarp;
  static constexpr int kLetters = kHalves * kGridWarps * kSumWords;

  const int warp, lane;
  const int steps, stride;  // k-steps of a warp, columns of a tile
  const Pushes pushes;
  float* const inbox;       // (2, warps, kHalves, kSumWords)
  const Fragments<1> kept;  // (warps, steps - kHeld)
  IO* const tiles;          // (kPassRows, stride), of all pushes in turns
  GridGradients<cell, IO> own;
  uint32_t w[kHeld][4];

  DEVICE_FN GridClusterBackward(const Backward& p, const Exchange& x, unsigned char* shared)
      : warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        steps(column_steps(cell, p.sizes.H, ranks)),
        stride(column_stride(cell, p.sizes.H, ranks)),
        pushes{reinterpret_cast<uint64_t*>(shared), p.stuck},
        inbox(reinterpret_cast<float*>(shared + 16)),
        kept{reinterpret_cast<Vector*>(inbox + 2 * kLetters), kKept ? steps - kHeld : 0},
        tiles(reinterpret_cast<IO*>(&kept.at(kGridWarps, 0, 0, 0))),
        own(p, x, ranks, tiles + 2 * kPassRows * stride) {
#pragma unroll
    for (int s = 0; s < kHeld; ++s) load_fragment(w[s], s);
#pragma unroll 1
    for (int s = 0; s < kept.steps; ++s) {
      uint32_t a[4];
      load_fragment(a, kHeld + s);
      kept.at(warp, s, 0, lane) = {a[0], a[1], a[2], a[3]};
    }
    for (int i = threadIdx.x; i < 2 * kPassRows * stride; i += kGridThreads) tiles[i] = IO{};
    pushes.start();
  }

  // The s-th of this warp: rows of W_hh are the column's, gate after gate.
  DEVICE_FN void load_fragment(uint32_t (&a)[4], int s) const {
    const auto& at = own.at;
    const int H = at.H, step = warp % kSharers * steps + s, gate = step / at.peers;
    if (s >= steps || gate >= G) {
      a[0] = a[1] = a[2] = a[3] = 0;
      return;
    }
    const int rank = blockIdx.x % ranks, to = blockIdx.x - rank + warp / kSharers;
    const int row = (step % at.peers * ranks + rank) * kTileUnits + lane % 4 * 2;
    const IO* w_hh = static_cast<const IO*>(own.p.w_hh) + (int64_t(at.walk.n) * G + gate) * H * H;
    load_transposed(a, w_hh, to * kTileUnits + lane / 4 * 2, row, H, own.p.paired);
  }

  // Two in turns: while some warps have all they wait for, others may still read.
  DEVICE_FN IO* tile(int push) const { return tiles + low_bits(push, 1) * kPassRows * stride; }
  // What a warp makes of half a pass, here or at the units' block.
  DEVICE_FN float* letter(int push, int half, int from) const {
    return inbox + low_bits(push, 1) * kLetters + (from * kHalves + half) * kSumWords;
  }

  // Each half of a pass by two chains of products, of even and of odd k-steps. Rows that are not
  // there are zeros: to leave them out would take more instructions than it saves.
  DEVICE_FN void multiply_and_push(int push, int halves) const {
    float acc[kHalves][2][4] = {};
    const IO* from = tile(push) + warp % kSharers * steps * 16 + matrix_place(stride, lane);
    const auto add = [&](int s, const auto& even, const auto& odd) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        uint32_t b[4];
        ldmatrix_x4(b, from + half * kTileRows * stride + s * 16);
        mma<IO>(acc[half][0], even, b[0], b[1]);
        mma<IO>(acc[half][1], odd, b[2], b[3]);
      }
    };
    // By some k-steps at a time, of which a warp has all or none.
#pragma unroll
    for (int s = 0; s < kHeld; s += kColumnGroup) {
      if (kKept || s < steps) {
#pragma unroll
        for (int i = s; i < s + kColumnGroup; i += 2) add(i, w[i], w[i + 1]);
      }
    }
#pragma unroll 1
    for (int s = 0; s < kept.steps; s += 2) {
      const Vector even = kept.at(warp, s, 0, lane), odd = kept.at(warp, s + 1, 0, lane);
      add(kHeld + s, even.words, odd.words);
    }
    const int sender = blockIdx.x % ranks * kSharers + warp % kSharers;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      if (half >= halves) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[half][0][e] += acc[half][1][e];
      Vector value;
      memcpy(&value, acc[half][0], sizeof(value));
      pushes.send(push, warp / kSharers, letter(push, half, sender) + fragment_word(lane), value);
    }
  }

  // The sum of all parts of a push, in rank order.
  DEVICE_FN float collected(int push) const {
    const float* first = letter(push, 0, 0) + own.at.word;
    float total = 0;
#pragma unroll
    for (int from = 0; from < kGridWarps; ++from) total += first[from * kHalves * kSumWords];
    return total;
  }

  // Returns the number of a push that is not sent, as something before it did not come; or -1.
  DEVICE_FN int step(int stage, bool& lost) {
    const int passes = own.passes;
    if (!own.at.begin(stage)) return stage * passes;
#pragma unroll 1
    for (int pass = 0; pass < passes; ++pass) {
      const int push = stage * passes + pass, halves = own.at.halves(pass);
      lost |= !own.at.template gather<kVectors>(tile(push), stride, stage, pass, 0, G);
      pushes.expect(push, halves * kGridWarps * 512);
      if (__syncthreads_or(lost)) return push;
      if (pass + 1 == passes) own.at.end(stage);
      multiply_and_push(push, halves);
      lost = !pushes.wait(push);
      own.go_on(stage, pass, lost ? missing() : collected(push));
    }
    return -1;
  }

  DEVICE_FN void give_up(int stage, int push) const {
    pushes.drain(push);
    own.give_up(stage);
  }

  DEVICE_FN void run() {
    own.start();
    bool lost = false;
    for (int stage = 0; stage < own.walk.T; ++stage) {
      const int unsent = step(stage, lost);
      if (unsent >= 0) return give_up(stage, unsent);
    }
    // Where the last push was lost, dh is no number already.
    if (__any_sync(0xFFFFFFFF, lost)) pushes.drain(own.walk.T * own.passes);
    own.finish();
  }
};

template <Cell cell, class IO, int ranks, bool kKept>
__global__ void __launch_bounds__(kGridThreads, 1)
    grid_cluster_backward_kernel(const Backward p, const Exchange x) {
  if constexpr (kHasClusters) {
    SHARED_MEMORY(shared);
    GridClusterBackward<cell, IO, ranks, kKept> block(p, x, shared);
    block.run();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
