// SPDX-License-Identifier: MIT
// The cluster tier, forward, 16-bit formats: all steps in one launch of clusters. A block computes
// the gates of its own units and pushes h into the shared memory of all, its own too, which wait
// for nothing else; the textbook GRU pushes twice a step, r * h and h.
#pragma once

#include "../device/inputs.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/records.cuh"
#include "../device/tile.cuh"
#include "../device/units.cuh"
#include "../device/waits.cuh"
#include "../device/walk.cuh"
#include "../shapes.h"
#include "exchange.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kGroups, int kBlocks>
struct ClusterForward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  static constexpr int kHalves = kBefore ? 2 : 1;
  // K-steps of a warp, and those of them whose weights are in registers.
  static constexpr int kSteps = forward_steps(kGroups, kBlocks);
  static constexpr int kHeld = kSteps < held_steps(kGroups) ? kSteps : held_steps(kGroups);
  static constexpr int kColumns = cluster_columns(kGroups, kBlocks);
  static constexpr int kStride = twin_stride(kColumns), kSums = cluster_sums(cell, kGroups);

  const Forward& p;
  const ClusterPlace<kGroups, kBlocks> at;
  const Walk walk;
  const Rows<IO> y, tape;
  const int H;
  const Pushes pushes;
  IO* const outgoing;            // (warps, 32)
  const Fragments<G> fragments;  // (warps, kSteps - kHeld, G)
  float* const sums;             // (groups, 4 parts, G, kSumWords), of even passes
  const Records records;         // of the textbook GRU, c is z between its halves
  IO* const tiles;               // (rows, 2 exchanges, kColumns)
  float* const odd_sums;
  uint32_t w[G][kHeld][4];
  ForwardInputs<cell, IO> inputs;

  DEVICE_FN ClusterForward(const Forward& p, int rows, unsigned char* shared)
      : p(p),
        at(p.sizes, rows),
        walk(p, blockIdx.z),
        y(walk, static_cast<IO*>(p.y), 1, at.unit()),
        tape(walk, static_cast<IO*>(p.tape), S, at.unit()),
        H(p.sizes.H),
        pushes{reinterpret_cast<uint64_t*>(shared), p.stuck},
        outgoing(reinterpret_cast<IO*>(shared + 16)),
        fragments{reinterpret_cast<Vector*>(outgoing + at.threads), kSteps - kHeld},
        sums(reinterpret_cast<float*>(&fragments.at(at.warps, 0, 0, 0))),
        records{sums + kSums},
        tiles(reinterpret_cast<IO*>(records.memory + rows * at.record)),
        odd_sums(reinterpret_cast<float*>(tiles + rows * kStride)),
        inputs(p, walk, at.unit()) {
    load_weights();
    for (int i = threadIdx.x; i < rows; i += at.threads) {
      records.length(at, i) = walk.length(at.first_row + i);
    }
    __syncthreads();
    load_states();
    pushes.start();
  }

  DEVICE_FN IO* tile(int exchange) const { return tiles + low_bits(exchange, 1) * kColumns; }
  DEVICE_FN OwnRow row(int pass) const {
    const int place = at.row + pass * kTileRows;
    return {at, records, place, at.first_row + place};
  }

  DEVICE_FN void load_weights() {
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int unit = at.first_unit + at.group * kTileUnits + at.lane / 4 * 2;
    const int first = at.part * kSteps * 16;
    load_rows(w, w_hh, unit, first, H, p.paired, at.lane);
    fragments.fill(at.warp, at.lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_rows(one, w_hh, unit, first + (kHeld + s) * 16, H, p.paired, at.lane);
    });
  }

  // Every block takes the whole h before the first step from where it is given.
  DEVICE_FN void load_states() {
    const auto* h0 = static_cast<const IO*>(p.h0);
    const auto* c0 = static_cast<const IO*>(p.c0);
    const int t = walk.time(0);
    for (int i = threadIdx.x; i < at.rows * kColumns; i += at.threads) {
      const int row = i / kColumns, u = i % kColumns, b = at.first_row + row;
      const bool given = h0 && b < at.end_row && u < H && !walk.cut(t, b, records.length(at, row));
      tile(0)[row * kStride + u] = given ? h0[walk.state(b) + u] : IO{};
      tile(1)[row * kStride + u] = IO{};
    }
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const OwnRow own = row(pass);
      const int64_t state = walk.state(own.b) + at.unit();
      const bool kept = own.there && !walk.cut(t, own.b, own.length);
      own.h = kept && h0 ? widen(h0[state]) : 0;
      own.c = kept && c0 ? widen(c0[state]) : 0;
    }
  }

  // What a pass of the k-th step will need of gates `first` to `end`.
  template <int first, int end>
  DEVICE_FN void load_inputs(int k, int pass) {
    if (k < walk.T) inputs.template load<first, end>(walk, k, row(pass));
  }

  // Where the sums of a group stand; of two passes in turns, as warps part after the first.
  DEVICE_FN float* group_sums(int pass) const {
    return (low_bits(pass, 1) ? odd_sums : sums) + at.group * kGroupWarps * G * kSumWords;
  }

  // This warp's part of the sums of `count` gates of a pass.
  template <int first, int count>
  DEVICE_FN void multiply_pass(int pass, const IO* from) const {
    float acc[1][count][4] = {};
    const IO* own = from + at.part * kSteps * 16 + matrix_place(kStride, at.lane);
#pragma unroll
    for (int s = 0; s < kHeld; s += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, own + s * 16);
#pragma unroll
      for (int g = 0; g < count; ++g) mma<IO>(acc[0][g], w[first + g][s], b[0], b[1]);
#pragma unroll
      for (int g = 0; g < count; ++g) mma<IO>(acc[0][g], w[first + g][s + 1], b[2], b[3]);
    }
    multiply(acc, fragments, at.warp, first, own + kHeld * 16, 0, 1, at.lane);
    float* to = group_sums(pass) + (at.part * G + first) * kSumWords;
