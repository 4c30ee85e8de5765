// SPDX-License-Identifier: MIT
// The block tier, forward, 16-bit formats: one block per eight batch rows and recurrence walks all
// steps. W_hh stays in registers; h goes round in shared memory, where all warps read it.
#pragma once

#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/tile.cuh"
#include "../device/units.cuh"
#include "../device/walk.cuh"
#include "../problem.h"
#include "../shapes.h"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kSteps, bool kPaired>
struct BlockForward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell);
  static constexpr int kSummed = summed_gates(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  static constexpr int kStride = tile_stride(kSteps), kTile = kTileRows * kStride;
  static constexpr int kTiles = forward_tiles(cell);
  using Inputs = Ring<forward_words(cell)>;

  const Forward& p;
  const Walk walk;
  const Place at;
  const int H, left, b;  // left: units from the thread's first on
  const Rows<const IO> xg;
  const Rows<IO> y, tape;
  IO* const tiles;
  const Inputs inputs;
  uint32_t w[G][kSteps][4];
  // What the sums begin with; x_bias is that of the GRU's n, whose recurrent part is scaled apart.
  float bias[G][4], x_bias[2];
  // By unit and row.
  float h[2][2], c[2][2];
  int length[2];

  DEVICE_FN BlockForward(const Forward& p, unsigned char* shared)
      : p(p),
        walk(p, blockIdx.y),
        at(threadIdx.x / 32 * kTileUnits),
        H(p.sizes.H),
        left(H - at.unit),
        b(blockIdx.x * kTileRows + at.row),
        xg(walk, static_cast<const IO*>(p.xg), G, at.unit),
        y(walk, static_cast<IO*>(p.y), 1, at.unit),
        tape(walk, static_cast<IO*>(p.tape), S, at.unit),
        tiles(reinterpret_cast<IO*>(shared)),
        inputs(shared + kTiles * kTile * sizeof(IO)) {
    load_rows(w, static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H, at.unit, 0, H,
              kPaired, at.lane);
    load_bias();
    load_states();
  }

  // Units past the last keep zeros: what infinite states make of their sums would meet all others.
  DEVICE_FN bool there(int j) const { return kPaired ? left > 0 : left > j; }
  DEVICE_FN bool in_batch(int i) const { return b + i < walk.B; }

  DEVICE_FN float bias_of(const void* biases, int g, int u) const {
    if (!biases || u >= H) return 0;
    return widen(static_cast<const IO*>(biases)[(int64_t(walk.n) * G + g) * H + u]);
  }

  DEVICE_FN void load_bias() {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int u = at.unit + j;
#pragma unroll
      for (int g = 0; g < G; ++g) {
        float both = bias_of(p.b_hh, g, u);
        if (g < kSummed) both += bias_of(p.b_ih, g, u);
        bias[g][2 * j] = bias[g][2 * j + 1] = both;
      }
      x_bias[j] = kSummed < G ? bias_of(p.b_ih, G - 1, u) : 0;
    }
  }

  DEVICE_FN void load_states() {
    inputs.clear();
    for (int i = threadIdx.x; i < kTiles * kTile; i += blockDim.x) tiles[i] = IO{};
    load_own<IO>(h, p.h0, walk, b, at.unit, H, kPaired);
    load_own<IO>(c, p.c0, walk, b, at.unit, H, kPaired);
#pragma unroll
    for (int i = 0; i < 2; ++i) length[i] = walk.length(b + i);
    __syncthreads();
    hand_on(0);
    __syncthreads();
  }

  // Puts h where the k-th step reads it, nothing where that step starts afresh.
  DEVICE_FN void hand_on(int k) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (k < walk.T && walk.cut(walk.time(k), b + i, length[i])) {
#pragma unroll
        for (int j = 0; j < 2; ++j) h[j][i] = c[j][i] = 0;
      }
      put(tiles + k % 2 * kTile, i, to_pair<IO>(h[0][i], h[1][i]));
    }
  }

  DEVICE_FN void put(IO* tile, int i, uint32_t pair) const {
    *reinterpret_cast<uint32_t*>(tile + (at.row + i) * kStride + at.unit) = pair;
  }

  DEVICE_FN void fetch(int k) {
    if (k < walk.T) {
      const int t = walk.time(k);
      uint32_t* to = inputs.stage(k);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (t >= length[i]) continue;
        const IO* row = xg[walk.number(t, b + i)];
#pragma unroll
        for (int g = 0; g < G; ++g) fetch_pair<kPaired>(to + i * G + g, row + g * H, left);
      }
    }
    cp_async_commit();
  }

  DEVICE_FN void store(int t, int i, const float (&saved)[2][S + 1]) const {
    if (!in_batch(i)) return;
    const uint32_t number = walk.number(t, b + i);
    const bool active = t < length[i];
    store_pair(y[number], left, kPaired, active ? to_pair<IO>(h[0][i], h[1][i]) : 0);
    if (!active || !p.tape) return;
    IO* slots = tape[number];
#pragma unroll
    for (int s = 0; s < S; ++s) {
      store_pair(slots + s * H, left, kPaired, to_pair<IO>(saved[0][s], saved[1][s]));
    }
  }

  DEVICE_FN void step(int k) {
    const int t = walk.time(k);
    fetch(k + Inputs::kStages - 1);
    float acc[G][4];
#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[g][e] = bias[g][e];
    }
    const IO* own = tiles + k % 2 * kTile + matrix_place(kStride, at.lane);
    if constexpr (kBefore) {
      auto& gates = reinterpret_cast<float (&)[2][4]>(acc);
      multiply(gates, reinterpret_cast<const uint32_t (&)[2][kSteps][4]>(w), own);
    } else {
      multiply(acc, w, own);
    }
    cp_async_wait<Inputs::kStages - 1>();
    // By row and unit, as the tape is stored.
    float x[2][2][G], saved[2][2][S + 1];
    const uint32_t* words = inputs.stage(k);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int g = 0; g < G; ++g) {
        float pair[2];
        from_pair<IO>(words[i * G + g], pair);
#pragma unroll
        for (int j = 0; j < 2; ++j) x[i][j][g] = g < kSummed ? pair[j] : pair[j] + x_bias[j];
      }
    }
    if constexpr (kBefore) reset_gate(x, acc, saved);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float sums[G], new_h = h[j][i], new_c = c[j][i];
