// SPDX-License-Identifier: MIT
// The exact tier, backward: float32 and float64, W_hh in shared memory, sums by ordinary
// multiply-adds.
#pragma once

#include "../device/primitives.cuh"
#include "../device/units.cuh"
#include "../device/walk.cuh"
#include "../problem.h"
#include "../shapes.h"
#include "sums.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class A, int kRows>
struct ExactBackward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell), D = grad_count(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore, kLstm = cell == Cell::kLstm;

  const Backward& p;
  const Walk walk;
  const int H, stride, tile_stride, part, unit, b;
  const bool mine;
  const int length;
  A *const weights, *const tiles;
  A dh = 0, dc = 0;

  DEVICE_FN ExactBackward(const Backward& p, unsigned char* shared)
      : p(p),
        walk(p, blockIdx.y),
        H(p.sizes.H),
        stride(backward_row(H)),
        tile_stride(forward_row(G * H)),
        part(threadIdx.x % kParts),
        unit(threadIdx.x / kParts),
        b(blockIdx.x * kRows + part),
        mine(part < kRows && unit < H && b < walk.B),
        length(part < kRows ? walk.length(b) : 0),
        weights(reinterpret_cast<A*>(shared)),
        tiles(weights + G * H * stride) {
    const A* w = static_cast<const A*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    for (int i = threadIdx.x; i < G * H * H; i += blockDim.x)
      weights[i / H * stride + i % H] = w[i];
    for (int i = threadIdx.x; i < 2 * kRows * tile_stride; i += blockDim.x) tiles[i] = 0;
    if (mine && p.dhn) dh = static_cast<const A*>(p.dhn)[walk.state(b) + unit];
    if (mine && p.dcn) dc = static_cast<const A*>(p.dcn)[walk.state(b) + unit];
    __syncthreads();
  }

  // What a step reads: the tape's slots (a plain network's y), the state before, dy.
  struct Saved {
    A slots[S + 1] = {}, before = 0, dy = 0;
  };

  DEVICE_FN Saved load(int t) const {
    Saved in;
    const A* y = static_cast<const A*>(p.y);
    const A* tape = static_cast<const A*>(p.tape);
    const int64_t row = walk.row(t, b, 1) + unit;
#pragma unroll
    for (int s = 0; s < S; ++s) in.slots[s] = tape[walk.row(t, b, S) + s * H + unit];
    if (S == 0) in.slots[0] = y[row];
    const A* before = kLstm ? walk.before(t, b, length, tape, S, 4, static_cast<const A*>(p.c0))
                            : walk.before(t, b, length, y, 1, 0, static_cast<const A*>(p.h0));
    if (before) in.before = before[unit];
    if (p.dy) in.dy = static_cast<const A*>(p.dy)[row];
    return in;
  }

  // This thread's sum over rows first.. of W_hh: column `unit`, row `part` of the tile.
  DEVICE_FN A product(const A* from, int first, int count) const {
    const A* w = weights + (unit < H ? unit : 0);
    A sums[kRows] = {};
    for (int k = first * H + part; k < (first + count) * H; k += kParts) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] += w[k * stride] * from[r * tile_stride + k];
    }
    sum_parts(sums);
    return pick(sums, part);
  }

  DEVICE_FN void step(int k) {
    const int t = walk.time(k);
    const bool active = mine && t < length;
    A* tile = tiles + k % 2 * kRows * tile_stride;
    A dg[D] = {}, direct = dh, new_dc = dc;
    const Saved in = active ? load(t) : Saved{};
    if (active) {
      direct += in.dy;
      if constexpr (kBefore) {
        backward_output(in.slots, in.before, direct, dg);
      } else {
        backward_unit<cell, A>(p.sizes.cell == Cell::kRnnRelu, in.slots, in.before, direct, new_dc,
                               dg);
      }
    }
    if constexpr (kBefore) {
      if (mine) tile[part * tile_stride + 2 * H + unit] = dg[2];
      __syncthreads();
      const A d_reset_h = product(tile, 2, 1);
      if (active) backward_gates(in.slots, in.before, d_reset_h, direct, dg);
    }
    if (mine) store(t, tile, dg);
    __syncthreads();
    const A sum = product(tile, 0, kBefore ? 2 : G);
    if (!active) return;
    const bool cut = walk.cut(t, b, length);
    dh = cut ? 0 : direct + sum;
    dc = cut ? 0 : new_dc;
  }

  DEVICE_FN void store(int t, A* tile, const A (&dg)[D]) const {
    A* columns = static_cast<A*>(p.dg) + walk.row(t, b, D) + unit;
#pragma unroll
    for (int d = 0; d < D; ++d) columns[d * H] = dg[d];
#pragma unroll
    for (int g = 0; g < (kBefore ? 2 : G); ++g) {
      tile[part * tile_stride + g * H + unit] = dg[recurrent_column(cell, g)];
    }
  }

  DEVICE_FN void run() {
    for (int k = walk.T - 1; k >= 0; --k) step(k);
    if (mine && p.dh0) static_cast<A*>(p.dh0)[walk.state(b) + unit] = dh;
    if (mine && p.dc0) static_cast<A*>(p.dc0)[walk.state(b) + unit] = dc;
  }
};

template <Cell cell, class A, int kRows>
__global__ void __launch_bounds__(exact_units(cell, sizeof(A)) * kParts, 1)
    exact_backward_kernel(const Backward p) {
  SHARED_MEMORY(shared);
  ExactBackward<cell, A, kRows> block(p, shared);
  block.run();
}

}  // namespace cuda
}  // namespace fused_rnn
