// SPDX-License-Identifier: MIT
// The grid tier, forward, 16-bit formats: all steps in one cooperative launch. A block keeps 16
// units' rows of W_hh in registers and shared memory; after each step the blocks of a batch group
// hand h around through global memory.
#pragma once

#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/tile.cuh"
#include "../device/units.cuh"
#include "../device/waits.cuh"
#include "../device/walk.cuh"
#include "../problem.h"
#include "../shapes.h"
#include "exchange.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kSteps, int kKept>
struct GridForward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell), kSummed = summed_gates(cell);
  static constexpr int kAll = kSteps + kKept;  // of a warp
  static constexpr int kStride = grid_stride(kAll), kSums = kHalves * kSumWords;
  static constexpr int kParts = sum_parts(kKept);

  const Forward& p;
  const GridPlace at;
  const Walk walk;
  const int H, rows, passes, warp, lane;
  const Fragments<G> kept;   // (warps, kKept, G)
  int* const lengths;        // (rows,)
  float *const h, *const c;  // (rows, 16)
  float* const sums;         // (kParts, G, kSums)
  IO* const tile;            // (kPassRows, kStride)
  uint32_t w[G][kSteps][4];
  float bias[G], x_bias;

  DEVICE_FN GridForward(const Forward& p, const Exchange& x, unsigned char* shared)
      : p(p),
        at(p, x, 1, 1),
        walk(p, blockIdx.z),
        H(at.H),
        rows(at.rows),
        passes(rows / kPassRows),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        kept{reinterpret_cast<Vector*>(shared), kKept},
        lengths(reinterpret_cast<int*>(&kept.at(kGridWarps, 0, 0, 0))),
        h(reinterpret_cast<float*>(lengths + rows)),
        c(h + rows * kTileUnits),
        sums(c + rows * kTileUnits),
        tile(reinterpret_cast<IO*>(sums + kParts * G * kSums)) {
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int pair = at.first_unit + lane / 4 * 2, first = warp * kAll * 16;
    load_rows(w, w_hh, pair, first, H, p.paired, lane);
    kept.fill(warp, lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_rows(one, w_hh, pair, first + (kSteps + s) * 16, H, p.paired, lane);
    });
    load_bias();
    for (int i = threadIdx.x; i < kPassRows * kStride; i += blockDim.x) tile[i] = IO{};
    for (int i = threadIdx.x; i < rows; i += blockDim.x) lengths[i] = walk.length(at.first_row + i);
    __syncthreads();
    for (int pass = 0; pass < passes; ++pass) start(GridSpot(pass));
  }

  DEVICE_FN int unit(const GridSpot& spot) const { return at.first_unit + spot.unit; }
  DEVICE_FN bool there(const GridSpot& spot) const {
    return at.first_row + spot.row < walk.B && unit(spot) < H;
  }

  DEVICE_FN void load_bias() {
    const GridSpot spot(0);
    const auto* b_ih = static_cast<const IO*>(p.b_ih);
    const auto* b_hh = static_cast<const IO*>(p.b_hh);
    x_bias = 0;
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const int64_t index = (int64_t(walk.n) * G + g) * H + unit(spot);
      const float from_x = b_ih && unit(spot) < H ? widen(b_ih[index]) : 0;
      bias[g] = b_hh && unit(spot) < H ? widen(b_hh[index]) : 0;
      if (g < kSummed) {
        bias[g] += from_x;
      } else {
        x_bias = from_x;
      }
    }
  }

  DEVICE_FN void start(const GridSpot& spot) {
    const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
    h[spot.index] = there(spot) && p.h0 ? widen(static_cast<const IO*>(p.h0)[state]) : 0;
    c[spot.index] = there(spot) && p.c0 ? widen(static_cast<const IO*>(p.c0)[state]) : 0;
    hand_on(0, spot);
  }

  // Gives h to the group's k-th step, zeros where that step starts afresh.
  DEVICE_FN void hand_on(int k, const GridSpot& spot) {
    if (k == walk.T) return;
    const int b = at.first_row + spot.row;
    const bool cut = b < walk.B && walk.cut(walk.time(k), b, lengths[spot.row]);
    if (cut) h[spot.index] = c[spot.index] = 0;
    at.template give<IO>(k, spot, 0, h[spot.index]);
  }

  // The input parts of a pass.
  DEVICE_FN void load_inputs(int k, int pass, IO (&x)[G]) const {
    const GridSpot spot(pass);
    if (k >= walk.T || !there(spot) || walk.time(k) >= lengths[spot.row]) return;
    const int64_t row = walk.row(walk.time(k), at.first_row + spot.row, G) + unit(spot);
#pragma unroll
    for (int g = 0; g < G; ++g) x[g] = static_cast<const IO*>(p.xg)[row + g * H];
  }

  // A part of the sums of a pass for each warp, or two.
  DEVICE_FN void multiply_pass(int pass) const {
    float acc[kHalves][G][4] = {};
    const IO* own = tile + warp * kAll * 16 + matrix_place(kStride, lane);
    const int halves = at.halves(pass);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      if (half < halves) multiply(acc[half], w, own + half * kTileRows * kStride);
    }
    multiply(acc, kept, warp, 0, own + kSteps * 16, kTileRows * kStride, halves, lane);
    const auto each = [&](auto use) {
#pragma unroll
      for (int g = 0; g < G; ++g) {
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          float* part = sums + (warp % kParts * G + g) * kSums + half * kSumWords;
          if (half < halves) use(part, acc[half][g]);
        }
      }
    };
    const auto put = [&](float* part, const float (&own)[4]) { put_sums(part, own, lane); };
    if constexpr (kParts < kGridWarps) {
      if (warp >= kParts) each(put);
      __syncthreads();
      if (warp < kParts) each([&](float* part, float (&own)[4]) { add_sums(own, part, lane); });
    }
    if (warp < kParts) each(put);
  }

  DEVICE_FN void update(int k, int pass, const IO (&given)[G]) {
    const GridSpot spot(pass);
    const int t = walk.time(k);
    const bool active = there(spot) && t < lengths[spot.row];
    float x[G], total[G], saved[S + 1];
#pragma unroll
    for (int g = 0; g < G; ++g) {
      x[g] = widen(given[g]) + (g < kSummed ? 0 : x_bias);
      total[g] = bias[g];
      for (int from = 0; from < kParts; ++from) {
        total[g] += sums[(from * G + g) * kSums + spot.word];
      }
    }
    float& own = h[spot.index];
    if (active) {
      forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x, total, own, c[spot.index], saved);
    }
    const float value = own;
    hand_on(k + 1, spot);
    if (there(spot)) store(t, spot, active, value, saved);
  }

  DEVICE_FN void store(int t, const GridSpot& spot, bool active, float value,
                       const float (&saved)[S + 1]) const {
    const int b = at.first_row + spot.row, u = unit(spot);
    static_cast<IO*>(p.y)[walk.row(t, b, 1) + u] = active ? narrow<IO>(value) : IO{};
    if (!active || !p.tape) return;
    IO* slots = static_cast<IO*>(p.tape) + walk.row(t, b, S) + u;
#pragma unroll
    for (int s = 0; s < S; ++s) slots[s * H] = narrow<IO>(saved[s]);
  }

  // While one pass is computed, the others' blocks hand on what the next gathers, and its inputs
  // come from memory. False where what it gathers does not come.
  DEVICE_FN bool step(int k, IO (&ahead)[G]) {
    if (!at.begin(k)) return false;
#pragma unroll 1
    for (int pass = 0; pass < passes; ++pass) {
      const bool last = pass + 1 == passes;
      IO x[G];
#pragma unroll
      for (int g = 0; g < G; ++g) x[g] = ahead[g];
      const bool found = at.template gather<kAll / 2>(tile, kStride, k, pass, 0, 1);
      if (__syncthreads_or(!found)) return false;
      if (last) at.end(k);
      load_inputs(last ? k + 1 : k, last ? 0 : pass + 1, ahead);
      multiply_pass(pass);
      __syncthreads();
      update(k, pass, x);
    }
    return true;
  }

  DEVICE_FN void run() {
    IO ahead[G] = {};
    load_inputs(0, 0, ahead);
    for (int k = 0; k < walk.T; ++k) {
      if (!step(k, ahead)) return spoil_forward<cell, IO>(p, walk, at.share(), k);
    }
    for (int pass = 0; pass < passes; ++pass) {
      const GridSpot spot(pass);
      if (!there(spot)) continue;
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      static_cast<IO*>(p.hn)[state] = narrow<IO>(h[spot.index]);
      if (cell == Cell::kLstm) static_cast<IO*>(p.cn)[state] = narrow<IO>(c[spot.index]);
    }
  }
};

template <Cell cell, class IO, int kSteps, int kKept>
__global__ void __launch_bounds__(kGridThreads, 1)
    grid_forward_kernel(const Forward p, const Exchange x) {
  SHARED_MEMORY(shared);
  GridForward<cell, IO, kSteps, kKept> block(p, x, shared);
  block.run();
}

}  // namespace cuda
}  // namespace fused_rnn
