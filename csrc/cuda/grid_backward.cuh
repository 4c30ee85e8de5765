// SPDX-License-Identifier: MIT
// Tier G, backward, 16-bit formats: all steps in one cooperative launch, in reverse. A block keeps
// the columns of W_hh of 16 units in registers and shared memory and computes their dh; the blocks
// of a batch group hand dG around, all gates of all units, through global memory.
#pragma once

#include "grid.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kSteps, int kKept>
struct GridBackward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell), D = grad_count(cell);
  static constexpr int kAll = kSteps + kKept;  // of a warp
  static constexpr int kStride = grid_stride(kAll), kMostParts = 2 * most_passes(kKept);
  static constexpr bool kLstm = cell == Cell::kLstm;

  const Backward& p;
  const GridPlace at;
  const Walk walk;
  const int H, rows, slots, warp, lane;
  const Fragments<G> kept;     // (warps, kKept, G)
  int* const lengths;          // (rows,)
  float *const dh, *const dc;  // (rows, 16)
  float* const sums;           // (warps, rows, 16)
  IO* const tiles;             // (slots, rows, kStride)
  uint32_t w[G][kSteps][4];

  DEVICE_FN GridBackward(const Backward& p, const Exchange& x, unsigned char* shared)
      : p(p),
        at(p, x),
        walk(p, blockIdx.z),
        H(at.H),
        rows(at.rows),
        slots(x.slots),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        kept{reinterpret_cast<Vector*>(shared), kKept},
        lengths(reinterpret_cast<int*>(&kept.at(kGridWarps, 0, 0, 0))),
        dh(reinterpret_cast<float*>(lengths + rows)),
        dc(dh + rows * kTileUnits),
        sums(dc + rows * kTileUnits),
        tiles(reinterpret_cast<IO*>(sums + kGridWarps * rows * kTileUnits)) {
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int pair = at.first_unit + lane / 4 * 2, first = warp * kAll * 16;
    load_columns(w, w_hh, pair, first, H, p.paired, lane);
    kept.fill(warp, lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_columns(one, w_hh, pair, first + (kSteps + s) * 16, H, p.paired, lane);
    });
    for (int i = threadIdx.x; i < slots * rows * kStride; i += blockDim.x) tiles[i] = IO{};
    for (int i = threadIdx.x; i < rows; i += blockDim.x) lengths[i] = walk.length(at.first_row + i);
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      const GridSpot spot(pass);
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      dh[index(spot)] = there(spot) && p.dhn ? widen(static_cast<const IO*>(p.dhn)[state]) : 0;
      dc[index(spot)] = there(spot) && p.dcn ? widen(static_cast<const IO*>(p.dcn)[state]) : 0;
    }
    __syncthreads();
  }

  DEVICE_FN int unit(const GridSpot& spot) const { return at.first_unit + spot.unit; }
  DEVICE_FN int index(const GridSpot& spot) const { return spot.row * kTileUnits + spot.unit; }
  DEVICE_FN bool there(const GridSpot& spot) const {
    return at.first_row + spot.row < walk.B && unit(spot) < H;
  }

  // Asks for what a later stage reads: its tape comes from far away, and nothing else waits.
  DEVICE_FN void prefetch_stage(int stage, const GridSpot& spot) const {
    const int k = walk.T - 1 - stage;
    if (k < 0 || !there(spot)) return;
    const int t = walk.time(k), b = at.first_row + spot.row;
    const int64_t row = walk.row(t, b, 1) + unit(spot);
#pragma unroll
    for (int s = 0; s < S; ++s) {
      prefetch(static_cast<const IO*>(p.tape) + walk.row(t, b, S) + s * H + unit(spot));
    }
    if (!kLstm) prefetch(static_cast<const IO*>(p.y) + row);
    if (p.dy) prefetch(static_cast<const IO*>(p.dy) + row);
  }

  // The gates' gradients of one unit and row at step t; dh keeps the path past the products.
  DEVICE_FN void differentiate(int stage, int t, const GridSpot& spot) {
    const int b = at.first_row + spot.row, u = unit(spot), length = lengths[spot.row];
    const bool active = there(spot) && t < length;
    float dg[D] = {};
    if (active) {
      const auto* y = static_cast<const IO*>(p.y);
      const auto* tape = static_cast<const IO*>(p.tape);
      const int64_t row = walk.row(t, b, 1) + u;
      float saved[S + 1];
#pragma unroll
      for (int s = 0; s < S; ++s) saved[s] = widen(tape[walk.row(t, b, S) + s * H + u]);
      if (S == 0) saved[0] = widen(y[row]);
      const IO* before = kLstm ? walk.before(t, b, length, tape, S, 4, static_cast<const IO*>(p.c0))
                               : walk.before(t, b, length, y, 1, 0, static_cast<const IO*>(p.h0));
      if (p.dy) dh[index(spot)] += widen(static_cast<const IO*>(p.dy)[row]);
      backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, saved, before ? widen(before[u]) : 0,
                              dh[index(spot)], dc[index(spot)], dg);
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      at.template give<IO>(stage, spot, G, g, dg[recurrent_column(cell, g)]);
    }
    if (!there(spot)) return;
    IO* columns = static_cast<IO*>(p.dg) + walk.row(t, b, D) + u;
