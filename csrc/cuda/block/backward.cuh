// SPDX-License-Identifier: MIT
// The block tier, backward, 16-bit formats: one block per eight batch rows and recurrence walks the
// steps in reverse. W_hh^T stays in registers; dG goes through shared memory to all warps, and to
// global memory for the weight gradients, which are products over all steps afterwards.
#pragma once

#include "../device/inputs.cuh"
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
struct BlockBackward {
  static constexpr int G = gate_count(cell), D = grad_count(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  // Per row: the tape's slots (a plain network's y), the state before, dy.
  static constexpr int kSaved = BackwardInputs<cell, IO>::kSaved, kWords = kSaved + 2;
  static constexpr int kStride = tile_stride(kSteps), kTile = kTileRows * kStride;
  static constexpr int kTiles = backward_tiles(cell);
  using Inputs = Ring<backward_words(cell)>;

  const Backward& p;
  const Walk walk;
  const Place at;
  const int H, left, b;  // left: units from the thread's first on
  const BackwardSource<cell, IO> source;
  const Rows<IO> gates;  // dG
  IO* const tiles;
  const Inputs inputs;
  uint32_t w[G][kSteps][4];
  // By unit and row.
  float dh[2][2], dc[2][2];
  int length[2];

  DEVICE_FN BlockBackward(const Backward& p, unsigned char* shared)
      : p(p),
        walk(p, blockIdx.y),
        at(threadIdx.x / 32 * kTileUnits),
        H(p.sizes.H),
        left(H - at.unit),
        b(blockIdx.x * kTileRows + at.row),
        source(p, walk, at.unit),
        gates(walk, static_cast<IO*>(p.dg), D, at.unit),
        tiles(reinterpret_cast<IO*>(shared)),
        inputs(shared + kTiles * kTile * sizeof(IO)) {
    load_columns(w, static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H, at.unit, 0, H,
                 kPaired, at.lane);
    load_grads();
  }

  DEVICE_FN void load_grads() {
    inputs.clear();
    for (int i = threadIdx.x; i < kTiles * kTile; i += blockDim.x) tiles[i] = IO{};
    load_own<IO>(dh, p.dhn, walk, b, at.unit, H, kPaired);
    load_own<IO>(dc, p.dcn, walk, b, at.unit, H, kPaired);
#pragma unroll
    for (int i = 0; i < 2; ++i) length[i] = walk.length(b + i);
    __syncthreads();
  }

  // Units past the last keep zeros: what infinite gradients make of their sums would meet all
  // others.
  DEVICE_FN bool there(int j) const { return kPaired ? left > 0 : left > j; }
  DEVICE_FN bool in_batch(int i) const { return b + i < walk.B; }

  DEVICE_FN void fetch_or_clear(uint32_t* to, const IO* units) {
    if (units) {
      fetch_pair<kPaired>(to, units, left);
    } else {
      *to = 0;
    }
  }

  // Stages are counted from the last step, as they are used.
  DEVICE_FN void fetch(int stage) {
    if (stage < walk.T) {
      const int t = walk.stage_time(stage);
      uint32_t* to = inputs.stage(stage);
#pragma unroll
      for (int i = 0; i < 2; ++i, to += kWords) {
        if (t >= length[i]) continue;
        const uint32_t number = walk.number(t, b + i);
        const IO* slots = source.saved[number];
#pragma unroll
        for (int s = 0; s < kSaved; ++s) fetch_pair<kPaired>(to + s, slots + s * H, left);
        const bool before = source.has_before(walk, t, b + i, length[i]);
        fetch_or_clear(to + kSaved,
                       before ? source.before(walk, t, b + i, length[i], number) : nullptr);
        fetch_or_clear(to + kSaved + 1, p.dy ? source.dy[number] : nullptr);
      }
    }
    cp_async_commit();
  }

  // Puts the gradient of recurrent row block g, of row i, where the product reads it.
  DEVICE_FN void put(int stage, int g, int i, uint32_t pair) const {
    IO* tile = tiles + (stage % 2 * G + g) * kTile;
    *reinterpret_cast<uint32_t*>(tile + (at.row + i) * kStride + at.unit) = pair;
  }

  // products[e] = the sum over gates first.. of dG W_hh.
  template <int first, int count>
  DEVICE_FN void multiply_all(int stage, float (&products)[4]) const {
    float acc[count][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; s += 2) {
#pragma unroll
      for (int g = 0; g < count; ++g) {
        const IO* tile = tiles + (stage % 2 * G + first + g) * kTile;
        uint32_t d[4];
        ldmatrix_x4(d, tile + matrix_place(kStride, at.lane) + s * 16);
        mma<IO>(acc[g], w[first + g][s], d[0], d[1]);
        mma<IO>(acc[g], w[first + g][s + 1], d[2], d[3]);
      }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      products[e] = acc[0][e];
#pragma unroll
      for (int g = 1; g < count; ++g) products[e] += acc[g][e];
    }
  }

  DEVICE_FN void step(int stage) {
    const int t = walk.stage_time(stage);
    fetch(stage + Inputs::kStages - 1);
    cp_async_wait<Inputs::kStages - 1>();
    // By row, slot and unit.
    float in[2][kWords][2], dg[2][2][D], products[4];
    const uint32_t* words = inputs.stage(stage);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        from_pair<IO>(words[i * kWords + word], in[i][word]);
      }
    }
    // The rows' gradients of h_t; what lies past a row's end passes through to its last step.
    float kept[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        kept[j][i] = dh[j][i];
        dh[j][i] += in[i][kSaved + 1][j];
        float slots[kSaved], new_dc = dc[j][i];
#pragma unroll
        for (int s = 0; s < kSaved; ++s) slots[s] = in[i][s][j];
        if constexpr (kBefore) {
          backward_output(slots, in[i][kSaved][j], dh[j][i], dg[i][j]);
        } else {
          backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, slots, in[i][kSaved][j], dh[j][i],
                                  new_dc, dg[i][j]);
        }
        if (t < length[i]) dc[j][i] = new_dc;
      }
    }
    if constexpr (kBefore) reset_gate(stage, t, in, dg);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int g = 0; g < (kBefore ? 2 : G); ++g) {
        const int column = recurrent_column(cell, g);
        put(stage, g, i, t < length[i] ? to_pair<IO>(dg[i][0][column], dg[i][1][column]) : 0);
      }
      store(t, i, dg[i]);
    }
    __syncthreads();
    multiply_all<0, kBefore ? 2 : G>(stage, products);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool active = t < length[i], cut = active && walk.cut(t, b + i, length[i]);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (cut) dc[j][i] = 0;
        const float before = cut || !there(j) ? 0 : dh[j][i] + products[2 * j + i];
        dh[j][i] = active ? before : kept[j][i];
      }
    }
  }

  // The textbook GRU's second half: d(r * h) = dn W_hn, and what it gives r and h.
  DEVICE_FN void reset_gate(int stage, int t, const float (&in)[2][kWords][2],
                            float (&dg)[2][2][D]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      put(stage, 2, i, t < length[i] ? to_pair<IO>(dg[i][0][2], dg[i][1][2]) : 0);
    }
    __syncthreads();
    float products[4];
    multiply_all<G - 1, 1>(stage, products);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float slots[1] = {in[i][0][j]};
        const float d_reset_h = there(j) ? products[2 * j + i] : 0;
        backward_gates(slots, in[i][kSaved][j], d_reset_h, dh[j][i], dg[i][j]);
      }
    }
  }

  DEVICE_FN void store(int t, int i, const float (&dg)[2][D]) const {
    if (!in_batch(i)) return;
    IO* columns = gates[walk.number(t, b + i)];
#pragma unroll
    for (int d = 0; d < D; ++d) {
      store_pair(columns + d * H, left, kPaired,
                 t < length[i] ? to_pair<IO>(dg[0][d], dg[1][d]) : 0);
    }
  }

  DEVICE_FN void run() {
#pragma unroll
    for (int stage = 0; stage < Inputs::kStages - 1; ++stage) fetch(stage);
    for (int stage = 0; stage < walk.T; ++stage) step(stage);
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!in_batch(i)) continue;
      const int64_t state = walk.state(b + i) + at.unit;
      if (p.dh0) {
        store_pair(static_cast<IO*>(p.dh0) + state, left, kPaired, to_pair<IO>(dh[0][i], dh[1][i]));
      }
      if (p.dc0) {
        store_pair(static_cast<IO*>(p.dc0) + state, left, kPaired, to_pair<IO>(dc[0][i], dc[1][i]));
      }
    }
  }
};

template <Cell cell, class IO, int kSteps, bool kPaired>
__global__ void __launch_bounds__(kSteps * 32, 1) block_backward_kernel(const Backward p) {
  SHARED_MEMORY(shared);
  BlockBackward<cell, IO, kSteps, kPaired> block(p, shared);
  block.run();
}

}  // namespace cuda
}  // namespace fused_rnn
