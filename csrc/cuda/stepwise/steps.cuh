// SPDX-License-Identifier: MIT
// The stepwise tier: the pointwise part of one step; the products are library calls between the
// launches. One thread for each unit, row and recurrence.
#pragma once

#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/units.cuh"
#include "../device/walk.cuh"
#include "../kernels.h"

namespace fused_rnn {
namespace cuda {

constexpr int kStepThreads = 256;

// Which unit of which row a thread has.
struct Spot {
  int n, b, u;
  bool there;
  int64_t state;  // in (N, B, H)

  DEVICE_FN explicit Spot(const Sizes& s) {
    state = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    there = state < int64_t(s.N) * s.B * s.H;
    u = int(state % s.H);
    b = int(state / s.H % s.B);
    n = int(state / s.H / s.B);
  }
};

template <class IO>
DEVICE_FN wide_t<IO> read(const void* tensor, int64_t at) {
  return tensor ? widen(static_cast<const IO*>(tensor)[at]) : wide_t<IO>(0);
}

// The states before the first step, and its operand.
template <class IO>
__global__ void start_forward_kernel(const StepForward p) {
  using A = wide_t<IO>;
  const Spot at(p.layer.sizes);
  if (!at.there) return;
  const Walk walk(p.layer, at.n);
  const bool cut = walk.cut(walk.time(0), at.b, walk.length(at.b));
  const A h = cut ? 0 : read<IO>(p.layer.h0, at.state);
  static_cast<A*>(p.h)[at.state] = h;
  static_cast<IO*>(p.operand)[at.state] = narrow<IO>(h);
  if (p.c) static_cast<A*>(p.c)[at.state] = cut ? 0 : read<IO>(p.layer.c0, at.state);
}

// The parts of gate g: x W_ih^T + b_ih, and the product `sums` + b_hh.
template <int G, class IO>
DEVICE_FN wide_t<IO> input_part(const Forward& p, const Walk& walk, const Spot& at, int t, int g) {
  const int H = p.sizes.H;
  return read<IO>(p.xg, walk.row(t, at.b, G) + g * H + at.u) +
         read<IO>(p.b_ih, (int64_t(at.n) * G + g) * H + at.u);
}
template <int G, class IO>
DEVICE_FN wide_t<IO> recurrent_part(const Forward& p, const Spot& at, const void* sums,
                                    int64_t index, int g) {
  const int H = p.sizes.H;
  return read<IO>(sums, index) + read<IO>(p.b_hh, (int64_t(at.n) * G + g) * H + at.u);
}

// The first half of the textbook GRU's step k: r, z and r * h.
template <class IO>
__global__ void __launch_bounds__(kStepThreads) step_gates_kernel(const StepForward p, int k) {
  using A = wide_t<IO>;
  const Spot at(p.layer.sizes);
  if (!at.there) return;
  const Walk walk(p.layer, at.n);
  const int t = walk.time(k), H = walk.H;
  const int64_t pair = at.state / H * 2 * H + at.u;
  A x[2], sums[2], saved[3];
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    x[g] = input_part<3, IO>(p.layer, walk, at, t, g);
    sums[g] = recurrent_part<3, IO>(p.layer, at, p.sums, pair + g * H, g);
  }
  const A reset_h = forward_gates<IO>(x, sums, static_cast<A*>(p.h)[at.state], saved);
  static_cast<IO*>(p.operand)[at.state] = narrow<IO>(reset_h);
  static_cast<A*>(p.gates)[pair] = saved[0];
  static_cast<A*>(p.gates)[pair + H] = saved[1];
}

// Step k, behind its products: state, output, tape and the next step's operand.
template <Cell cell, class IO>
__global__ void __launch_bounds__(kStepThreads) step_forward_kernel(const StepForward p, int k) {
  using A = wide_t<IO>;
  constexpr int G = gate_count(cell), S = saved_slots(cell);
  const Spot at(p.layer.sizes);
  if (!at.there) return;
  const Walk walk(p.layer, at.n);
  const int t = walk.time(k), H = walk.H, length = walk.length(at.b);
  A h = static_cast<A*>(p.h)[at.state], c = p.c ? static_cast<A*>(p.c)[at.state] : A(0);
  const bool active = t < length;
  A saved[S + 1];
  if (active) {
    if constexpr (cell == Cell::kGruResetBefore) {
      const int64_t pair = at.state / H * 2 * H + at.u;
      saved[0] = static_cast<A*>(p.gates)[pair];
      saved[1] = static_cast<A*>(p.gates)[pair + H];
      forward_output<IO>(input_part<G, IO>(p.layer, walk, at, t, 2),
                         recurrent_part<G, IO>(p.layer, at, p.sum_n, at.state, 2), h, saved);
    } else {
      A x[G], sums[G];
#pragma unroll
      for (int g = 0; g < G; ++g) {
        x[g] = input_part<G, IO>(p.layer, walk, at, t, g);
        sums[g] = recurrent_part<G, IO>(p.layer, at, p.sums, (at.state / H * G + g) * H + at.u, g);
      }
      forward_unit<cell, IO>(p.layer.sizes.cell == Cell::kRnnRelu, x, sums, h, c, saved);
    }
  }
  static_cast<IO*>(p.layer.y)[walk.row(t, at.b, 1) + at.u] = active ? narrow<IO>(h) : IO{};
  if (active && p.layer.tape) {
    IO* slots = static_cast<IO*>(p.layer.tape) + walk.row(t, at.b, S) + at.u;
#pragma unroll
    for (int s = 0; s < S; ++s) slots[s * H] = narrow<IO>(saved[s]);
  }
  if (k + 1 == walk.T) {
    static_cast<IO*>(p.layer.hn)[at.state] = narrow<IO>(h);
    if (p.c) static_cast<IO*>(p.layer.cn)[at.state] = narrow<IO>(c);
    return;
  }
  if (walk.cut(walk.time(k + 1), at.b, length)) h = c = 0;
  static_cast<A*>(p.h)[at.state] = h;
  if (p.c) static_cast<A*>(p.c)[at.state] = c;
  static_cast<IO*>(p.operand)[at.state] = narrow<IO>(h);
}

// The gradient of the state that leaves step k, with the product of the step behind it.
template <class IO>
DEVICE_FN wide_t<IO> carried(const StepBackward& p, const Walk& walk, const Spot& at, int k,
                             int length) {
  using A = wide_t<IO>;
  if (k + 1 == walk.T) return read<IO>(p.layer.dhn, at.state);
  const int t = walk.time(k + 1);
  const A dh = static_cast<A*>(p.dh)[at.state];
  if (t >= length) return dh;
  return walk.cut(t, at.b, length) ? A(0) : dh + read<IO>(p.product, at.state);
}
template <class IO>
DEVICE_FN wide_t<IO> carried_cell(const StepBackward& p, const Walk& walk, const Spot& at, int k,
                                  int length) {
  using A = wide_t<IO>;
  if (k + 1 == walk.T) return read<IO>(p.layer.dcn, at.state);
  const int t = walk.time(k + 1);
  const bool cut = t < length && walk.cut(t, at.b, length);
  return cut ? A(0) : static_cast<A*>(p.dc)[at.state];
}

// What a step of the backward walk starts from: the tape's slots (a plain network's y), the state
// before, and dh with dy.
template <Cell cell, class IO>
DEVICE_FN wide_t<IO> read_saved(const Backward& p, const Walk& walk, const Spot& at, int t,
                                int length, wide_t<IO>* saved) {
  constexpr int S = saved_slots(cell);
  const auto* y = static_cast<const IO*>(p.y);
  const auto* tape = static_cast<const IO*>(p.tape);
#pragma unroll
  for (int s = 0; s < S; ++s) {
    saved[s] = widen(tape[walk.row(t, at.b, S) + int64_t(s) * walk.H + at.u]);
  }
  if (S == 0) saved[0] = widen(y[walk.row(t, at.b, 1) + at.u]);
  const IO* before = cell == Cell::kLstm
                         ? walk.before(t, at.b, length, tape, S, 4, static_cast<const IO*>(p.c0))
                         : walk.before(t, at.b, length, y, 1, 0, static_cast<const IO*>(p.h0));
  return before ? widen(before[at.u]) : wide_t<IO>(0);
}

template <Cell cell, class IO>
__global__ void __launch_bounds__(kStepThreads) step_backward_kernel(const StepBackward p, int k) {
  using A = wide_t<IO>;
  constexpr int G = gate_count(cell), S = saved_slots(cell), D = grad_count(cell);
  constexpr bool kBefore = cell == Cell::kGruResetBefore;
  const Spot at(p.layer.sizes);
  if (!at.there) return;
  const Walk walk(p.layer, at.n);
  const int t = walk.time(k), H = walk.H, length = walk.length(at.b);
  A dh = carried<IO>(p, walk, at, k, length), dc = 0;
  if (p.dc) dc = carried_cell<IO>(p, walk, at, k, length);
  A dg[D] = {}, saved[S + 1];
  if (t < length) {
    const A before = read_saved<cell, IO>(p.layer, walk, at, t, length, saved);
    dh += read<IO>(p.layer.dy, walk.row(t, at.b, 1) + at.u);
    if constexpr (kBefore) {
      backward_output(saved, before, dh, dg);
    } else {
      backward_unit<cell, IO>(p.layer.sizes.cell == Cell::kRnnRelu, saved, before, dh, dc, dg);
    }
  }
  static_cast<A*>(p.dh)[at.state] = dh;
  if (p.dc) static_cast<A*>(p.dc)[at.state] = dc;
  IO* columns = static_cast<IO*>(p.layer.dg) + walk.row(t, at.b, D) + at.u;
#pragma unroll
  for (int d = kBefore ? 1 : 0; d < D; ++d) columns[d * H] = narrow<IO>(dg[d]);
  if constexpr (kBefore) {
    static_cast<IO*>(p.operand_n)[at.state] = narrow<IO>(dg[2]);
    static_cast<IO*>(p.operand)[(at.state / H * 2 + 1) * H + at.u] = narrow<IO>(dg[1]);
  } else {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      static_cast<IO*>(p.operand)[(at.state / H * G + g) * H + at.u] =
          narrow<IO>(dg[recurrent_column(cell, g)]);
    }
  }
}

