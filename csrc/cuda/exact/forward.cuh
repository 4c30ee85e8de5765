// SPDX-License-Identifier: MIT
// The exact tier, forward: float32 and float64, W_hh in shared memory, sums by ordinary
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
struct ExactForward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell), kSummed = summed_gates(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;

  const Forward& p;
  const Walk walk;
  const int H, stride, part, unit, b;
  const bool mine;  // a row of this batch and a unit of this layer
  const int length;
  A *const weights, *const tiles;
  A h = 0, c = 0, bias[G], x_bias = 0, x[G] = {};

  DEVICE_FN ExactForward(const Forward& p, unsigned char* shared)
      : p(p),
        walk(p, blockIdx.y),
        H(p.sizes.H),
        stride(forward_row(H)),
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
    for (int i = threadIdx.x; i < (2 + kBefore) * kRows * stride; i += blockDim.x) tiles[i] = 0;
    load_bias();
    __syncthreads();
    if (mine && p.h0) h = static_cast<const A*>(p.h0)[walk.state(b) + unit];
    if (mine && p.c0) c = static_cast<const A*>(p.c0)[walk.state(b) + unit];
    hand_on(0);
    __syncthreads();
  }

  DEVICE_FN void load_bias() {
    const auto* b_ih = static_cast<const A*>(p.b_ih);
    const auto* b_hh = static_cast<const A*>(p.b_hh);
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const int64_t at = (int64_t(walk.n) * G + g) * H + unit;
      const A from_x = mine && b_ih ? b_ih[at] : 0;
      bias[g] = mine && b_hh ? b_hh[at] : 0;
      if (g < kSummed) {
        bias[g] += from_x;
      } else {
        x_bias = from_x;
      }
    }
  }

  DEVICE_FN A* tile(int which) const { return tiles + which * kRows * stride; }

  // Puts h where the k-th step reads it, nothing where that step starts afresh.
  DEVICE_FN void hand_on(int k) {
    if (!mine) return;
    if (k < walk.T && walk.cut(walk.time(k), b, length)) h = c = 0;
    tile(k % 2)[part * stride + unit] = h;
  }

  DEVICE_FN void fetch(int k) {
    if (k >= walk.T || !mine || walk.time(k) >= length) return;
    const A* row = static_cast<const A*>(p.xg) + walk.row(walk.time(k), b, G) + unit;
#pragma unroll
    for (int g = 0; g < G; ++g) x[g] = row[g * H];
  }

  // This thread's sum of gate g: row `part` of tile W_g^T.
  DEVICE_FN A product(const A* from, int g) const {
    const A* w = weights + (g * H + (unit < H ? unit : 0)) * stride;
    A sums[kRows] = {};
// Unrolled further, the textbook GRU spills for compute capability 10.0.
#pragma unroll 2
    for (int k = part; k < H; k += kParts) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] += w[k] * from[r * stride + k];
    }
    sum_parts(sums);
    return pick(sums, part);
  }

  DEVICE_FN void step(int k) {
    const int t = walk.time(k);
    A now[G], sums[G], saved[S + 1], new_h = h, new_c = c;
#pragma unroll
    for (int g = 0; g < G; ++g) now[g] = x[g] + (g < kSummed ? 0 : x_bias);
    fetch(k + 1);
#pragma unroll
    for (int g = 0; g < (kBefore ? 2 : G); ++g) sums[g] = bias[g] + product(tile(k % 2), g);
    if constexpr (kBefore) {
      const A reset_h = forward_gates<A>(now, sums, h, saved);
      if (mine) tile(2)[part * stride + unit] = reset_h;
      __syncthreads();
      forward_output<A>(now[2], bias[2] + product(tile(2), 2), new_h, saved);
    } else {
      forward_unit<cell, A>(p.sizes.cell == Cell::kRnnRelu, now, sums, new_h, new_c, saved);
    }
    if (t < length) h = new_h, c = new_c;
    if (mine) store(t, saved);
    hand_on(k + 1);
    __syncthreads();
  }

  DEVICE_FN void store(int t, const A (&saved)[S + 1]) const {
    static_cast<A*>(p.y)[walk.row(t, b, 1) + unit] = t < length ? h : 0;
    if (t >= length || !p.tape) return;
    A* slots = static_cast<A*>(p.tape) + walk.row(t, b, S) + unit;
#pragma unroll
    for (int s = 0; s < S; ++s) slots[s * H] = saved[s];
  }

  DEVICE_FN void run() {
    fetch(0);
    for (int k = 0; k < walk.T; ++k) step(k);
    if (!mine) return;
    static_cast<A*>(p.hn)[walk.state(b) + unit] = h;
    if (cell == Cell::kLstm) static_cast<A*>(p.cn)[walk.state(b) + unit] = c;
  }
};

template <Cell cell, class A, int kRows>
__global__ void __launch_bounds__(exact_units(cell, sizeof(A)) * kParts, 1)
    exact_forward_kernel(const Forward p) {
  SHARED_MEMORY(shared);
  ExactForward<cell, A, kRows> block(p, shared);
  block.run();
}

}  // namespace cuda
}  // namespace fused_rnn
