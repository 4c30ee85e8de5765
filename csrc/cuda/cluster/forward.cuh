// SPDX-License-Identifier: MIT
// The cluster tier, forward, 16-bit formats: all steps in one launch of clusters. A block computes
// the gates of its own units and pushes h into the shared memory of all, its own too, which wait
// for nothing else; the textbook GRU pushes twice a step, r * h and h.
#pragma once

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

template <Cell cell, class IO, int kSteps>
struct ClusterForward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell), kSummed = summed_gates(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  static constexpr int kHalves = kBefore ? 2 : 1;

  const Forward& p;
  const ClusterPlace at;
  const Walk walk;
  const int H, steps, stride;
  const Fragments<G> fragments;  // (warps, steps - kSteps, G)
  IO* const tiles;               // (2, rows, stride)
  float* const sums;             // (1 or 2 passes, 4 parts, G, groups, kSumWords)
  float *const h, *const c;      // (rows, units); of the textbook GRU, c is z between its halves
  int* const lengths;            // (rows,)
  const Pushes pushes;
  uint32_t w[G][kSteps][4];
  float bias[G], x_bias;

  DEVICE_FN ClusterForward(const Forward& p, int rows, unsigned char* shared)
      : p(p),
        at(p.sizes.H, rows),
        walk(p, blockIdx.z),
        H(p.sizes.H),
        steps(forward_steps(at.groups, at.blocks)),
        stride(cluster_columns(at.groups, at.blocks) + kPad),
        fragments{reinterpret_cast<Vector*>(shared), steps > kSteps ? steps - kSteps : 0},
        tiles(reinterpret_cast<IO*>(&fragments.at(blockDim.x / 32, 0, 0, 0))),
        sums(reinterpret_cast<float*>(tiles + 2 * rows * stride)),
        h(sums + sum_buffers(rows) * kGroupWarps * G * at.groups * kSumWords),
        c(h + rows * at.units),
        lengths(reinterpret_cast<int*>(c + rows * at.units)),
        pushes{reinterpret_cast<uint64_t*>(lengths + rows), p.stuck} {
    load_weights();
    load_bias();
    for (int i = threadIdx.x; i < rows; i += blockDim.x) lengths[i] = walk.length(at.first_row + i);
    __syncthreads();
    load_states();
    pushes.start();
  }

  DEVICE_FN IO* tile(int exchange) const { return tiles + exchange % 2 * at.rows * stride; }
  DEVICE_FN bool there(const ClusterSpot& spot) const {
    return at.first_row + spot.row < walk.B && at.first_unit + spot.unit < H;
  }

  DEVICE_FN void load_weights() {
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int unit = at.first_unit + at.group * kTileUnits + at.lane / 4 * 2;
    const int first = at.part * steps * 16;
    load_rows(w, w_hh, unit, first, H, p.paired, at.lane);
    fragments.fill(at.warp, at.lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_rows(one, w_hh, unit, first + (kSteps + s) * 16, H, p.paired, at.lane);
    });
  }

  DEVICE_FN void load_bias() {
    const int unit = at.first_unit + ClusterSpot(at, 0).unit;
    const auto* b_ih = static_cast<const IO*>(p.b_ih);
    const auto* b_hh = static_cast<const IO*>(p.b_hh);
    x_bias = 0;
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const int64_t index = (int64_t(walk.n) * G + g) * H + unit;
      const float from_x = b_ih && unit < H ? widen(b_ih[index]) : 0;
      bias[g] = b_hh && unit < H ? widen(b_hh[index]) : 0;
      if (g < kSummed) {
        bias[g] += from_x;
      } else {
        x_bias = from_x;
      }
    }
  }

  // Every block takes the whole h before the first step from where it is given.
  DEVICE_FN void load_states() {
    const auto* h0 = static_cast<const IO*>(p.h0);
    const auto* c0 = static_cast<const IO*>(p.c0);
    const int t = walk.time(0), columns = stride - kPad;
    for (int i = threadIdx.x; i < at.rows * columns; i += blockDim.x) {
      const int row = i / columns, u = i % columns, b = at.first_row + row;
      const bool given = h0 && b < walk.B && u < H && !walk.cut(t, b, lengths[row]);
      tile(0)[row * stride + u] = given ? h0[walk.state(b) + u] : IO{};
      tile(1)[row * stride + u] = IO{};
    }
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const ClusterSpot spot(at, pass);
      const int b = at.first_row + spot.row;
      const int64_t state = walk.state(b) + at.first_unit + spot.unit;
      const bool kept = there(spot) && !walk.cut(t, b, lengths[spot.row]);
      h[spot.index] = kept && h0 ? widen(h0[state]) : 0;
      c[spot.index] = kept && c0 ? widen(c0[state]) : 0;
    }
  }

  template <int first, int count>
  DEVICE_FN void load_inputs(int t, int pass, IO (&x)[count]) const {
    const ClusterSpot spot(at, pass);
    if (!there(spot) || t >= lengths[spot.row]) return;
    const IO* row = static_cast<const IO*>(p.xg) + walk.row(t, at.first_row + spot.row, G);
#pragma unroll
    for (int g = 0; g < count; ++g) x[g] = row[(first + g) * H + at.first_unit + spot.unit];
  }

  // Asks for what a later step reads.
  template <int first, int count>
  DEVICE_FN void prefetch_inputs(int k, int pass) const {
    const ClusterSpot spot(at, pass);
    if (k >= walk.T || !there(spot) || walk.time(k) >= lengths[spot.row]) return;
    const IO* row =
        static_cast<const IO*>(p.xg) + walk.row(walk.time(k), at.first_row + spot.row, G);
#pragma unroll
    for (int g = 0; g < count; ++g) prefetch(row + (first + g) * H + at.first_unit + spot.unit);
  }

  // Where a part of the sums of gate g stands; two passes in turns, as warps part after the first.
  DEVICE_FN float* sums_of(int pass, int part, int g) const {
    return sums + (((pass % 2 * kGroupWarps + part) * G + g) * at.groups + at.group) * kSumWords;
  }

  // This warp's part of the sums of `count` gates of a pass.
  template <int first, int count>
  DEVICE_FN void multiply_pass(int pass, const IO* from) const {
    float acc[1][count][4] = {};
    const IO* own = from + at.part * steps * 16 + matrix_place(stride, at.lane);
#pragma unroll
    for (int s = 0; s < kSteps; s += 2) {
      if (s >= steps) continue;
      uint32_t b[4];
      ldmatrix_x4(b, own + s * 16);
#pragma unroll
      for (int g = 0; g < count; ++g) mma<IO>(acc[0][g], w[first + g][s], b[0], b[1]);
#pragma unroll
      for (int g = 0; g < count; ++g) mma<IO>(acc[0][g], w[first + g][s + 1], b[2], b[3]);
    }
    multiply(acc, fragments, at.warp, first, own + kSteps * 16, 0, 1, at.lane);
#pragma unroll
    for (int g = 0; g < count; ++g) {
      put_sums(sums_of(pass, at.part, first + g), acc[0][g], at.lane);
    }
  }

  // The states behind the k-th step, or r * h within it; returns what the next product reads.
  template <int first, int count>
  DEVICE_FN float update(int k, int pass, const ClusterSpot& spot, const IO (&given)[count],
                         float (&saved)[S + 1]) {
    const int t = walk.time(k), b = at.first_row + spot.row, length = lengths[spot.row];
    const bool active = there(spot) && t < length;
    float x[count], total[count];
#pragma unroll
    for (int g = 0; g < count; ++g) {
      x[g] = widen(given[g]) + (first + g < kSummed ? 0 : x_bias);
      total[g] = bias[first + g];
#pragma unroll
      for (int part = 0; part < kGroupWarps; ++part) {
        total[g] += sums_of(pass, part, first + g)[spot.word];
      }
    }
    float &own_h = h[spot.index], &own_c = c[spot.index];
    if constexpr (kBefore && first == 0) {
      if (!active) return 0;
      const float reset_h = forward_gates<IO>(x, total, own_h, saved);
      own_c = saved[1];
      return reset_h;
    } else {
      if constexpr (kBefore) {
        saved[1] = own_c;
        if (active) forward_output<IO>(x[0], total[0], own_h, saved);
      } else if (active) {
        forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x, total, own_h, own_c, saved);
      }
      // The output, whatever the next step makes of the state.
      saved[S] = own_h;
      if (k + 1 < walk.T && walk.cut(walk.time(k + 1), b, length)) own_h = own_c = 0;
      return own_h;
    }
  }

  // To every block, this one too: eight neighbouring lanes gather the 16 bytes of their units and
  // share the ranks.
  DEVICE_FN void hand_on(int exchange, const ClusterSpot& spot, float mine) const {
    const uint32_t own = narrow<IO>(mine).bits, next = exchanged(own, 1);
    const uint32_t pair = at.lane & 1 ? next | own << 16 : own | next << 16;
    const uint32_t other = exchanged(pair, 2);
    const bool second = at.lane & 2, upper = at.lane & 4;
    const uint32_t low = second ? other : pair, high = second ? pair : other;
    const uint32_t far_low = exchanged(low, 4), far_high = exchanged(high, 4);
    const Vector value =
        upper ? Vector{far_low, far_high, low, high} : Vector{low, high, far_low, far_high};
    // A push stands for all lanes that it has numbers of: what they read may be written over.
    __syncwarp();
    IO* to = tile(exchange + 1) + spot.row * stride + at.first_unit + spot.unit / 8 * 8;
    for (int i = at.lane % 8; i < at.blocks; i += 8) {
      pushes.send(exchange, (at.rank + i) % at.blocks, to, value);
    }
  }
  DEVICE_FN static uint32_t exchanged(uint32_t word, int lanes) {
    return __shfl_xor_sync(0xFFFFFFFF, word, lanes);
  }

  template <int first, int count>
  DEVICE_FN void store(int t, const ClusterSpot& spot, const float (&saved)[S + 1]) const {
    if (!there(spot)) return;
    const int b = at.first_row + spot.row, u = at.first_unit + spot.unit;
    const bool active = t < lengths[spot.row];
    if (first + count == G) {
      static_cast<IO*>(p.y)[walk.row(t, b, 1) + u] = active ? narrow<IO>(saved[S]) : IO{};
    }
    if (!active || !p.tape) return;
    IO* slots = static_cast<IO*>(p.tape) + walk.row(t, b, S) + u;
#pragma unroll
    for (int s = kBefore ? first : 0; s < (kBefore ? first + count : S); ++s) {
      slots[s * H] = narrow<IO>(saved[s]);
    }
  }

  // Exchange e is what the e-th product reads: in shared memory already, or push e - 1, behind
  // which every warp of this block has read its sums. False where the push does not come.
  template <int first, int count>
  DEVICE_FN bool half(int k, int exchange) {
    const bool last = exchange + 1 == walk.T * kHalves;
    IO x[count] = {};
    load_inputs<first, count>(walk.time(k), 0, x);
    if (!last) pushes.expect(exchange, at.rows * at.units * 2 * at.blocks);
    const bool lost = exchange > 0 && !pushes.wait(exchange - 1);
    // A warp multiplies as a whole, and not what may still be landing.
    const bool reads = !__any_sync(0xFFFFFFFF, lost);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const ClusterSpot spot(at, pass);
      if (pass) load_inputs<first, count>(walk.time(k), pass, x);
      if (reads) multiply_pass<first, count>(pass, tile(exchange) + pass * kTileRows * stride);
      if (__syncthreads_or(lost)) return false;
      float saved[S + 1];
      const float next = update<first, count>(k, pass, spot, x, saved);
      if (!last) hand_on(exchange, spot, next);
      store<first, count>(walk.time(k), spot, saved);
      prefetch_inputs<first, count>(k + 2, pass);
    }
    return true;
  }

  DEVICE_FN void give_up(int k, int exchange) const {
    pushes.drain(exchange);
    spoil_forward<cell, IO>(p, walk, at.share(), k);
  }

  DEVICE_FN void run() {
#pragma unroll 1
    for (int k = 0; k < walk.T; ++k) {
      if constexpr (kBefore) {
        if (!half<0, 2>(k, 2 * k)) return give_up(k, 2 * k);
        if (!half<2, 1>(k, 2 * k + 1)) return give_up(k, 2 * k + 1);
      } else {
        if (!half<0, G>(k, k)) return give_up(k, k);
      }
    }
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const ClusterSpot spot(at, pass);
      if (!there(spot)) continue;
      const int64_t state = walk.state(at.first_row + spot.row) + at.first_unit + spot.unit;
      static_cast<IO*>(p.hn)[state] = narrow<IO>(h[spot.index]);
      if (cell == Cell::kLstm) static_cast<IO*>(p.cn)[state] = narrow<IO>(c[spot.index]);
    }
  }
};

template <Cell cell, class IO, int kSteps, int kGroups>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    cluster_forward_kernel(const Forward p, int rows) {
  if constexpr (kHasClusters) {
    SHARED_MEMORY(shared);
    ClusterForward<cell, IO, kSteps> block(p, rows, shared);
    block.run();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
