// SPDX-License-Identifier: MIT
// What follows the products of a step, a row and vector of units at a time.
#pragma once

#include "../../../cells.h"
#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::finish_gates(const Visit& a, int64_t panel, const C* sum) {
  const C* xg = xg_row(panel, a.index);
  for (int v = 0; v < kUnitVecs; ++v) {
    const int64_t u = panel * gates_.width() + v * L, lanes = s_.H - u;
    if (lanes <= 0) break;
    const auto gate = [&](int g) {
      return load(xg + (g * kUnitVecs + v) * L) + load(sum + (g * kUnitVecs + v) * L);
    };
    if constexpr (cell == Cell::kLstm) {
      C* c = shared_.c + a.p * ld_h_ + u;
      const auto s = cells::lstm_forward<M>(gate(0), gate(1), gate(2), gate(3), load(c));
      keep(a, u, lanes, {s.i, s.f, s.g, s.o, s.c});
      if (a.last) store_n<C>(row_of(args_.cn, a.b, s_.H) + u, s.c, lanes);
      store(c, a.cut ? V{} : s.c);
      if (s_.projected) {
        put_vector(shared_.inner, ld_h_, a.op, u, s.h, lanes);
      } else {
        emit(a, u, lanes, s.h);
      }
    } else if constexpr (cell == Cell::kGru) {
      constexpr int kN = 2 * kUnitVecs;
      const V q = load(sum + (kN + v) * L) + load(shared_.bias_q + u);
      const auto s =
          cells::gru_forward<M>(gate(0), gate(1), load(xg + (kN + v) * L), q, previous(a, u));
      keep(a, u, lanes, {s.r, s.z, s.n, q});
      emit(a, u, lanes, s.h);
    } else if constexpr (cell == Cell::kGruResetBefore) {
      const auto s = cells::gru_before_gates<M>(gate(0), gate(1), previous(a, u));
      if (args_.tape) store_n<C>(tape_row(a, 0) + u, s.r, lanes);
      store(shared_.z + a.p * ld_h_ + u, s.z);
      put_vector(shared_.inner, ld_h_, a.op, u, s.reset_h, lanes);
    } else {
      emit(a, u, lanes, cell == Cell::kRnnTanh ? M::tanh(gate(0)) : cells::relu(gate(0)));
    }
  }
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::finish_n(const Visit& a, int64_t panel, const C* sum) {
  const C* xg = xg_row(panel, a.index) + 2 * kUnitVecs * L;
  for (int v = 0; v < kUnitVecs; ++v) {
    const int64_t u = panel * gates_.width() + v * L, lanes = s_.H - u;
    if (lanes <= 0) break;
    const V z = load(shared_.z + a.p * ld_h_ + u);
    const auto s =
        cells::gru_before_output<M>(load(xg + v * L) + load(sum + v * L), z, previous(a, u));
    if (args_.tape) {
      store_n<C>(tape_row(a, 1) + u, z, lanes);
      store_n<C>(tape_row(a, 2) + u, s.n, lanes);
    }
    emit(a, u, lanes, s.h);
  }
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::finish_output(const Visit& a, int64_t panel, const C* sum) {
  for (int v = 0; v < kOutputVecs; ++v) {
    const int64_t u = panel * outputs_.width() + v * L, lanes = s_.P - u;
    if (lanes <= 0) break;
    emit(a, u, lanes, load(sum + v * L));
  }
}

// A step's output: into y, the final state, and the state that the next step reads.
template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::emit(const Visit& a, int64_t u, int64_t lanes, V h) {
  store_n<C>(y_row(a.row) + u, h, lanes);
  if (kKeepState && args_.tape) store_n<C>(tape_row(a, S - 1) + u, h, lanes);
  if (a.last) store_n<C>(row_of(args_.hn, a.b, s_.P) + u, h, lanes);
  const V carried = a.cut ? V{} : h;
  put_vector(next_, ld_p_, a.op, u, carried, lanes);
  if (kOwnState) store(shared_.state + a.p * ld_p_ + u, carried);
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
