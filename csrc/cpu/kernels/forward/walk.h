// SPDX-License-Identifier: MIT
// The walk through time: projections of a few steps' rows, then their steps.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
inline void ForwardPass<IO, Op, cell>::walk(Team& team) {
  for (int64_t k = 0; k < s_.T; k += steps_) {
    const int64_t steps = min(steps_, s_.T - k);
    project(k, steps);
    int64_t offset = 0;
    for (int64_t i = k; i < k + steps; ++i) {
      step(team, i, offset);
      offset += rows_.active(rows_.time(i));
    }
  }
}

template <class IO, class Op, Cell cell>
inline void ForwardPass<IO, Op, cell>::project(int64_t k, int64_t steps) {
  int64_t count = 0;
  for (int64_t i = k; i < k + steps; ++i) {
    const int64_t t = rows_.time(i), active = rows_.active(t);
    for (int64_t j = 0; j < active; ++j) {
      const int64_t b = args_.rows.order[rows_.position(j)];
      const IO* x = static_cast<const IO*>(args_.x) + rows_.row(t, b) * s_.I;
      x_rows_[count] = operand(x, count);
      ++count;
    }
  }
  for (int64_t p = panels_.begin; p < panels_.end; ++p) {
    project_panel(shared_.input, p, count, 0);
    if (kSplitGates) project_panel(shared_.input_n, p, count, 2 * kUnitVecs * L);
  }
}

template <class IO, class Op, Cell cell>
inline void ForwardPass<IO, Op, cell>::project_panel(const Product& product, int64_t panel,
                                                     int64_t count, int64_t column) {
  if constexpr (!kStored<Op>) {
    if (product.at_use) pack(product, panel);
  }
  const C* bias = shared_.bias + panel * kPanelColumns + column;
  cut_rows(product, panel, count, [&](int64_t first, int64_t rows) {
    multiply(product, panel, x_rows_ + first, rows, bias, xg_row(panel, first) + column,
             kPanelColumns);
  });
}

template <class IO, class Op, Cell cell>
inline auto ForwardPass<IO, Op, cell>::operand(const IO* x, int64_t index) -> const Factor* {
  if constexpr (std::is_same<IO, Factor>::value) {
    if (s_.I == ld_x_) return x;
  }
  put_row(converted_, ld_x_, index, x, s_.I);
  return converted_ + index * ld_x_;
}

template <class IO, class Op, Cell cell>
inline auto ForwardPass<IO, Op, cell>::factors(const Row* rows, int64_t ld, int64_t K,
                                               int64_t active) const -> Factors {
  if constexpr (std::is_same<Row, Factor>::value) {
    return {rows, ld};
  } else {
    const int64_t narrow = factor_ld<Op>(K);
    for (int64_t j = 0; j < active; ++j) {
      put_row(factors_, narrow, j, rows + operand_row(j) * ld, K);
    }
    return {factors_, narrow};
  }
}

template <class IO, class Op, Cell cell>
inline Visit ForwardPass<IO, Op, cell>::visit(int64_t j, int64_t t, int64_t offset) const {
  const int64_t p = rows_.position(j), b = args_.rows.order[p], length = args_.rows.length_at[p];
  Visit found;
  found.p = p;
  found.b = b;
  found.index = offset + j;
  found.row = rows_.row(t, b);
  found.op = operand_row(j);
  found.cut = rows_.cut_after(t, b, length);
  found.last = rows_.last(t, length);
  return found;
}

template <class IO, class Op, Cell cell>
inline void ForwardPass<IO, Op, cell>::step(Team& team, int64_t k, int64_t offset) {
  const int64_t t = rows_.time(k), active = rows_.active(t);
  now_ = shared_.h[k & 1];
  next_ = shared_.h[(k & 1) ^ 1];
  const Factors h = factors(now_, ld_p_, s_.P, active);
  panels_.at_step(k, [&](int64_t p) {
    for_products(shared_.hidden, p, h, active,
                 [&](int64_t j, const C* sum) { finish_gates(visit(j, t, offset), p, sum); });
  });
  if constexpr (kSplitGates) {
    place_.wait_units(team);
    const Factors reset_h = factors(shared_.inner, ld_h_, s_.H, active);
    panels_.at_step(k, [&](int64_t p) {
      for_products(shared_.hidden_n, p, reset_h, active,
                   [&](int64_t j, const C* sum) { finish_n(visit(j, t, offset), p, sum); });
    });
  }
  if (s_.projected) {
    place_.wait_units(team);
    const Range mine(outputs_.panels(), place_.unit_group, split_.unit_groups);
    const Factors inner = factors(shared_.inner, ld_h_, s_.H, active);
    for (int64_t p = mine.begin; p < mine.end; ++p) {
      for_products(shared_.output, p, inner, active,
                   [&](int64_t j, const C* sum) { finish_output(visit(j, t, offset), p, sum); });
    }
  }
  place_.wait_units(team);
}

template <class IO, class Op, Cell cell>
template <class F>
inline void ForwardPass<IO, Op, cell>::for_products(const Product& product, int64_t panel,
                                                    const Factors& factors, int64_t active, F f) {
  alignas(64) C sums[kBlockRows<Op> * kMostVecs * L];
  const Factor* a[kBlockRows<Op>];
  const int vecs = product.map.used_vecs(panel);
  cut_rows(product, panel, active, [&](int64_t first, int64_t count) {
    for (int64_t r = 0; r < count; ++r) a[r] = factor_row(factors, first + r);
    multiply(product, panel, a, count, nullptr, sums, vecs * L);
    for (int64_t r = 0; r < count; ++r) f(first + r, sums + r * vecs * L);
  });
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
