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
  static constexpr int kStride = grid_stride(kAll), kSums = kHalves * kSumWords;
  static constexpr int kParts = sum_parts(kKept);

  const Forward& p;
  const GridPlace<1, 1> at;
  const Walk walk;
  const int H, passes, warp, lane;
  GridMemory& memory;
  const Fragments<G> kept;  // (warps, kKept, G)
  float* const sums;        // (kParts, G, kSums)
  IO* const tile;           // (kPassRows, kStride)
  // Where in the tile a lane reads matrices, and where in the sums it puts its own.
  int reads, puts;
  uint32_t w[G][kSteps][4];
  float bias[G], x_bias;

  DEVICE_FN GridForward(const Forward& p, const Exchange& x, unsigned char* shared)
      : p(p),
        at(p, x),
        walk(at.walk),
        H(at.H),
        passes(at.passes()),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        memory(*reinterpret_cast<GridMemory*>(shared)),
        kept{reinterpret_cast<Vector*>(shared + sizeof(GridMemory)), kKept},
        sums(reinterpret_cast<float*>(&kept.at(kGridWarps, 0, 0, 0))),
        tile(reinterpret_cast<IO*>(sums + kParts * G * kSums)),
        reads(warp * kAll * 16 + matrix_place(kStride, lane)),
        puts(warp % kParts * G * kSums + fragment_word(lane)) {
    static_assert(sizeof(GridMemory) == kGridStateBytes);
    hold(reads), hold(puts);
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int pair = at.first_unit + lane / 4 * 2, first = warp * kAll * 16;
    load_rows(w, w_hh, pair, first, H, p.paired, lane);
    kept.fill(warp, lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_rows(one, w_hh, pair, first + (kSteps + s) * 16, H, p.paired, lane);
    });
    load_bias();
    for (int i = threadIdx.x; i < kPassRows * kStride; i += blockDim.x) tile[i] = IO{};
    at.load_lengths(memory);
    __syncthreads();
    for (int pass = 0; pass < passes; ++pass) start(row(pass));
  }

  DEVICE_FN GridRow row(int pass) const { return {at, memory, pass}; }

  DEVICE_FN void load_bias() {
    const auto* b_ih = static_cast<const IO*>(p.b_ih);
    const auto* b_hh = static_cast<const IO*>(p.b_hh);
    x_bias = 0;
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const int64_t index = (int64_t(walk.n) * G + g) * H + at.unit;
      const float from_x = b_ih && at.unit < H ? widen(b_ih[index]) : 0;
      bias[g] = b_hh && at.unit < H ? widen(b_hh[index]) : 0;
      if (g < kSummed) {
        bias[g] += from_x;
      } else {
        x_bias = from_x;
      }
    }
  }

  DEVICE_FN void start(const GridRow& own) {
    const int64_t state = walk.state(own.b) + at.unit;
    const float h = own.there && p.h0 ? widen(static_cast<const IO*>(p.h0)[state]) : 0;
    const float c = own.there && p.c0 ? widen(static_cast<const IO*>(p.c0)[state]) : 0;
    hand_on(0, own, h, c);
  }

  // Keeps the states and gives h to the group's k-th step, zeros where that step starts afresh.
  DEVICE_FN void hand_on(int k, const GridRow& own, float h, float c) {
    if (k < walk.T && walk.cut(walk.time(k), own.b, own.length)) h = c = 0;
    memory.states[0][own.index] = h;
    memory.states[1][own.index] = c;
    if (k < walk.T) at.template give<IO>(at.word_of(k, own.b), own.b, h);
  }

  // The input parts of a pass.
  DEVICE_FN void load_inputs(int k, const GridRow& own, IO (&x)[G]) const {
    const int t = walk.time(k);
    if (k >= walk.T || at.unit >= H || t >= own.length) return;
    const IO* from = static_cast<const IO*>(p.xg) + walk.offset(walk.number(t, own.b), G) + at.unit;
#pragma unroll
    for (int g = 0; g < G; ++g, from += H) x[g] = *from;
  }

  // A part of the sums of a pass for each warp, or two.
  DEVICE_FN void multiply_pass(int pass) const {
    float acc[kHalves][G][4] = {};
    const IO* own = tile + reads;
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
          float* part = sums + puts + g * kSums + half * kSumWords;
          if (half < halves) use(part, acc[half][g]);
        }
      }
    };
    const auto put = [&](float* part, const float (&own)[4]) { put_sums(part, own); };
    if constexpr (kParts < kGridWarps) {
      if (warp >= kParts) each(put);
      __syncthreads();
      if (warp < kParts) each([&](float* part, float (&own)[4]) { add_sums(own, part); });
    }
    if (kParts == kGridWarps || warp < kParts) each(put);
  }

  DEVICE_FN void update(int k, const GridRow& own, const IO (&given)[G]) {
    const int t = walk.time(k);
    float x[G], total[G], saved[S + 1];
#pragma unroll
    for (int g = 0; g < G; ++g) {
      x[g] = widen(given[g]);
      if (g >= kSummed) x[g] += x_bias;
      total[g] = bias[g];
#pragma unroll
      for (int from = 0; from < kParts; ++from) {
        total[g] += sums[(from * G + g) * kSums + at.word];
      }
    }
    float h = memory.states[0][own.index], c = memory.states[1][own.index];
    const bool active = at.unit < H && t < own.length;
    if (active) {
      forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x, total, h, c, saved);
    }
    hand_on(k + 1, own, h, c);
    if (own.there) store(t, own, active, h, saved);
  }

  DEVICE_FN void store(int t, const GridRow& own, bool active, float value,
                       const float (&saved)[S + 1]) const {
    const int number = walk.number(t, own.b);
    static_cast<IO*>(p.y)[walk.offset(number, 1) + at.unit] = active ? narrow<IO>(value) : IO{};
    if (!active || !p.tape) return;
    IO* slot = static_cast<IO*>(p.tape) + walk.offset(number, S) + at.unit;
#pragma unroll
    for (int s = 0; s < S; ++s, slot += H) *slot = narrow<IO>(saved[s]);
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
      load_inputs(last ? k + 1 : k, row(last ? 0 : pass + 1), ahead);
      multiply_pass(pass);
      __syncthreads();
      update(k, row(pass), x);
    }
    return true;
  }

  DEVICE_FN void run() {
    IO ahead[G] = {};
    load_inputs(0, row(0), ahead);
    for (int k = 0; k < walk.T; ++k) {
      if (!step(k, ahead)) return spoil_forward<cell, IO>(p, walk, at.share(), k);
    }
    for (int pass = 0; pass < passes; ++pass) {
      const GridRow own = row(pass);
      if (!own.there) continue;
      const int64_t state = walk.state(own.b) + at.unit;
      static_cast<IO*>(p.hn)[state] = narrow<IO>(memory.states[0][own.index]);
      if (cell == Cell::kLstm) {
        static_cast<IO*>(p.cn)[state] = narrow<IO>(memory.states[1][own.index]);
      }
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
