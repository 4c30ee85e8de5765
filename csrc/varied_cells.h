// SPDX-License-Identifier: MIT
// The pointwise equations of cells with options (other activations, peepholes, dropout, zoneout)
// and of the sLSTM, as cells.h has those of the plain cells. What is normalised comes so.
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
                                     Peephole<V> w, V kept) {
  LstmCell<V> s;
  s.i = activate<Math>(act.gate, i_pre + w.i * c_prev);
  s.f = activate<Math>(act.gate, f_pre + w.f * c_prev);
  s.g = activate<Math>(act.other, g_pre);
  s.c = s.f * c_prev + s.i * s.g * kept;
  return s;
}

template <class V>
struct LstmExit {
  V o, h;
};

// `shown`: the cell, normalised where it is.
template <class Math, class V>
CELL_FN LstmExit<V> varied_lstm_exit(Activations act, V o_pre, V c, V shown, Peephole<V> w) {
  LstmExit<V> s;
  s.o = activate<Math>(act.gate, o_pre + w.o * c);
  s.h = s.o * activate<Math>(act.other, shown);
  return s;
}

template <class V>
struct LstmExitGrad {
  V do_, dshown;
};

template <class Math, class V>
CELL_FN LstmExitGrad<V> varied_lstm_exit_backward(Activations act, V o, V shown, V dh) {
  LstmExitGrad<V> d;
  const V out = activate<Math>(act.other, shown);
  d.do_ = activate_backward(act.gate, o, dh * out);
  d.dshown = activate_backward(act.other, out, dh * o);
  return d;
}

// dc is all that reaches c, but for what passes by by zoneout.
template <class V>
CELL_FN LstmGrad<V> varied_lstm_cell_backward(Activations act, V i, V f, V g, V c_prev, V do_, V dc,
                                              Peephole<V> w, V kept) {
  LstmGrad<V> d;
  d.do_ = do_;
  d.di = activate_backward(act.gate, i, dc * g * kept);
  d.df = activate_backward(act.gate, f, dc * c_prev);
  d.dg = activate_backward(act.other, g, dc * i * kept);
  d.dc_prev = dc * f + d.di * w.i + d.df * w.f;
  return d;
}

template <class Math, class V>
CELL_FN GruStep<V> varied_gru(Activations act, V r_pre, V z_pre, V x_n, V q, V h_prev, V kept) {
  GruStep<V> s;
  s.r = activate<Math>(act.gate, r_pre);
  s.z = activate<Math>(act.gate, z_pre);
  s.n = activate<Math>(act.other, x_n + s.r * q);
  const V n = s.n * kept;
  s.h = n + s.z * (h_prev - n);
  return s;
}

template <class V>
CELL_FN GruGrad<V> varied_gru_backward(Activations act, V r, V z, V n, V q, V h_prev, V dh,
                                       V kept) {
  GruGrad<V> d;
  d.dn = activate_backward(act.other, n, dh * (1 - z) * kept);
  d.dz = activate_backward(act.gate, z, dh * (h_prev - n * kept));
  d.dq = d.dn * r;
  d.dr = activate_backward(act.gate, r, d.dn * q);
  d.dh_prev = dh * z;
  return d;
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
