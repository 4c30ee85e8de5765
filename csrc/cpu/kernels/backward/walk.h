// SPDX-License-Identifier: MIT
// The walk back through time.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
inline void BackwardPass<IO, Op, cell>::walk(Team& team, bool first_recurrence) {
  for (int64_t end = s_.T; end > 0; end -= steps_) {
    const int64_t begin = max(0, end - steps_);
    int64_t offset = 0;
    for (int64_t k = end - 1; k >= begin; --k) {
      step(team, rows_.time(k), offset, k > 0 || args_.dh0);
      offset += args_.rows.active[rows_.time(k)];
    }
    place_.wait_recurrence(team);
    finish_chunk(team, begin, end, offset, first_recurrence);
    place_.wait_recurrence(team);
  }
  write_states();
  if (args_.dweights) write_weights();
}

template <class IO, class Op, Cell cell>
inline Visit BackwardPass<IO, Op, cell>::visit_position(int64_t p, int64_t t, int64_t offset,
                                                        int64_t op) const {
  const int64_t b = args_.rows.order[p], length = args_.rows.length_at[p];
  const int64_t before = rows_.reverse ? t + 1 : t - 1;
  Visit found;
  found.p = p;
  found.b = b;
  found.index = offset + p;
  found.row = rows_.row(t, b);
  found.before = rows_.first(t, length) ? -1 : rows_.row(before, b);
  found.op = op;
  found.cut = rows_.cut_before(t, b, length);
  return found;
}

template <class IO, class Op, Cell cell>
inline void BackwardPass<IO, Op, cell>::step(Team& team, int64_t t, int64_t offset, bool go_on) {
  const int64_t active = rows_.active(t);
  dg_now_ = shared_.dg_op;
  // Another thread may still read what the step before left in its tiles.
  if (kTiled<Op> && (t & 1)) dg_now_ += operand_rows() * ld_op_;
  if (s_.projected) {
    for (int64_t j = 0; j < active; ++j) gather_output(visit(j, t, offset));
    place_.wait_units(team);
    for (int64_t p = units_.begin; p < units_.end; ++p) {
      for_products(shared_.output, p, shared_.dout_op, ld_p_, t, offset,
                   [&](const Visit& a, int64_t u, int64_t lanes, V dh) { gates(a, u, lanes, dh); });
    }
  } else {
    for (int64_t j = 0; j < active; ++j) {
      const Visit a = visit(j, t, offset);
      for (int64_t u = units_.begin * kPlainVecs * L; u < units_end(); u += L) {
        gates(a, u, s_.H - u, output_grad(a, u, s_.H - u));
      }
    }
  }
  place_.wait_units(team);
  if (kBefore) {
    units_.at_step(t, [&](int64_t p) {
      for_products(
          shared_.hidden_n, p, dg_now_, ld_op_, t, offset,
          [&](const Visit& a, int64_t u, int64_t lanes, V d) { reset_gate(a, u, lanes, d); });
    });
    place_.wait_units(team);
  }
  if (!go_on) return;
  columns_.at_step(t, [&](int64_t p) {
    for_products(shared_.hidden, p, at_column(dg_now_, kHiddenSlot * gate_), ld_op_, t, offset,
                 [&](const Visit& a, int64_t u, int64_t, V sum) {
                   C* dh = shared_.dh + a.p * ld_p_ + u;
                   if (kGru || kBefore) sum += load(dh);
                   store(dh, a.cut ? V{} : sum);
                 });
  });
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
