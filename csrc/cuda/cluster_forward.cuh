// SPDX-License-Identifier: MIT
// Tier C, forward, 16-bit formats: all steps in one launch of clusters. A block computes the gates
// of its own units and pushes h into the shared memory of all, its own too, which wait for nothing
// else; the textbook GRU pushes twice a step, r * h and h.
#pragma once

#include "cluster.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO, int kBlocks, int kGroups>
struct ClusterForward {
  static constexpr int G = gate_count(cell), S = saved_slots(cell), kSummed = summed_gates(cell);
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  static constexpr int kHalves = kBefore ? 2 : 1;
  // K-steps of a warp, and those whose weights are in registers; the columns of h, and from one row
  // of both tiles to the next.
  static constexpr int kAll = forward_steps(kGroups, kBlocks);
  static constexpr int kSteps = kAll < held_steps(kGroups) ? kAll : held_steps(kGroups);
  static constexpr int kColumns = cluster_columns(kGroups, kBlocks), kPitch = twin_pitch(kColumns);
  // The sums of a pass.
  static constexpr int kSums = kGroupWarps * G * kGroups * kSumWords;

  using Memory = ClusterMemory<kGroups>;

  const Forward& p;
  const ClusterPlace<kBlocks, kGroups> at;
  const Walk walk;
  const int H;
  Memory& memory;
  const Fragments<G> fragments;  // (warps, kAll - kSteps, G)
  float* const sums;             // (1 or 2 passes, 4 parts, G, groups, kSumWords)
  IO* const tiles;               // (rows, 2, kColumns)
  const Pushes pushes;
  // Where in the tiles a lane reads matrices and a thread pushes its units; where in the sums a
  // lane puts its own and a thread takes what it adds up.
  int reads, sends, puts, takes;
  uint32_t w[G][kSteps][4];
  float bias[G], x_bias;

  DEVICE_FN ClusterForward(const Forward& p, int rows, unsigned char* shared)
      : p(p),
        at(rows),
        walk(p, blockIdx.z),
        H(p.sizes.H),
        memory(*reinterpret_cast<Memory*>(shared)),
        fragments{reinterpret_cast<Vector*>(shared + sizeof(Memory)), kAll - kSteps},
        sums(reinterpret_cast<float*>(&fragments.at(kGroups * kGroupWarps, 0, 0, 0))),
        tiles(reinterpret_cast<IO*>(sums + sum_buffers(rows) * kSums)),
        pushes{memory.barriers, p.stuck},
        reads(at.part * kAll * 16 + matrix_place(kPitch, at.lane)),
        sends(at.row * kPitch + at.unit / 8 * 8),
        puts((at.part * G * kGroups + at.group) * kSumWords + fragment_word(at.lane)),
        takes(at.group * kSumWords + at.word) {
    static_assert(sizeof(Memory) == cluster_state_bytes(kGroups));
    hold(reads), hold(sends), hold(puts), hold(takes);
    load_weights();
    load_bias();
    for (int i = threadIdx.x; i < rows; i += blockDim.x) {
      memory.lengths[i] = walk.length(at.first_row + i);
    }
    __syncthreads();
    load_states();
    pushes.start();
  }

  DEVICE_FN IO* tile(int exchange) const { return tiles + exchange % 2 * kColumns; }
  DEVICE_FN ClusterRow row(int pass) const { return {at, memory.lengths, pass}; }
  DEVICE_FN bool active(int t, const ClusterRow& own) const {
    return at.unit < H && t < own.length;
  }

  DEVICE_FN void load_weights() {
    const IO* w_hh = static_cast<const IO*>(p.w_hh) + int64_t(walk.n) * G * H * H;
    const int unit = at.first_unit + at.group * kTileUnits + at.lane / 4 * 2;
    const int first = at.part * kAll * 16;
    load_rows(w, w_hh, unit, first, H, p.paired, at.lane);
    fragments.fill(at.warp, at.lane, [=, this](uint32_t (&one)[G][1][4], int s) {
      load_rows(one, w_hh, unit, first + (kSteps + s) * 16, H, p.paired, at.lane);
    });
  }

