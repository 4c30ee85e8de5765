// SPDX-License-Identifier: MIT
// What AVX2 with FMA and F16C has instructions for.
#pragma once

#include <immintrin.h>

#include "../kernels/vec_types.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

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

// (gcc 12 takes four instructions for the first, and the lanes apart for the second.)
VEC_FN IntV widen(ShortV bits) { return (IntV)_mm256_cvtepu16_epi32((__m128i)bits); }
VEC_FN ByteV narrow(IntV v) {
  const __m256i shorts = _mm256_packs_epi32((__m256i)v, (__m256i)v);
  const __m256i bytes = _mm256_packs_epi16(shorts, shorts);
  const __m128i halves =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  ByteV result;
  __builtin_memcpy(&result, &halves, sizeof result);
  return result;
}

constexpr int kDotOffset = 0;

struct DotFactor {
  __m256i signs, magnitude;
};
VEC_FN DotFactor dot_factor(int32_t four) {
  const __m256i x = _mm256_set1_epi32(four);
  return {x, _mm256_abs_epi8(x)};
}
// Numbers are at most 127 in magnitude, so that no sum of two products saturates.
VEC_FN IntV add_fours(IntV sum, DotFactor x, IntV w) {
  const __m256i twos = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8((__m256i)w, x.signs));
  return sum + (IntV)_mm256_madd_epi16(twos, _mm256_set1_epi16(1));
}

VEC_FN uint32_t lanes_above(FloatV a, FloatV b) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)));
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
