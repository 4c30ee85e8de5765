// SPDX-License-Identifier: MIT
// The pointwise equations of every cell, forward and backward, once for host and device.
//
// V is whatever holds one value per hidden unit (a CPU vector, a CUDA float), Math gives
// sigmoid(V) and tanh(V), and keep(V), the sigmoid of gates that keep the state: over many steps
// their distance from 1 counts. Matrix products are the caller's; see
// fused_rnn/backends/reference for the equations as a whole. Gate order is PyTorch's.
#pragma once

#ifdef __CUDACC__
#define CELL_FN __device__ __forceinline__
#else
#define CELL_FN static inline __attribute__((always_inline))
#endif

namespace fused_rnn {
namespace cells {

template <class V>
struct LstmStep {
  V i, f, g, o, c, h;
};

template <class Math, class V>
CELL_FN LstmStep<V> lstm_forward(V i_pre, V f_pre, V g_pre, V o_pre, V c_prev) {
  LstmStep<V> s;
  s.i = Math::sigmoid(i_pre);
  s.f = Math::keep(f_pre);
  s.g = Math::tanh(g_pre);
  s.o = Math::sigmoid(o_pre);
  s.c = s.f * c_prev + s.i * s.g;
  s.h = s.o * Math::tanh(s.c);
  return s;
}

template <class V>
struct LstmGrad {
  V di, df, dg, do_, dc_prev;
};

// Gradients of the pre-activations; dc is the gradient that reaches c from later steps.
template <class Math, class V>
CELL_FN LstmGrad<V> lstm_backward(V i, V f, V g, V o, V c, V c_prev, V dh, V dc) {
  LstmGrad<V> d;
  const V tanh_c = Math::tanh(c);
  dc = dc + dh * o * (1 - tanh_c * tanh_c);
  d.di = dc * g * i * (1 - i);
  d.df = dc * c_prev * f * (1 - f);
  d.dg = dc * i * (1 - g * g);
  d.do_ = dh * tanh_c * o * (1 - o);
  d.dc_prev = dc * f;
  return d;
}

template <class V>
struct GruStep {
  V r, z, n, h;
};

// reset_after=True: x_n is the input part of n, q = h_prev W_hn + b_hn.
template <class Math, class V>
CELL_FN GruStep<V> gru_forward(V r_pre, V z_pre, V x_n, V q, V h_prev) {
  GruStep<V> s;
  s.r = Math::sigmoid(r_pre);
  s.z = Math::keep(z_pre);
  s.n = Math::tanh(x_n + s.r * q);
  s.h = s.n + s.z * (h_prev - s.n);
  return s;
}

template <class V>
struct GruGrad {
  V dr, dz, dn, dq, dh_prev;
};

// dh_prev holds the direct path only, without the products.
template <class V>
CELL_FN GruGrad<V> gru_backward(V r, V z, V n, V q, V h_prev, V dh) {
  GruGrad<V> d;
  d.dn = dh * (1 - z) * (1 - n * n);
  d.dz = dh * (h_prev - n) * z * (1 - z);
  d.dr = d.dn * q * r * (1 - r);
  d.dq = d.dn * r;
  d.dh_prev = dh * z;
  return d;
}

// reset_after=False, in the two halves that the product (r * h_prev) W_hn separates.
template <class V>
struct GruGates {
  V r, z, reset_h;
};

template <class Math, class V>
CELL_FN GruGates<V> gru_before_gates(V r_pre, V z_pre, V h_prev) {
  GruGates<V> s;
  s.r = Math::sigmoid(r_pre);
  s.z = Math::keep(z_pre);
  s.reset_h = s.r * h_prev;
  return s;
}

template <class V>
struct GruOutput {
  V n, h;
};

template <class Math, class V>
CELL_FN GruOutput<V> gru_before_output(V n_pre, V z, V h_prev) {
  GruOutput<V> s;
  s.n = Math::tanh(n_pre);
  s.h = s.n + z * (h_prev - s.n);
  return s;
}

template <class V>
struct GruOutputGrad {
  V dn, dz, dh_prev;
};

template <class V>
CELL_FN GruOutputGrad<V> gru_before_output_backward(V z, V n, V h_prev, V dh) {
  GruOutputGrad<V> d;
  d.dn = dh * (1 - z) * (1 - n * n);
  d.dz = dh * (h_prev - n) * z * (1 - z);
  d.dh_prev = dh * z;
  return d;
}

template <class V>
struct GruGatesGrad {
  V dr, dh_prev;
};

// d_reset_h = dn W_hn is the gradient of r * h_prev.
template <class V>
CELL_FN GruGatesGrad<V> gru_before_gates_backward(V r, V h_prev, V d_reset_h) {
  GruGatesGrad<V> d;
  d.dr = d_reset_h * h_prev * r * (1 - r);
  d.dh_prev = d_reset_h * r;
  return d;
}

template <class V>
CELL_FN V relu(V pre) {
  return pre < V{} ? V{} : pre;
}

template <class V>
CELL_FN V tanh_backward(V h, V dh) {
  return dh * (1 - h * h);
}

template <class V>
CELL_FN V relu_backward(V h, V dh) {
  return h <= V{} ? V{} : dh;  // NaN goes on
}

// ---- Cells with options: other activations, peepholes, normalised sums, dropout, zoneout.

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
