// SPDX-License-Identifier: MIT
// The same for any processor, and for vectors of any width: what the compiler makes of them.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

// Minus zero leaves every number as it is, plus zero would not leave -0.
VEC_FN FloatV splat(float value) { return value - FloatV{}; }
VEC_FN DoubleV splat(double value) { return value - DoubleV{}; }

VEC_FN FloatV fma(FloatV a, FloatV b, FloatV c) { return a * b + c; }
VEC_FN DoubleV fma(DoubleV a, DoubleV b, DoubleV c) { return a * b + c; }

VEC_FN FloatV load(const Half* p) {
  FloatV v;
  for (int l = 0; l < kLanes<float>; ++l) v[l] = to_float(p[l]);
  return v;
}
VEC_FN void store(Half* p, FloatV v) {
  for (int l = 0; l < kLanes<float>; ++l) from_float(p + l, v[l]);
}

VEC_FN uint32_t lanes_above(FloatV a, FloatV b) {
  uint32_t above = 0;
  for (int l = 0; l < kLanes<float>; ++l) above |= uint32_t(a[l] > b[l]) << l;
  return above;
}

VEC_FN FloatV add_pairs(FloatV sum, IntV a, IntV b) {
  const int32_t high = int32_t(0xFFFF0000);
  sum = fma((FloatV)(a << 16), (FloatV)(b << 16), sum);
  return fma((FloatV)(a & high), (FloatV)(b & high), sum);
}

VEC_FN IntV round_pairs(FloatV first, FloatV second) {
  return (round_to_bf16(first) & 0xFFFF) | (round_to_bf16(second) << 16);
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
