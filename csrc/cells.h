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

}  // namespace cells
}  // namespace fused_rnn