  DEVICE_FN void load_bias() {
    const int unit = at.unit;
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
    const int t = walk.time(0);
    for (int i = threadIdx.x; i < at.rows * kColumns; i += blockDim.x) {
      const int row = i / kColumns, u = i % kColumns, b = at.first_row + row;
      const bool given = h0 && b < walk.B && u < H && !walk.cut(t, b, memory.lengths[row]);
      tile(0)[row * kPitch + u] = given ? h0[walk.state(b) + u] : IO{};
      tile(1)[row * kPitch + u] = IO{};
    }
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const ClusterRow own = row(pass);
      const int64_t state = walk.state(own.b) + at.unit;
      const bool kept = own.b < walk.B && at.unit < H && !walk.cut(t, own.b, own.length);
      memory.states[0][own.index] = kept && h0 ? widen(h0[state]) : 0;
      memory.states[1][own.index] = kept && c0 ? widen(c0[state]) : 0;
    }
  }

  template <int first, int count>
  DEVICE_FN void load_inputs(int t, const ClusterRow& own, IO (&x)[count]) const {
    if (!active(t, own)) return;
    const IO* from = static_cast<const IO*>(p.xg) + walk.offset(walk.number(t, own.b), G) + at.unit;
    if (first) from += first * H;
#pragma unroll
    for (int g = 0; g < count; ++g, from += H) x[g] = *from;
  }

  // Asks for what the k-th step reads: the first lanes of a group's sixteen units for a gate each.
  template <int first, int count>
  DEVICE_FN void prefetch_inputs(int k, const ClusterRow& own) const {
    const int g = at.own % kTileUnits, unit = at.unit - g;
    if (g >= count || k >= walk.T || unit >= H || walk.time(k) >= own.length) return;
    prefetch(static_cast<const IO*>(p.xg) + walk.offset(walk.number(walk.time(k), own.b), G) +
             (first + g) * H + unit);
  }

  // The sums of a pass; two in turns, as warps part after the first.
  DEVICE_FN float* sums_of(int pass) const { return sums + pass % 2 * kSums; }

  // This warp's part of the sums of `count` gates of a pass.
  template <int first, int count>
  DEVICE_FN void multiply_pass(int pass, const IO* from) const {
    float acc[1][count][4] = {};
    const IO* own = from + reads;
#pragma unroll
    for (int s = 0; s < kSteps; s += 2) {
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
      put_sums(sums_of(pass) + puts + (first + g) * kGroups * kSumWords, acc[0][g]);
    }
  }

  // The states behind the k-th step, or r * h within it; returns what the next product reads.
  template <int first, int count>
  DEVICE_FN float update(int k, int t, int pass, const ClusterRow& own, const IO (&given)[count],
                         float (&saved)[S + 1]) {
    float x[count], total[count];
#pragma unroll
    for (int g = 0; g < count; ++g) {
      x[g] = widen(given[g]);
      if (first + g >= kSummed) x[g] += x_bias;
      total[g] = bias[first + g];
#pragma unroll
      for (int part = 0; part < kGroupWarps; ++part) {
        total[g] += sums_of(pass)[takes + (part * G + first + g) * kGroups * kSumWords];
      }
    }
    float &own_h = memory.states[0][own.index], &own_c = memory.states[1][own.index];
    if constexpr (kBefore && first == 0) {
      if (!active(t, own)) return 0;
      const float reset_h = forward_gates<IO>(x, total, own_h, saved);
      own_c = saved[1];
      return reset_h;
    } else {
      float next_h = own_h, next_c = own_c;
      if constexpr (kBefore) {
        saved[1] = next_c;
        if (active(t, own)) forward_output<IO>(x[0], total[0], next_h, saved);
      } else if (active(t, own)) {
        forward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, x, total, next_h, next_c, saved);
      }
      // The output, whatever the next step makes of the state.
      saved[S] = next_h;
      if (k + 1 < walk.T && walk.cut(walk.time(k + 1), own.b, own.length)) next_h = next_c = 0;
      own_h = next_h;
      own_c = next_c;
      return next_h;
    }
  }

  // To every block, this one too: eight neighbouring lanes gather the 16 bytes of their units and
  // share the ranks.
  DEVICE_FN void hand_on(int exchange, int pass, float mine) const {
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
    IO* to = tile(exchange + 1) + pass * kTileRows * kPitch + sends;
#pragma unroll
    for (int i = 0; i < kBlocks; i += 8) {
      const int next = i + at.lane % 8;
      if (next < kBlocks) pushes.send(exchange, (at.rank + next) % kBlocks, to, value);
    }
  }
  DEVICE_FN static uint32_t exchanged(uint32_t word, int lanes) {
    return __shfl_xor_sync(0xFFFFFFFF, word, lanes);
  }

  template <int first, int count>
  DEVICE_FN void store(int t, const ClusterRow& own, const float (&saved)[S + 1]) const {
    if (own.b >= walk.B || at.unit >= H) return;
    const int number = walk.number(t, own.b);
    const bool written = t < own.length;
    if (first + count == G) {
      static_cast<IO*>(p.y)[walk.offset(number, 1) + at.unit] =
          written ? narrow<IO>(saved[S]) : IO{};
    }
    if (!written || !p.tape) return;
    constexpr int kFirst = kBefore ? first : 0, kEnd = kBefore ? first + count : S;
    IO* slot = static_cast<IO*>(p.tape) + walk.offset(number, S) + at.unit;
    if (kFirst) slot += kFirst * H;
#pragma unroll
    for (int s = kFirst; s < kEnd; ++s, slot += H) *slot = narrow<IO>(saved[s]);
  }

  // Exchange e is what the e-th product reads: in shared memory already, or push e - 1, behind
  // which every warp of this block has read its sums. False where the push does not come.
  template <int first, int count>
  DEVICE_FN bool half(int k, int exchange) {
    const bool last = exchange + 1 == walk.T * kHalves;
    const int t = walk.time(k);
    IO x[count] = {};
    load_inputs<first, count>(t, row(0), x);
    if (!last) pushes.expect(exchange, at.rows * (at.kUnits * 2 * kBlocks));
    const bool lost = exchange > 0 && !pushes.wait(exchange - 1);
    // A warp multiplies as a whole, and not what may still be landing.
    const bool multiplies = !__any_sync(0xFFFFFFFF, lost);
#pragma unroll 1
    for (int pass = 0; pass * kTileRows < at.rows; ++pass) {
      const ClusterRow own = row(pass);
      if (pass) load_inputs<first, count>(t, own, x);
      if (multiplies) multiply_pass<first, count>(pass, tile(exchange) + pass * kTileRows * kPitch);
      if (__syncthreads_or(lost)) return false;
      float saved[S + 1];
      const float next = update<first, count>(k, t, pass, own, x, saved);
      if (!last) hand_on(exchange, pass, next);
      store<first, count>(t, own, saved);
      prefetch_inputs<first, count>(k + 2, own);
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
      const ClusterRow own = row(pass);
      if (own.b >= walk.B || at.unit >= H) continue;
      const int64_t state = walk.state(own.b) + at.unit;
      static_cast<IO*>(p.hn)[state] = narrow<IO>(memory.states[0][own.index]);
      if (cell == Cell::kLstm) {
        static_cast<IO*>(p.cn)[state] = narrow<IO>(memory.states[1][own.index]);
      }
    }
  }
};

template <Cell cell, class IO, int kBlocks, int kGroups>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    cluster_forward_kernel(const Forward p, int rows) {
  if constexpr (kHasClusters) {
    SHARED_MEMORY(shared);
    ClusterForward<cell, IO, kBlocks, kGroups> block(p, rows, shared);
    block.run();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