#pragma unroll
        for (int g = 0; g < G; ++g) sums[g] = acc[g][2 * j + i];
        if constexpr (kBefore) {
          forward_output<IO>(x[i][j][2], sums[2], new_h, saved[i][j]);
        } else {
          forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x[i][j], sums, new_h, new_c,
                                 saved[i][j]);
        }
        if (t < length[i] && there(j)) h[j][i] = new_h, c[j][i] = new_c;
      }
      store(t, i, saved[i]);
    }
    hand_on(k + 1);
    __syncthreads();
  }

  // The textbook GRU's first half, and the product (r * h) W_hn.
  DEVICE_FN void reset_gate(const float (&x)[2][2][G], float (&acc)[G][4],
                            float (&saved)[2][2][S + 1]) {
    IO* tile = tiles + 2 * kTile;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float reset_h[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float sums[2] = {acc[0][2 * j + i], acc[1][2 * j + i]};
        const float own = forward_gates<IO>(x[i][j], sums, h[j][i], saved[i][j]);
        reset_h[j] = there(j) ? own : 0;
      }
      put(tile, i, to_pair<IO>(reset_h[0], reset_h[1]));
    }
    __syncthreads();
    auto& n = reinterpret_cast<float (&)[1][4]>(acc[G - 1]);
    multiply(n, reinterpret_cast<const uint32_t (&)[1][kSteps][4]>(w[G - 1]),
             tile + matrix_place(kStride, at.lane));
  }

  DEVICE_FN void run() {
#pragma unroll
    for (int k = 0; k < Inputs::kStages - 1; ++k) fetch(k);
    for (int k = 0; k < walk.T; ++k) step(k);
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!in_batch(i)) continue;
      const int64_t state = walk.state(b + i) + at.unit;
      store_pair(static_cast<IO*>(p.hn) + state, left, kPaired, to_pair<IO>(h[0][i], h[1][i]));
      if constexpr (cell == Cell::kLstm) {
        store_pair(static_cast<IO*>(p.cn) + state, left, kPaired, to_pair<IO>(c[0][i], c[1][i]));
      }
    }
  }
};

template <Cell cell, class IO, int kSteps, bool kPaired>
__global__ void __launch_bounds__(kSteps * 32, 1) block_forward_kernel(const Forward p) {
  SHARED_MEMORY(shared);
  BlockForward<cell, IO, kSteps, kPaired> block(p, shared);
  block.run();
}

}  // namespace cuda
}  // namespace fused_rnn
