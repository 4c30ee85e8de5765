// SPDX-License-Identifier: MIT
// Tier G, forward, 16-bit formats: all steps in one cooperative launch. A block keeps 16 units'
// rows of W_hh in registers and shared memory; after each step the blocks of a batch group hand h
// around through global memory.
#pragma once

#include "grid.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kSteps, int kKept>
struct GridForward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell), kSummed = summed_gates(cell);
  static constexpr int kAll = kSteps + kKept;  // of a warp
  static constexpr int kStride = grid_stride(kAll), kSums = kTileUnits * kPassRows;

  const Forward& p;
  const GridPlace at;
  const Walk walk;
  const int H, rows, warp, lane;
  const Fragments<G> kept;   // (warps, kKept, G)
  int* const lengths;        // (rows,)
  float *const h, *const c;  // (rows, 16)
  float* const sums;         // (warps, G, 16 units, 16 rows)
  IO* const tile;            // (rows, kStride)
  uint32_t w[G][kSteps][4];
  float bias[G], x_bias;

  DEVICE_FN GridForward(const Forward& p, const Exchange& x, unsigned char* shared)
      : p(p),
        at(p, x),
        walk(p, blockIdx.z),
        H(at.H),
        rows(at.rows),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        kept{reinterpret_cast<Vector*>(shared), kKept},
        lengths(reinterpret_cast<int*>(&kept.at(kGridWarps, 0, 0, 0))),
        h(reinterpret_cast<float*>(lengths + rows)),
        c(h + rows * kTileUnits),
        sums(c + rows * kTileUnits),
        tile(reinterpret_cast<IO*>(sums + kGridWarps * G * kSums)) {
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int pair = at.first_unit + lane / 4 * 2, first = warp * kAll * 16;
    load_rows(w, w_hh, pair, first, H, p.paired, lane);
    kept.fill(warp, lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_rows(one, w_hh, pair, first + (kSteps + s) * 16, H, p.paired, lane);
    });
    load_bias();
    for (int i = threadIdx.x; i < rows * kStride; i += blockDim.x) tile[i] = IO{};
    for (int i = threadIdx.x; i < rows; i += blockDim.x) lengths[i] = walk.length(at.first_row + i);
    __syncthreads();
    for (int pass = 0; pass * kPassRows < rows; ++pass) start(GridSpot(pass));
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
    const int index = spot.row * kTileUnits + spot.unit, b = at.first_row + spot.row;
    const int64_t state = walk.state(b) + unit(spot);
    h[index] = there(spot) && p.h0 ? widen(static_cast<const IO*>(p.h0)[state]) : 0;
    c[index] = there(spot) && p.c0 ? widen(static_cast<const IO*>(p.c0)[state]) : 0;
    hand_on(0, spot);
  }

  // Gives h to the group's k-th step, zeros where that step starts afresh.
  DEVICE_FN void hand_on(int k, const GridSpot& spot) {
    if (k == walk.T) return;
    const int b = at.first_row + spot.row, index = spot.row * kTileUnits + spot.unit;
    const bool cut = b < walk.B && walk.cut(walk.time(k), b, lengths[spot.row]);
    if (cut) h[index] = c[index] = 0;
    at.template give<IO>(k, spot, 1, 0, h[index]);
  }

  // The input parts of a step's passes, asked for before the wait.
  DEVICE_FN void load_inputs(int t, IO (&x)[kMostPasses][G]) const {
#pragma unroll
    for (int pass = 0; pass < kMostPasses; ++pass) {
      const GridSpot spot(pass);
      if (pass * kPassRows >= rows || !there(spot) || t >= lengths[spot.row]) continue;
      const IO* row = static_cast<const IO*>(p.xg) + walk.row(t, at.first_row + spot.row, G);
#pragma unroll
      for (int g = 0; g < G; ++g) x[pass][g] = row[g * H + unit(spot)];
    }
  }

  // This warp's part of the sums of a pass.
  DEVICE_FN void multiply_pass(int pass) const {
    float* to = sums + warp * G * kSums;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = pass * kPassRows + half * kTileRows;
      if (at.first_row + row >= walk.B) continue;
      float acc[G][4] = {};
      const IO* own = tile + row * kStride + warp * kAll * 16 + matrix_place(kStride, lane);
      multiply(acc, w, own);
      multiply(acc, kept, warp, 0, own + kSteps * 16, lane);
#pragma unroll
      for (int g = 0; g < G; ++g) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int u = lane / 4 * 2 + e / 2, r = half * kTileRows + lane % 4 * 2 + e % 2;
          to[g * kSums + r * kTileUnits + u] = acc[g][e];
        }
      }
    }
  }

  DEVICE_FN void update(int k, int pass, const IO (&given)[G]) {
    const GridSpot spot(pass);
    const int t = walk.time(k), index = spot.row * kTileUnits + spot.unit;
    const bool active = there(spot) && t < lengths[spot.row];
    float x[G], total[G], saved[S + 1];
#pragma unroll
    for (int g = 0; g < G; ++g) {
      x[g] = widen(given[g]) + (g < kSummed ? 0 : x_bias);
      total[g] = bias[g];
      for (int from = 0; from < kGridWarps; ++from) {
        total[g] += sums[(from * G + g) * kSums + threadIdx.x];
      }
    }
    if (active) {
      forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x, total, h[index], c[index], saved);
    }
    const float value = h[index];
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

  DEVICE_FN void step(int k) {
    IO x[kMostPasses][G] = {};
    load_inputs(walk.time(k), x);
    at.begin(k);
    at.template gather<kAll>(tile, kStride, k, 1, 0);
    __syncthreads();
    at.end(k, 1);
#pragma unroll
    for (int pass = 0; pass < kMostPasses; ++pass) {
      if (pass * kPassRows >= rows) continue;
      multiply_pass(pass);
      __syncthreads();
      update(k, pass, x[pass]);
      // The next pass writes over the sums.
      if ((pass + 1) * kPassRows < rows) __syncthreads();
    }
  }

  DEVICE_FN void run() {
    for (int k = 0; k < walk.T; ++k) step(k);
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      const GridSpot spot(pass);
      if (!there(spot)) continue;
      const int index = spot.row * kTileUnits + spot.unit;
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      static_cast<IO*>(p.hn)[state] = narrow<IO>(h[index]);
      if (cell == Cell::kLstm) static_cast<IO*>(p.cn)[state] = narrow<IO>(c[index]);
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
