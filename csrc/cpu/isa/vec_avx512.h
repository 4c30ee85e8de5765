// SPDX-License-Identifier: MIT
// What AVX-512 has instructions for.
#pragma once

#include <immintrin.h>

#include "../kernels/vec_types.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

VEC_FN FloatV splat(float value) { return (FloatV)_mm512_set1_ps(value); }
VEC_FN DoubleV splat(double value) { return (DoubleV)_mm512_set1_pd(value); }

VEC_FN FloatV fma(FloatV a, FloatV b, FloatV c) {
  return (FloatV)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
VEC_FN DoubleV fma(DoubleV a, DoubleV b, DoubleV c) {
  return (DoubleV)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}

VEC_FN FloatV load(const Half* p) {
  return (FloatV)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
VEC_FN void store(Half* p, FloatV v) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}

#define FUSED_RNN_MASKS

VEC_FN FloatV load_part(const float* p, int64_t n) {
  return (FloatV)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
VEC_FN DoubleV load_part(const double* p, int64_t n) {
  return (DoubleV)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
}

VEC_FN void store_part(float* p, FloatV v, int64_t n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
}
VEC_FN void store_part(double* p, DoubleV v, int64_t n) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
}

VEC_FN uint32_t lanes_above(FloatV a, FloatV b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
}

VEC_FN IntV widen(ShortV bits) { return (IntV)_mm512_cvtepu16_epi32((__m256i)bits); }
VEC_FN ByteV narrow(IntV v) { return (ByteV)_mm512_cvtepi32_epi8((__m512i)v); }

#ifdef FUSED_RNN_DOT_INT8
constexpr int kDotOffset = 128;  // one of the factors has no sign

typedef __m512i DotFactor;
VEC_FN DotFactor dot_factor(int32_t four) { return _mm512_set1_epi32(four); }
VEC_FN IntV add_fours(IntV sum, DotFactor x, IntV w) {
  return (IntV)_mm512_dpbusd_epi32((__m512i)sum, x, (__m512i)w);
}
#endif

#ifdef FUSED_RNN_DOT_BF16
VEC_FN FloatV add_pairs(FloatV sum, IntV a, IntV b) {
  return (FloatV)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

VEC_FN IntV round_pairs(FloatV first, FloatV second) {
  typedef int16_t Shorts __attribute__((vector_size(64)));
  const Shorts rounded = (Shorts)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  return (IntV)alternate<0, 16>(rounded, rounded, std::make_integer_sequence<int, 32>{});
}
#endif

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
