// SPDX-License-Identifier: MIT
// The gradients of a row at a step, from what reaches its states to its gates.
#pragma once

#include "backward.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class C, Cell cell>
void VariedBackwardPass<C, cell>::lstm(const Step& at) const {
  const int64_t H = s_.H;
  const auto act = given_.options.activations;
  // The cell before zoneout.
  for (int64_t u = 0; u < H; u += L) {
    const int64_t n = min(H - u, L);
    store(cells_ + u, saved(at, 1, u, n) * value(at.c_prev, u, n) +
                          saved(at, 0, u, n) * saved(at, 2, u, n) * Base::kept(u));
  }
  const C *scale = Base::of_units(given_.c_scale, H), *bias = Base::of_units(given_.c_bias, H);
  Moments<C> of{};
  if (scale) of = moments(cells_, H, given_.options.eps);
  V sum{}, sum_normal{};
  for (int64_t u = 0; u < H; u += L) {
    const int64_t n = min(H - u, L);
    const V dh = output_grad(at, u, n), hold = Base::hold(u);
    store(shared_.passed + at.p * ld_ + u, dh * hold);
    V shown = load_n<C>(cells_ + u, n), normal{};
    if (scale) {
      normal = of.normal(cells_ + u, n);
      shown = normal * load_n<C>(scale + u, n) + load_n<C>(bias + u, n);
    }
    auto clip = Base::clip(beyond(at, u, n));
    const auto d =
        cells::varied_lstm_exit_backward<M>(act, saved(at, 3, u, n), shown, dh - dh * hold, clip);
    V dshown = d.dshown;
    if (scale) {
      add(kCScale, u, dshown * normal);
      add(kCBias, u, dshown);
      dshown = dshown * load_n<C>(scale + u, n);
      sum += dshown;
      sum_normal += dshown * normal;
    }
    store(grads_ + u, dshown);
    store_n<C>(at.dx + 3 * H + u, d.do_, n);
  }
  const C mean = sum_of_lanes<C>(sum) / C(H), mean_normal = sum_of_lanes<C>(sum_normal) / C(H);
  for (int64_t u = 0; u < H; u += L) {
    const int64_t n = min(H - u, L);
    const auto w = Base::peephole(u, n);
    const V c = load_n<C>(cells_ + u, n), do_ = load_n<C>(at.dx + 3 * H + u, n);
    V dc = load(grads_ + u);
    if (scale) dc = of.backward(dc, of.normal(cells_ + u, n), mean, mean_normal);
    C* carried = dcell_at(at.p, 0) + u;
    const V reached = (at.cut ? V{} : load(carried)) + shown_grad(at, 0, u, n);
    const V hold = Base::hold_cell(u);
    const V c_prev = value(at.c_prev, u, n);
    auto clip = Base::clip(beyond(at, u, n));
    const auto d = cells::varied_lstm_cell_backward(
        act, saved(at, 0, u, n), saved(at, 1, u, n), saved(at, 2, u, n), c_prev, do_,
        dc + do_ * w.o + (reached - reached * hold), w, Base::kept(u), clip);
    store_n<C>(carried, d.dc_prev + reached * hold, n);
    store_n<C>(at.dx + u, d.di, n);
    store_n<C>(at.dx + H + u, d.df, n);
    store_n<C>(at.dx + 2 * H + u, d.dg, n);
    if (!args_.dpeephole) continue;
    add(kPeephole, u, d.di * c_prev);
    add(kPeephole + 1, u, d.df * c_prev);
    add(kPeephole + 2, u, do_ * c);
  }
}

