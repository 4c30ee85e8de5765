// SPDX-License-Identifier: MIT
// What AVX2 with FMA and F16C has instructions for.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

VEC_FN FloatV splat(float value) { return (FloatV)_mm256_set1_ps(value); }
VEC_FN DoubleV splat(double value) { return (DoubleV)_mm256_set1_pd(value); }

VEC_FN FloatV fma(FloatV a, FloatV b, FloatV c) {
  return (FloatV)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
VEC_FN DoubleV fma(DoubleV a, DoubleV b, DoubleV c) {
  return (DoubleV)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}

VEC_FN FloatV load(const Half* p) {
  return (FloatV)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
VEC_FN void store(Half* p, FloatV v) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}

VEC_FN uint32_t lanes_above(FloatV a, FloatV b) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)));
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
