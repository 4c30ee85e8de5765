// SPDX-License-Identifier: MIT
// The grid tier, backward, 16-bit formats: all steps in one cooperative launch, in reverse. A block
// keeps the columns of W_hh of 16 units in registers and shared memory and computes their dh; the
// blocks of a batch group hand dG around, all gates of all units, through global memory.
#pragma once

#include "../device/primitives.cuh"
#include "../device/tile.cuh"
#include "../problem.h"
#include "../shapes.h"
#include "exchange.cuh"
#include "gradients.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kSteps, int kKept>
struct GridBackward {
  static constexpr int G = gate_count(cell);
  static constexpr int kAll = kSteps + kKept;  // of a warp
  static constexpr int kStride = grid_stride(kAll), kSums = kHalves * kSumWords;

  const int slots, warp, lane;
  const Fragments<G> kept;  // (warps, kKept, G)
  float* const sums;        // (warps, kSums)
  IO* const tiles;          // (slots, kPassRows, kStride)
  GridGradients<cell, IO> own;
  uint32_t w[G][kSteps][4];

  DEVICE_FN GridBackward(const Backward& p, const Exchange& x, unsigned char* shared)
      : slots(x.slots),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        kept{reinterpret_cast<Vector*>(shared), kKept},
        sums(reinterpret_cast<float*>(&kept.at(kGridWarps, 0, 0, 0))),
        tiles(reinterpret_cast<IO*>(sums + kGridWarps * kSums)),
        own(p, x, 1, tiles + slots * kPassRows * kStride) {
    const int H = own.at.H, pair = own.at.first_unit + lane / 4 * 2, first = warp * kAll * 16;
    const bool paired = p.paired;
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(own.at.walk.n) * G * H * H;
    load_columns(w, w_hh, pair, first, H, paired, lane);
    kept.fill(warp, lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_columns(one, w_hh, pair, first + (kSteps + s) * 16, H, paired, lane);
    });
    for (int i = threadIdx.x; i < slots * kPassRows * kStride; i += kGridThreads) tiles[i] = IO{};
    __syncthreads();
  }

  DEVICE_FN IO* tile(int slot) const { return tiles + slot * kPassRows * kStride; }

  // This warp's part of dG W_hh for gates first.., of which the tiles hold one each.
  DEVICE_FN void multiply_gates(int first, int halves, float (&acc)[kHalves][1][4]) const {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      if (g < first || g >= first + slots) continue;
      const IO* from = tile(g - first) + warp * kAll * 16 + matrix_place(kStride, lane);
      const auto& held = reinterpret_cast<const uint32_t (&)[1][kSteps][4]>(w[g]);
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        if (half < halves) multiply(acc[half], held, from + half * kTileRows * kStride);
      }
      multiply(acc, kept, warp, g, from + kSteps * 16, kTileRows * kStride, halves, lane);
    }
  }

  // The warps' sums of a pass; false where what they gather does not come.
  DEVICE_FN bool multiply_pass(int stage, int pass) const {
    const int halves = own.at.halves(pass);
    float acc[kHalves][1][4] = {};
    for (int first = 0; first < G; first += slots) {
      const bool last = first + slots >= G;
      bool found = true;
      for (int g = first; g < G && g < first + slots; ++g) {
        found &= own.at.template gather<kAll / 2>(tile(g - first), kStride, stage, pass, g, 1);
      }
      if (__syncthreads_or(!found)) return false;
      if (last && pass + 1 == own.passes) own.at.end(stage);
      multiply_gates(first, halves, acc);
      // The next gates come over these tiles.
      if (!last) __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      if (half < halves) put_sums(sums + warp * kSums + half * kSumWords, acc[half][0], lane);
    }
    return true;
  }

  // While one pass is computed, the other blocks hand on what the next gathers.
  DEVICE_FN bool step(int stage) {
    if (!own.at.begin(stage)) return false;
#pragma unroll 1
    for (int pass = 0; pass < own.passes; ++pass) {
      if (!multiply_pass(stage, pass)) return false;
      __syncthreads();
      float sum = 0;
#pragma unroll
      for (int from = 0; from < kGridWarps; ++from) sum += sums[from * kSums + own.at.word];
      own.go_on(stage, pass, sum);
    }
    return true;
  }

  DEVICE_FN void run() {
    own.start();
    for (int stage = 0; stage < own.walk.T; ++stage) {
      if (!step(stage)) return own.give_up(stage);
    }
    own.finish();
  }
};

template <Cell cell, class IO, int kSteps, int kKept>
__global__ void __launch_bounds__(kGridThreads, 1)
    grid_backward_kernel(const Backward p, const Exchange x) {
  SHARED_MEMORY(shared);
  GridBackward<cell, IO, kSteps, kKept> block(p, x, shared);
  block.run();
}

}  // namespace cuda
}  // namespace fused_rnn
