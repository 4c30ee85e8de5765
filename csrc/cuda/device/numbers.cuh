// SPDX-License-Identifier: MIT
// The formats of tensors, the type each is computed in, and its activations.
#pragma once

#include "../problem.h"
#include "primitives.cuh"

namespace fused_rnn {
namespace cuda {

DEVICE_FN float widen(float x) { return x; }
DEVICE_FN double widen(double x) { return x; }
DEVICE_FN float widen(Bf16 x) { return float_of_bits(uint32_t(x.bits) << 16); }
DEVICE_FN float widen(Half x) { return float_of_half(x.bits); }

// The type states and sums are kept in.
template <class IO>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <class IO>
using wide_t = typename Wide<IO>::type;

// Two 16-bit numbers as one word, the first in the low half.
template <class IO>
DEVICE_FN uint32_t to_pair(float low, float high);
template <>
DEVICE_FN uint32_t to_pair<Bf16>(float low, float high) {
  return pair_bf16(low, high);
}
template <>
DEVICE_FN uint32_t to_pair<Half>(float low, float high) {
  return pair_half(low, high);
}

template <class IO>
DEVICE_FN void from_pair(uint32_t pair, float (&d)[2]) {
  d[0] = widen(IO{uint16_t(pair)});
  d[1] = widen(IO{uint16_t(pair >> 16)});
}

template <class IO>
DEVICE_FN IO narrow(wide_t<IO> x) {
  if constexpr (sizeof(IO) == 2) {
    return IO{uint16_t(to_pair<IO>(x, 0))};
  } else {
    return x;
  }
}

template <class IO>
struct Activations {
  // bfloat16 has no digits that the approximation lacks, but near 0 and 1: there it is off by
  // 2^-12, where a gate that keeps the state is multiplied by itself over all steps.
  DEVICE_FN static float tanh(float x) { return tanh_approx(x); }
  DEVICE_FN static float sigmoid(float x) { return 0.5f * tanh_approx(0.5f * x) + 0.5f; }
  DEVICE_FN static float keep(float x) { return reciprocal(1 + exp2_approx(-1.44269504f * x)); }
};
template <>
struct Activations<Half> {
  // The approximation is off by as much as a rounding to float16, which would double the error.
  DEVICE_FN static float tanh(float x) { return 2 * keep(2 * x) - 1; }
  DEVICE_FN static float sigmoid(float x) { return keep(x); }
  DEVICE_FN static float keep(float x) { return reciprocal(1 + exp2_approx(-1.44269504f * x)); }
};
template <>
struct Activations<float> {
  DEVICE_FN static float tanh(float x) { return tanhf(x); }
  DEVICE_FN static float sigmoid(float x) { return 1 / (1 + expf(-x)); }
  DEVICE_FN static float keep(float x) { return sigmoid(x); }
};
template <>
struct Activations<double> {
  DEVICE_FN static double tanh(double x) { return ::tanh(x); }
  DEVICE_FN static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
  DEVICE_FN static double keep(double x) { return sigmoid(x); }
};

// Each calls f<IO>() for a run-time dtype of its own: 16-bit, wider, any.
template <class F>
auto with_half(Dtype dtype, F f) {
  return dtype == Dtype::kBf16 ? f.template operator()<Bf16>() : f.template operator()<Half>();
}
template <class F>
auto with_exact(Dtype dtype, F f) {
  return dtype == Dtype::kDouble ? f.template operator()<double>() : f.template operator()<float>();
}
template <class F>
auto with_dtype(Dtype dtype, F f) {
  return is_half(dtype) ? with_half(dtype, f) : with_exact(dtype, f);
}

// Calls f<cell>(); both plain networks share a kernel, kRnnTanh, and part at the activation.
template <class F>
auto with_cell(Cell cell, F f) {
  switch (cell) {
    case Cell::kLstm:
      return f.template operator()<Cell::kLstm>();
    case Cell::kGru:
      return f.template operator()<Cell::kGru>();
    case Cell::kGruResetBefore:
      return f.template operator()<Cell::kGruResetBefore>();
    default:
      return f.template operator()<Cell::kRnnTanh>();
  }
}

}  // namespace cuda
}  // namespace fused_rnn
