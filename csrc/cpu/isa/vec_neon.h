// SPDX-License-Identifier: MIT
// What aarch64 has instructions for; those for bfloat16 came with Armv8.6.
#pragma once

#include <arm_neon.h>

#include "../kernels/vec_types.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

VEC_FN FloatV splat(float value) { return (FloatV)vdupq_n_f32(value); }
VEC_FN DoubleV splat(double value) { return (DoubleV)vdupq_n_f64(value); }

VEC_FN FloatV fma(FloatV a, FloatV b, FloatV c) {
  return (FloatV)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
VEC_FN DoubleV fma(DoubleV a, DoubleV b, DoubleV c) {
  return (DoubleV)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}

VEC_FN FloatV load(const Half* p) {
  return (FloatV)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}
VEC_FN void store(Half* p, FloatV v) {
  vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v)));
}

VEC_FN IntV widen(ShortV bits) { return __builtin_convertvector(bits, IntV); }
VEC_FN ByteV narrow(IntV v) { return __builtin_convertvector(v, ByteV); }

constexpr int kDotOffset = 0;

typedef int8x16_t DotFactor;
VEC_FN DotFactor dot_factor(int32_t four) { return vreinterpretq_s8_s32(vdupq_n_s32(four)); }
VEC_FN IntV add_fours(IntV sum, DotFactor x, IntV w) {
  const int8x16_t bytes = (int8x16_t)w;
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(bytes)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(x, bytes));
  return sum + (IntV)vpaddq_s32(low, high);
}

VEC_FN uint32_t lanes_above(FloatV a, FloatV b) {
  return vaddvq_u32((uint32x4_t)((a > b) & IntV{1, 2, 4, 8}));
}

#ifdef FUSED_RNN_DOT_BF16
VEC_FN FloatV add_pairs(FloatV sum, IntV a, IntV b) {
  return (FloatV)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)a, (bfloat16x8_t)b);
}

// Of two rows and two columns, four elements each.
VEC_FN FloatV add_squares(FloatV sum, IntV rows, IntV columns) {
  return (FloatV)vbfmmlaq_f32((float32x4_t)sum, (bfloat16x8_t)rows, (bfloat16x8_t)columns);
}

VEC_FN IntV round_pairs(FloatV first, FloatV second) {
  typedef int16_t Shorts __attribute__((vector_size(16)));
  const bfloat16x8_t low = vcvtq_low_bf16_f32((float32x4_t)first);
  const Shorts rounded = (Shorts)vcvtq_high_bf16_f32(low, (float32x4_t)second);
  return (IntV)alternate<0, 4>(rounded, rounded, std::make_integer_sequence<int, 8>{});
}
#endif

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