#pragma unroll
    for (int d = 0; d < D; ++d) columns[d * H] = narrow<IO>(dg[d]);
  }

  DEVICE_FN bool has_rows(int part) const {
    return part * kTileRows < rows && at.first_row + part * kTileRows < walk.B;
  }

  // This warp's part of dG W_hh for gates first.., of which the tiles hold one each.
  DEVICE_FN void multiply_gates(int first, float (&acc)[kMostParts][4]) const {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      if (g < first || g >= first + slots) continue;
      const IO* tile = tiles + (g - first) * rows * kStride + warp * kAll * 16;
      const auto& own = reinterpret_cast<const uint32_t (&)[1][kSteps][4]>(w[g]);
#pragma unroll
      for (int part = 0; part < kMostParts; ++part) {
        if (!has_rows(part)) continue;
        auto& sum = reinterpret_cast<float (&)[1][4]>(acc[part]);
        const IO* from = tile + part * kTileRows * kStride + matrix_place(kStride, lane);
        multiply(sum, own, from);
        multiply(sum, kept, warp, g, from + kSteps * 16, lane);
      }
    }
  }

  DEVICE_FN void put_sums(const float (&acc)[kMostParts][4]) const {
#pragma unroll
    for (int part = 0; part < kMostParts; ++part) {
      if (!has_rows(part)) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int u = lane / 4 * 2 + e / 2, r = part * kTileRows + lane % 4 * 2 + e % 2;
        sums[(warp * rows + r) * kTileUnits + u] = acc[part][e];
      }
    }
  }

  // dh of the step before, where the rows are not cut off from it.
  DEVICE_FN void collect(int t, const GridSpot& spot) {
    const int length = lengths[spot.row];
    if (!there(spot) || t >= length) return;
    float total = dh[index(spot)];
    for (int from = 0; from < kGridWarps; ++from) {
      total += sums[(from * rows + spot.row) * kTileUnits + spot.unit];
    }
    const bool cut = walk.cut(t, at.first_row + spot.row, length);
    dh[index(spot)] = cut ? 0 : total;
    if (cut) dc[index(spot)] = 0;
  }

  DEVICE_FN void step(int stage) {
    const int t = walk.time(walk.T - 1 - stage);
    for (int pass = 0; pass * kPassRows < rows; ++pass) differentiate(stage, t, GridSpot(pass));
    for (int pass = 0; pass * kPassRows < rows; ++pass) prefetch_stage(stage + 2, GridSpot(pass));
    at.begin(stage);
    float acc[kMostParts][4] = {};
    for (int first = 0; first < G; first += slots) {
      for (int g = first; g < G && g < first + slots; ++g) {
        at.template gather<kAll>(tiles + (g - first) * rows * kStride, kStride, stage, G, g);
      }
      __syncthreads();
      multiply_gates(first, acc);
      // The next gates come over these tiles.
      if (first + slots < G) __syncthreads();
    }
    at.end(stage, G);
    put_sums(acc);
    __syncthreads();
    for (int pass = 0; pass * kPassRows < rows; ++pass) collect(t, GridSpot(pass));
  }

  DEVICE_FN void run() {
    for (int stage = 0; stage < walk.T; ++stage) step(stage);
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      const GridSpot spot(pass);
      if (!there(spot)) continue;
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      if (p.dh0) static_cast<IO*>(p.dh0)[state] = narrow<IO>(dh[index(spot)]);
      if (p.dc0) static_cast<IO*>(p.dc0)[state] = narrow<IO>(dc[index(spot)]);
    }
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