// The second half of the textbook GRU's step k: dr, once d(r * h) is there.
template <class IO>
__global__ void __launch_bounds__(kStepThreads)
    step_gates_backward_kernel(const StepBackward p, int k) {
  using A = wide_t<IO>;
  constexpr Cell cell = Cell::kGruResetBefore;
  const Spot at(p.layer.sizes);
  if (!at.there) return;
  const Walk walk(p.layer, at.n);
  const int t = walk.time(k), H = walk.H, length = walk.length(at.b);
  A dg[1] = {}, saved[4], dh = static_cast<A*>(p.dh)[at.state];
  if (t < length) {
    const A before = read_saved<cell, IO>(p.layer, walk, at, t, length, saved);
    backward_gates(saved, before, read<IO>(p.d_reset_h, at.state), dh, dg);
  }
  static_cast<A*>(p.dh)[at.state] = dh;
  static_cast<IO*>(p.layer.dg)[walk.row(t, at.b, 3) + at.u] = narrow<IO>(dg[0]);
  static_cast<IO*>(p.operand)[at.state / H * 2 * H + at.u] = narrow<IO>(dg[0]);
}

// The gradients of the initial states.
template <class IO>
__global__ void finish_backward_kernel(const StepBackward p) {
  const Spot at(p.layer.sizes);
  if (!at.there) return;
  const Walk walk(p.layer, at.n);
  const int length = walk.length(at.b);
  if (p.layer.dh0) {
    static_cast<IO*>(p.layer.dh0)[at.state] = narrow<IO>(carried<IO>(p, walk, at, -1, length));
  }
  if (p.layer.dc0) {
    static_cast<IO*>(p.layer.dc0)[at.state] = narrow<IO>(carried_cell<IO>(p, walk, at, -1, length));
  }
}

}  // namespace cuda
}  // namespace fused_rnn
