// SPDX-License-Identifier: MIT
// The grid tier, forward, 16-bit formats: all steps in one cooperative launch. A block keeps 16
// units' rows of W_hh in registers and shared memory; after each step the blocks of a batch group
// hand h around through global memory.
#pragma once

#include "../device/inputs.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/records.cuh"
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
  static constexpr int G = gate_count(cell), S = saved_slots(cell);
  static constexpr int kAll = kSteps + kKept;  // of a warp
  static constexpr int kStride = grid_stride(kAll), kSums = kHalves * kSumWords;
  static constexpr int kParts = sum_parts(kKept);

  const Forward& p;
  const GridPlace<1> at;
  const Walk walk;
  const Rows<IO> y, tape;
  const int H, passes, warp, lane;
  const Fragments<G> kept;  // (warps, kKept, G)
  float* const sums;        // (kParts, G, kSums)
  IO* const tile;           // (kPassRows, kStride)
  const Records records;
  uint32_t w[G][kSteps][4];
  ForwardInputs<cell, IO> inputs;

  DEVICE_FN GridForward(const Forward& p, const Exchange& x, unsigned char* shared)
      : p(p),
        at(p, x, 1),
        walk(p, blockIdx.z),
        y(walk, static_cast<IO*>(p.y), 1, at.unit()),
        tape(walk, static_cast<IO*>(p.tape), S, at.unit()),
        H(at.H),
        passes(at.passes()),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        kept{reinterpret_cast<Vector*>(shared), kKept},
        sums(reinterpret_cast<float*>(&kept.at(kGridWarps, 0, 0, 0))),
        tile(reinterpret_cast<IO*>(sums + kParts * G * kSums)),
        records{reinterpret_cast<float*>(tile + kPassRows * kStride)},
        inputs(p, walk, at.unit()) {
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int pair = at.first_unit + lane / 4 * 2, first = warp * kAll * 16;
    load_rows(w, w_hh, pair, first, H, p.paired, lane);
    kept.fill(warp, lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_rows(one, w_hh, pair, first + (kSteps + s) * 16, H, p.paired, lane);
    });
    for (int i = threadIdx.x; i < kPassRows * kStride; i += kGridThreads) tile[i] = IO{};
    for (int i = threadIdx.x; i < at.rows; i += kGridThreads) {
      records.length(at, i) = walk.length(at.first_row + i);
    }
    __syncthreads();
    for (int pass = 0; pass < passes; ++pass) start(pass);
  }

  DEVICE_FN void start(int pass) {
    const OwnRow own = at.own_row(records, pass);
    const int64_t state = walk.state(own.b) + at.unit();
    own.h = own.there && p.h0 ? widen(static_cast<const IO*>(p.h0)[state]) : 0;
    own.c = own.there && p.c0 ? widen(static_cast<const IO*>(p.c0)[state]) : 0;
    hand_on(0, pass, own);
  }

  // Gives h to the group's k-th step, zeros where that step starts afresh.
  DEVICE_FN void hand_on(int k, int pass, const OwnRow& own) const {
    if (k == walk.T) return;
    if (walk.cut(walk.time(k), own.b, own.length)) own.h = own.c = 0;
    at.template give<IO>(k, pass, {own.h});
  }

  DEVICE_FN void load_inputs(int k, int pass) {
    if (k < walk.T) inputs.template load<0, G>(walk, k, at.own_row(records, pass));
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
    float* parts = sums + warp % kParts * G * kSums;
    const auto each = [&](auto use) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        if (half >= halves) continue;
#pragma unroll
        for (int g = 0; g < G; ++g) use(parts + g * kSums + half * kSumWords, acc[half][g]);
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

  DEVICE_FN void update(int k, int pass) {
    const OwnRow own = at.own_row(records, pass);
    const int t = walk.time(k);
    const bool active = t < own.length;
    float x[G], total[G], saved[S + 1];
#pragma unroll
    for (int g = 0; g < G; ++g) {
      x[g] = inputs.part(g);
      total[g] = inputs.bias[g];
#pragma unroll
      for (int from = 0; from < kParts; ++from) total[g] += sums[(from * G + g) * kSums + at.word];
    }
    if (active) {
      forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x, total, own.h, own.c, saved);
    }
    // The output, whatever the next step makes of the state.
    saved[S] = own.h;
    hand_on(k + 1, pass, own);
    if (own.there) store(walk.number(t, own.b), active, saved);
  }

  DEVICE_FN void store(uint32_t number, bool active, const float (&saved)[S + 1]) const {
    *y[number] = active ? narrow<IO>(saved[S]) : IO{};
    if (!active || !p.tape) return;
    IO* slots = tape[number];
#pragma unroll
    for (int s = 0; s < S; ++s) slots[s * H] = narrow<IO>(saved[s]);
  }

  // While one pass is computed, the others' blocks hand on what the next gathers, and its inputs
  // come from memory. False where what it gathers does not come.
  DEVICE_FN bool step(int k) {
    if (!at.begin(k)) return false;
#pragma unroll 1
    for (int pass = 0; pass < passes; ++pass) {
      const bool last = pass + 1 == passes;
      const bool found = at.template gather<kAll / 2>(tile, kStride, k, pass, 0, 1);
      if (__syncthreads_or(!found)) return false;
      if (last) at.end(k);
      multiply_pass(pass);
      __syncthreads();
      update(k, pass);
      load_inputs(last ? k + 1 : k, last ? 0 : pass + 1);
    }
    return true;
  }

  DEVICE_FN void run() {
    load_inputs(0, 0);
    for (int k = 0; k < walk.T; ++k) {
      if (!step(k)) return spoil_forward<cell, IO>(p, walk, at.share(), k);
    }
    for (int pass = 0; pass < passes; ++pass) {
      const OwnRow own = at.own_row(records, pass);
      if (!own.there) continue;
      const int64_t state = walk.state(own.b) + at.unit();
      static_cast<IO*>(p.hn)[state] = narrow<IO>(own.h);
      if (cell == Cell::kLstm) static_cast<IO*>(p.cn)[state] = narrow<IO>(own.c);
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
