// SPDX-License-Identifier: MIT
// The pointwise parts of a step back, a row and vector of units at a time.
#pragma once

#include "../../../cells.h"
#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::gather_output(const Visit& a) {
  for (int64_t u = columns_.begin * kPlainVecs * L; u < min(columns_.end * kPlainVecs * L, s_.P);
       u += L) {
    const V dh = output_grad(a, u, s_.P - u);
    store_n<C>(shared_.dout + a.index * ld_p_ + u, dh, s_.P - u);
    if constexpr (kCopy) put_vector(shared_.dout_op, ld_p_, a.op, u, dh, s_.P - u);
  }
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::put(const Visit& a, int slot, int64_t u, int64_t lanes, V value) {
  const int64_t column = slot * gate_ + u;
  store_n<C>(shared_.dg + a.index * ld_g_ + column, value, lanes);
  if constexpr (kCopy) put_vector(dg_now_, ld_op_, a.op, column, value, lanes);
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::gates(const Visit& a, int64_t u, int64_t lanes, V dh) {
  C* direct = shared_.dh + a.p * ld_p_ + u;
  if constexpr (cell == Cell::kLstm) {
    C* dc = shared_.dc + a.p * ld_h_ + u;
    const auto d = cells::lstm_backward<M>(
        saved(a, 0, u, lanes), saved(a, 1, u, lanes), saved(a, 2, u, lanes), saved(a, 3, u, lanes),
        saved(a, 4, u, lanes), previous_c(a, u, lanes), dh, cell_grad(a, u, lanes));
    put(a, 0, u, lanes, d.di);
    put(a, 1, u, lanes, d.df);
    put(a, 2, u, lanes, d.dg);
    put(a, 3, u, lanes, d.do_);
    store(dc, a.cut ? V{} : d.dc_prev);
  } else if constexpr (kGru) {
    const auto d =
        cells::gru_backward(saved(a, 0, u, lanes), saved(a, 1, u, lanes), saved(a, 2, u, lanes),
                            saved(a, 3, u, lanes), previous_h(a, u, lanes), dh);
    put(a, 0, u, lanes, d.dn);
    put(a, 1, u, lanes, d.dr);
    put(a, 2, u, lanes, d.dz);
    put(a, 3, u, lanes, d.dq);
    store(direct, d.dh_prev);
  } else if constexpr (kBefore) {
    const auto d = cells::gru_before_output_backward(saved(a, 1, u, lanes), saved(a, 2, u, lanes),
                                                     previous_h(a, u, lanes), dh);
    put(a, 0, u, lanes, d.dn);
    put(a, 2, u, lanes, d.dz);
    store(direct, d.dh_prev);
  } else {
    const V h = state(a.row, u, lanes);
    put(a, 0, u, lanes,
        cell == Cell::kRnnTanh ? cells::tanh_backward(h, dh) : cells::relu_backward(h, dh));
  }
}

// The textbook GRU's r, once the gradient of r * h is there.
template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::reset_gate(const Visit& a, int64_t u, int64_t lanes, V d_reset_h) {
  const auto d =
      cells::gru_before_gates_backward(saved(a, 0, u, lanes), previous_h(a, u, lanes), d_reset_h);
  put(a, 1, u, lanes, d.dr);
  C* direct = shared_.dh + a.p * ld_p_ + u;
  store(direct, load(direct) + d.dh_prev);
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
