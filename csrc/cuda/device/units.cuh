// SPDX-License-Identifier: MIT
// One unit of one row at one step, forward and backward: csrc/cells.h between the kernels' sums
// and the tape's slots. The textbook GRU comes in the halves that its second product separates.
#pragma once

#include "../../cells.h"
#include "../problem.h"
#include "numbers.cuh"
#include "primitives.cuh"

namespace fused_rnn {
namespace cuda {

// Gates whose input and recurrent parts are added before the activation; the GRU's n is not.
constexpr int summed_gates(Cell cell) { return cell == Cell::kGru ? 2 : gate_count(cell); }

// x: the input part of each gate with b_ih, sums: the recurrent part with b_hh. Both (G,).
// h and c are the states; saved gets the tape's slots, (S,).
template <Cell cell, class IO, class A = wide_t<IO>>
DEVICE_FN void forward_unit(bool relu, const A* x, const A* sums, A& h, A& c, A* saved) {
  using Math = Activations<IO>;
  static_assert(cell != Cell::kGruResetBefore);
  if constexpr (cell == Cell::kLstm) {
    const auto s = cells::lstm_forward<Math, A>(x[0] + sums[0], x[1] + sums[1], x[2] + sums[2],
                                                x[3] + sums[3], c);
    saved[0] = s.i, saved[1] = s.f, saved[2] = s.g, saved[3] = s.o, saved[4] = s.c;
    h = s.h;
    c = s.c;
  } else if constexpr (cell == Cell::kGru) {
    const auto s = cells::gru_forward<Math, A>(x[0] + sums[0], x[1] + sums[1], x[2], sums[2], h);
    saved[0] = s.r, saved[1] = s.z, saved[2] = s.n, saved[3] = sums[2];
    h = s.h;
  } else {
    h = relu ? cells::relu<A>(x[0] + sums[0]) : Math::tanh(x[0] + sums[0]);
  }
}

// The textbook GRU: the gates and r * h first, then n and the state.
template <class IO, class A = wide_t<IO>>
DEVICE_FN A forward_gates(const A* x, const A* sums, A h, A* saved) {
  const auto s = cells::gru_before_gates<Activations<IO>, A>(x[0] + sums[0], x[1] + sums[1], h);
  saved[0] = s.r, saved[1] = s.z;
  return s.reset_h;
}
template <class IO, class A = wide_t<IO>>
DEVICE_FN void forward_output(A x_n, A sum_n, A& h, A* saved) {
  const auto s = cells::gru_before_output<Activations<IO>, A>(x_n + sum_n, saved[1], h);
  saved[2] = s.n;
  h = s.h;
}

// saved: the tape's slots (S,), for a plain network h itself; before: c_{t-1} of the LSTM, else
// h_{t-1}. dh: the whole gradient of h_t, dc: what reaches c_t from later steps, and then what
// reaches c_{t-1}. Gives dg (D,), and dh without the products, the direct path to h_{t-1}.
template <Cell cell, class IO, class A = wide_t<IO>>
DEVICE_FN void backward_unit(bool relu, const A* saved, A before, A& dh, A& dc, A* dg) {
  using Math = Activations<IO>;
  static_assert(cell != Cell::kGruResetBefore);
  if constexpr (cell == Cell::kLstm) {
    const auto d = cells::lstm_backward<Math, A>(saved[0], saved[1], saved[2], saved[3], saved[4],
                                                 before, dh, dc);
    dg[0] = d.di, dg[1] = d.df, dg[2] = d.dg, dg[3] = d.do_;
    dc = d.dc_prev;
    dh = 0;
  } else if constexpr (cell == Cell::kGru) {
    const auto d = cells::gru_backward<A>(saved[0], saved[1], saved[2], saved[3], before, dh);
    dg[0] = d.dr, dg[1] = d.dz, dg[2] = d.dn, dg[3] = d.dq;
    dh = d.dh_prev;
  } else {
    dg[0] = relu ? cells::relu_backward<A>(saved[0], dh) : cells::tanh_backward<A>(saved[0], dh);
    dh = 0;
  }
}

// The textbook GRU: n and z first; then r, once d_reset_h = dn W_hn is there.
template <class A>
DEVICE_FN void backward_output(const A* saved, A before, A& dh, A* dg) {
  const auto d = cells::gru_before_output_backward<A>(saved[1], saved[2], before, dh);
  dg[1] = d.dz, dg[2] = d.dn;
  dh = d.dh_prev;
}
template <class A>
DEVICE_FN void backward_gates(const A* saved, A before, A d_reset_h, A& dh, A* dg) {
  const auto d = cells::gru_before_gates_backward<A>(saved[0], before, d_reset_h);
  dg[0] = d.dr;
  dh = dh + d.dh_prev;
}

// The column of dg that meets recurrent weight row block g: the GRU's n row meets dq.
constexpr int recurrent_column(Cell cell, int g) { return cell == Cell::kGru && g == 2 ? 3 : g; }

}  // namespace cuda
}  // namespace fused_rnn
