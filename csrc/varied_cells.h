// SPDX-License-Identifier: MIT
// The pointwise equations of cells with options (other activations, bounds, peepholes, dropout,
// zoneout) and of the sLSTM, as cells.h has those of the plain cells. What is normalised comes so.
#pragma once

#include "cells.h"

namespace fused_rnn {
namespace cells {

enum class Activation { kTanh, kSigmoid, kRelu, kHardSigmoid };

template <class V>
CELL_FN V hard_sigmoid(V pre) {  // a sixth of pre + 3, cut off at 0 and 1
  const V zero{}, six = zero + 6, shifted = pre + 3;
  const V low = shifted < zero ? zero : shifted;
  return (low > six ? six : low) / 6;
}

template <class Math, class V>
CELL_FN V activate(Activation kind, V pre) {
  switch (kind) {
    case Activation::kTanh:
      return Math::tanh(pre);
    case Activation::kSigmoid:
      return Math::sigmoid(pre);
    case Activation::kRelu:
      return relu(pre);
    default:
      return hard_sigmoid(pre);
  }
}

// dy times the slope at the place whose value is y.
template <class V>
CELL_FN V activate_backward(Activation kind, V y, V dy) {
  const V zero{}, one = zero + 1;
  switch (kind) {
    case Activation::kTanh:
      return dy * (1 - y * y);
    case Activation::kSigmoid:
      return dy * y * (1 - y);
    case Activation::kRelu:
      return y <= zero ? zero : dy;
    default:
      return y <= zero ? zero : y >= one ? zero : dy / 6;
  }
}

// Bounds what gates are activated at to -limit..limit, where it is on. `beyond` tells the backward
// pass which of them lay beyond: it is the sum of their 2^gate, numbered in PyTorch's order.
template <class V>
struct Clip {
  bool on;
  V limit, beyond;
};

template <int gate, class V>
CELL_FN V clipped(V pre, Clip<V>& clip) {
  if (!clip.on) return pre;
  const V zero{}, own = zero + (1 << gate);
  const V low = pre < -clip.limit ? -clip.limit : pre;
  const V within = low > clip.limit ? clip.limit : low;
  clip.beyond += within == pre ? zero : own;
  return within;
}

// What of d passes back. From the last gate to the first: each takes its own off `beyond`.
template <int gate, class V>
CELL_FN V clipped_backward(V d, Clip<V>& clip) {
  if (!clip.on) return d;
  const V zero{}, own = zero + (1 << gate), passed = clip.beyond < own ? d : zero;
  clip.beyond = clip.beyond < own ? clip.beyond : clip.beyond - own;
  return passed;
}

// Zoneout: `hold` is 1 where the state before is held, 0 where not, or the probability of it.
template <class V>
CELL_FN V held(V next, V prev, V hold) {
  const V zero{}, one = zero + 1, mixed = next * (1 - hold) + prev * hold;
  const V chosen = hold == one ? prev : mixed;
  return hold == zero ? next : chosen;
}

// Activations of the gates, and of the candidate and the output.
struct Activations {
  Activation gate, other;
};

template <class V>
struct Peephole {
  V i, f, o;
};

template <class V>
struct LstmCell {
  V i, f, g, c;
};

// `kept`: what dropout leaves of the candidate, 1 / (1 - p) or 0.
template <class Math, class V>
CELL_FN LstmCell<V> varied_lstm_cell(Activations act, V i_pre, V f_pre, V g_pre, V c_prev,
                                     Peephole<V> w, V kept, Clip<V>& clip) {
  LstmCell<V> s;
  s.i = activate<Math>(act.gate, clipped<0>(i_pre + w.i * c_prev, clip));
  s.f = activate<Math>(act.gate, clipped<1>(f_pre + w.f * c_prev, clip));
  s.g = activate<Math>(act.other, clipped<2>(g_pre, clip));
  s.c = s.f * c_prev + s.i * s.g * kept;
  return s;
}

template <class V>
struct LstmExit {
  V o, h;
};

// `shown`: the cell, normalised where it is.
template <class Math, class V>
CELL_FN LstmExit<V> varied_lstm_exit(Activations act, V o_pre, V c, V shown, Peephole<V> w,
                                     Clip<V>& clip) {
  LstmExit<V> s;
  s.o = activate<Math>(act.gate, clipped<3>(o_pre + w.o * c, clip));
  s.h = s.o * activate<Math>(act.other, shown);
  return s;
}

template <class V>
struct LstmExitGrad {
  V do_, dshown;
};

template <class Math, class V>
CELL_FN LstmExitGrad<V> varied_lstm_exit_backward(Activations act, V o, V shown, V dh,
                                                  Clip<V>& clip) {
  LstmExitGrad<V> d;
  const V out = activate<Math>(act.other, shown);
  d.do_ = clipped_backward<3>(activate_backward(act.gate, o, dh * out), clip);
  d.dshown = activate_backward(act.other, out, dh * o);
  return d;
}

// dc is all that reaches c, but for what passes by by zoneout.
template <class V>
CELL_FN LstmGrad<V> varied_lstm_cell_backward(Activations act, V i, V f, V g, V c_prev, V do_, V dc,
                                              Peephole<V> w, V kept, Clip<V>& clip) {
  LstmGrad<V> d;
  d.do_ = clipped_backward<3>(do_, clip);
  d.dg = clipped_backward<2>(activate_backward(act.other, g, dc * i * kept), clip);
  d.df = clipped_backward<1>(activate_backward(act.gate, f, dc * c_prev), clip);
  d.di = clipped_backward<0>(activate_backward(act.gate, i, dc * g * kept), clip);
  d.dc_prev = dc * f + d.di * w.i + d.df * w.f;
  return d;
}

template <class Math, class V>
CELL_FN GruStep<V> varied_gru(Activations act, V r_pre, V z_pre, V x_n, V q, V h_prev, V kept,
                              Clip<V>& clip) {
  GruStep<V> s;
  s.r = activate<Math>(act.gate, clipped<0>(r_pre, clip));
  s.z = activate<Math>(act.gate, clipped<1>(z_pre, clip));
  s.n = activate<Math>(act.other, clipped<2>(x_n + s.r * q, clip));
  const V n = s.n * kept;
  s.h = n + s.z * (h_prev - n);
  return s;
}

template <class V>
CELL_FN GruGrad<V> varied_gru_backward(Activations act, V r, V z, V n, V q, V h_prev, V dh, V kept,
                                       Clip<V>& clip) {
  GruGrad<V> d;
  d.dn = clipped_backward<2>(activate_backward(act.other, n, dh * (1 - z) * kept), clip);
  d.dz = clipped_backward<1>(activate_backward(act.gate, z, dh * (h_prev - n * kept)), clip);
  d.dq = d.dn * r;
  d.dr = clipped_backward<0>(activate_backward(act.gate, r, d.dn * q), clip);
  d.dh_prev = dh * z;
  return d;
}

template <class Math, class V>
CELL_FN V varied_rnn(Activation act, V pre, Clip<V>& clip) {
  return activate<Math>(act, clipped<0>(pre, clip));
}

template <class V>
CELL_FN V varied_rnn_backward(Activation act, V h, V dh, Clip<V>& clip) {
  return clipped_backward<0>(activate_backward(act, h, dh), clip);
}

// sLSTM (Beck et al. 2024, "xLSTM", equations 8 to 17): exponential gates, with c and n in units of
// exp(m). Where n is zero nothing has been stored: m begins with the input gate.
template <class V>
struct SlstmStep {
  V i, f, z, o, c, n, m, h, open;  // open: the forget gate's sigmoid
};

template <class Math, class V>
CELL_FN SlstmStep<V> slstm_forward(V i_pre, V f_pre, V z_pre, V o_pre, V c_prev, V n_prev,
                                   V m_prev) {
  SlstmStep<V> s;
  const V zero{}, kept = m_prev + Math::log_sigmoid(f_pre);
  const V most = kept < i_pre ? i_pre : kept;
  s.m = n_prev == zero ? i_pre : most;
  s.i = Math::exp(i_pre - s.m);
  const V f = Math::exp(kept < s.m ? kept - s.m : zero);
  s.f = n_prev == zero ? zero : f;
  s.open = Math::sigmoid(f_pre);
  s.z = Math::tanh(z_pre);
  s.o = Math::sigmoid(o_pre);
  s.c = s.f * c_prev + s.i * s.z;
  s.n = s.f * n_prev + s.i;
  s.h = s.o * s.c / s.n;
  return s;
}

template <class V>
struct SlstmGrad {
  V di, df, dz, do_, dc_prev, dn_prev, dm_prev;
};

// dm is the gradient by m where c and n in other units stay what they are: h does not depend on
// it, and it goes to whichever gate was the larger.
template <class V>
CELL_FN SlstmGrad<V> slstm_backward(V i, V f, V open, V z, V o, V c, V n, V c_prev, V n_prev, V dh,
                                    V dc, V dn, V dm) {
  SlstmGrad<V> d;
  const V zero{}, one = zero + 1, mean = c / n, dmean = dh * o / n;
  d.do_ = dh * mean * o * (1 - o);
  dc = dc + dmean;
  dn = dn - dmean * mean;
  const V from_i = i >= one ? dm : zero;
  d.di = (dc * z + dn) * i + from_i;
  d.df = ((dc * c_prev + dn * n_prev) * f + (dm - from_i)) * (1 - open);
  d.dz = dc * i * (1 - z * z);
  d.dc_prev = dc * f;
  d.dn_prev = dn * f;
  d.dm_prev = dm - from_i;
  return d;
}

}  // namespace cells
}  // namespace fused_rnn