template <class C, Cell cell>
void VariedBackwardPass<C, cell>::slstm(const Step& at) const {
  const int64_t H = s_.H;
  for (int64_t u = 0; u < H; u += L) {
    const int64_t lanes = min(H - u, L);
    C* carried[] = {dcell_at(at.p, 0) + u, dcell_at(at.p, 1) + u, dcell_at(at.p, 2) + u};
    V d[3] = {};
    for (int i = 0; i < 3 && !at.cut; ++i) d[i] = load(carried[i]);
    const V c = saved(at, 4, u, lanes), n = saved(at, 5, u, lanes);
    // From the last step on, the gradient by m is the one in other units (cells.h).
    if (at.after < 0) d[2] -= c * d[0] + n * d[1];
    V own[3];
    for (int i = 0; i < 3; ++i) own[i] = shown_grad(at, i, u, lanes);
    own[2] -= c * own[0] + n * own[1];
    for (int i = 0; i < 3; ++i) d[i] += own[i];
    const V c_prev = value(at.c_prev, u, lanes), n_prev = value(at.n_prev, u, lanes);
    const auto g = cells::slstm_backward(saved(at, 0, u, lanes), saved(at, 1, u, lanes),
                                         saved(at, 6, u, lanes), saved(at, 2, u, lanes),
                                         saved(at, 3, u, lanes), c, n, c_prev, n_prev,
                                         output_grad(at, u, lanes), d[0], d[1], d[2]);
    store_n<C>(carried[0], g.dc_prev, lanes);
    store_n<C>(carried[1], g.dn_prev, lanes);
    store_n<C>(carried[2], g.dm_prev, lanes);
    const V to_x[] = {g.di, g.df, g.dz, g.do_};
    for (int i = 0; i < G; ++i) store_n<C>(at.dx + i * H + u, to_x[i], lanes);
    store(shared_.passed + at.p * ld_ + u, V{});
  }
}

template <class C, Cell cell>
void VariedBackwardPass<C, cell>::others(const Step& at) const {
  const int64_t H = s_.H;
  const auto act = given_.options.activations;
  for (int64_t u = 0; u < H; u += L) {
    const int64_t n = min(H - u, L);
    const V dh = output_grad(at, u, n), hold = Base::hold(u);
    V passed = dh * hold;
    const V dnext = dh - passed;
    auto clip = Base::clip(beyond(at, u, n));
    if constexpr (cell == Cell::kGru) {
      const auto d = cells::varied_gru_backward(act, saved(at, 0, u, n), saved(at, 1, u, n),
                                                saved(at, 2, u, n), saved(at, 3, u, n),
                                                value(at.h_prev, u, n), dnext, Base::kept(u), clip);
      passed += d.dh_prev;
      const V to_x[] = {d.dr, d.dz, d.dn}, to_parts[] = {d.dr, d.dz, d.dq};
      for (int g = 0; g < G; ++g) {
        store_n<C>(at.dx + g * H + u, to_x[g], n);
        store_n<C>(at.dparts + g * H + u, to_parts[g], n);
      }
    } else {
      const V da = cells::varied_rnn_backward(act.other, saved(at, 0, u, n), dnext, clip);
      store_n<C>(at.dx + u, da, n);
    }
    store(shared_.passed + at.p * ld_ + u, passed);
  }
}

// Adds a row's gradients to those of the biases.
template <class C, Cell cell>
void VariedBackwardPass<C, cell>::add_bias(const Step& at) const {
  const C* of_parts = cell == Cell::kGru ? at.dparts : at.dx;
  for (int g = 0; g < G; ++g) {
    for (int64_t u = 0; u < s_.H; u += L) {
      const int64_t n = min(s_.H - u, L);
      if (args_.db_hh) add(kHBias + g, u, load_n<C>(of_parts + g * s_.H + u, n));
      if (args_.dx_bias) add(kXBias + g, u, load_n<C>(at.dx + g * s_.H + u, n));
    }
  }
}

// The gradient of a part's raw values in place of its own.
template <class C, Cell cell>
void VariedBackwardPass<C, cell>::through_norm(const Part& part, C* grad, int sums) const {
  const int64_t H = s_.H;
  for (int g = 0; g < G; ++g) {
    const Moments<C>& of = part.of[g];
    const C *raw = part.raw + g * H, *scale = part.scale + g * H;
    C* d = grad + g * H;
    V sum{}, sum_normal{};
    for (int64_t u = 0; u < H; u += L) {
      const int64_t n = min(H - u, L);
      const V normal = of.normal(raw + u, n), dy = load_n<C>(d + u, n);
      add(sums + g, u, dy * normal);
      const V dn = dy * load_n<C>(scale + u, n);
      sum += dn;
      sum_normal += dn * normal;
    }
    const C mean = sum_of_lanes<C>(sum) / C(H), mean_normal = sum_of_lanes<C>(sum_normal) / C(H);
    for (int64_t u = 0; u < H; u += L) {
      const int64_t n = min(H - u, L);
      const V dn = load_n<C>(d + u, n) * load_n<C>(scale + u, n);
      store_n<C>(d + u, of.backward(dn, of.normal(raw + u, n), mean, mean_normal), n);
    }
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