#pragma unroll
    for (int g = 0; g < count; ++g) put_sums(to + g * kSumWords, acc[0][g], at.lane);
  }

  // The states behind the k-th step, or r * h within it; returns what the next product reads.
  template <int first, int count>
  DEVICE_FN float update(int k, int pass, const OwnRow& own, float (&saved)[S + 1]) {
    const bool active = walk.time(k) < own.length;
    const float* parts = group_sums(pass) + first * kSumWords + at.word;
    float x[count], total[count];
#pragma unroll
    for (int g = 0; g < count; ++g) {
      x[g] = inputs.part(first + g);
      total[g] = inputs.bias[first + g];
#pragma unroll
      for (int part = 0; part < kGroupWarps; ++part) total[g] += parts[(part * G + g) * kSumWords];
    }
    if constexpr (kBefore && first == 0) {
      if (!active) return 0;
      const float reset_h = forward_gates<IO>(x, total, own.h, saved);
      own.c = saved[1];
      return reset_h;
    } else {
      if constexpr (kBefore) {
        saved[1] = own.c;
        if (active) forward_output<IO>(x[0], total[0], own.h, saved);
      } else if (active) {
        forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x, total, own.h, own.c, saved);
      }
      // The output, whatever the next step makes of the state.
      saved[S] = own.h;
      if (k + 1 < walk.T && walk.cut(walk.time(k + 1), own.b, own.length)) own.h = own.c = 0;
      return own.h;
    }
  }

  // To every block, this one too. A warp's numbers are four vectors: eight lanes take each, and
  // share the ranks.
  DEVICE_FN void hand_on(int exchange, const OwnRow& own, float mine) const {
    IO* from = outgoing + at.warp * 32;
    from[at.lane] = narrow<IO>(mine);
    // A push stands for all lanes that it has numbers of: what they read may be written over.
    __syncwarp();
    const Vector value = *reinterpret_cast<const Vector*>(from + at.lane / 8 * 8);
    IO* to = tile(exchange + 1) + (own.b - at.first_row) * kStride + at.first_unit + at.own / 8 * 8;
#pragma unroll
    for (int i = 0; i < kLargestCluster; i += 8) {
      const int turn = i + at.lane % 8;
      // There are a power of two of them.
      if (turn < at.blocks) pushes.send(exchange, (at.rank + turn) & (at.blocks - 1), to, value);
    }
  }

  template <int first, int count>
  DEVICE_FN void store(int t, const OwnRow& own, const float (&saved)[S + 1]) const {
    if (!own.there) return;
    const uint32_t number = walk.number(t, own.b);
    const bool active = t < own.length;
    if (first + count == G) *y[number] = active ? narrow<IO>(saved[S]) : IO{};
    if (!active || !p.tape) return;
    IO* slots = tape[number];
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
    if (!last) pushes.expect(exchange, at.rows * at.units * 2 * at.blocks);
    const bool lost = exchange > 0 && !pushes.wait(exchange - 1);
    // A warp multiplies as a whole, and not what may still be landing.
    const bool reads = !__any_sync(0xFFFFFFFF, lost);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      if (reads) multiply_pass<first, count>(pass, tile(exchange) + pass * kTileRows * kStride);
      if (__syncthreads_or(lost)) return false;
      const OwnRow own = row(pass);
      float saved[S + 1];
      const float next = update<first, count>(k, pass, own, saved);
      if (!last) hand_on(exchange, own, next);
      store<first, count>(walk.time(k), own, saved);
      load_next<first, first + count>(k, pass + 1);
    }
    return true;
  }

  // What comes behind a pass: the next, or the first of the next half or step.
  template <int first, int end>
  DEVICE_FN void load_next(int k, int pass) {
    const bool more = pass * kTileRows < at.rows;
    if (first == 0 && end == G) {
      load_inputs<0, G>(more ? k : k + 1, more ? pass : 0);
    } else if (more) {
      load_inputs<first, end>(k, pass);
    } else {
      load_inputs<end % G, end % G ? G : 2>(first ? k + 1 : k, 0);
    }
  }

  DEVICE_FN void give_up(int k, int exchange) const {
    pushes.drain(exchange);
    spoil_forward<cell, IO>(p, walk, at.share(), k);
  }

  DEVICE_FN void run() {
    load_inputs<0, kBefore ? 2 : G>(0, 0);
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
      const OwnRow own = row(pass);
      if (!own.there) continue;
      const int64_t state = walk.state(own.b) + at.unit();
      static_cast<IO*>(p.hn)[state] = narrow<IO>(own.h);
      if (cell == Cell::kLstm) static_cast<IO*>(p.cn)[state] = narrow<IO>(own.c);
    }
  }
};

template <Cell cell, class IO, int kGroups, int kBlocks>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    cluster_forward_kernel(const Forward p, int rows) {
  if constexpr (kHasClusters) {
    SHARED_MEMORY(shared);
    ClusterForward<cell, IO, kGroups, kBlocks> block(p, rows, shared);
    block.run();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
