// SPDX-License-Identifier: MIT
// The same for any processor, and for vectors of any width: what the compiler makes of them.
#pragma once

#include "../kernels/vec_types.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Minus zero leaves every number as it is, plus zero would not leave -0.
VEC_FN FloatV splat(float value) { return value - FloatV{}; }
VEC_FN DoubleV splat(double value) { return value - DoubleV{}; }

#ifdef FUSED_RNN_FUSED
// Rounded once, as by the instructions of others.
VEC_FN FloatV fma(FloatV a, FloatV b, FloatV c) {
  for (int l = 0; l < kLanes<float>; ++l) c[l] = __builtin_fmaf(a[l], b[l], c[l]);
  return c;
}
#else
VEC_FN FloatV fma(FloatV a, FloatV b, FloatV c) { return a * b + c; }
#endif
VEC_FN DoubleV fma(DoubleV a, DoubleV b, DoubleV c) { return a * b + c; }

VEC_FN FloatV load(const Half* p) {
  FloatV v;
  for (int l = 0; l < kLanes<float>; ++l) v[l] = to_float(p[l]);
  return v;
}
VEC_FN void store(Half* p, FloatV v) {
  for (int l = 0; l < kLanes<float>; ++l) from_float(p + l, v[l]);
}

VEC_FN IntV widen(ShortV bits) { return __builtin_convertvector(bits, IntV); }
VEC_FN ByteV narrow(IntV v) { return __builtin_convertvector(v, ByteV); }

#ifdef FUSED_RNN_DOT_INT8
constexpr int kDotOffset = 128;
VEC_FN IntV byte_of_factor(IntV x, int left) { return (x >> (24 - left)) & 0xFF; }
#else
constexpr int kDotOffset = 0;
VEC_FN IntV byte_of_factor(IntV x, int left) { return (x << left) >> 24; }
#endif

typedef IntV DotFactor;
VEC_FN DotFactor dot_factor(int32_t four) { return four + IntV{}; }
VEC_FN IntV add_fours(IntV sum, DotFactor x, IntV w) {
#pragma GCC unroll 4
  for (int left = 24; left >= 0; left -= 8) sum += byte_of_factor(x, left) * ((w << left) >> 24);
  return sum;
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

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
