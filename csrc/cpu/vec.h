// SPDX-License-Identifier: MIT
// Vectors of float and double, their loads, stores and functions, for the instruction set that
// the including file names. Compiled once per instruction set, in that set's own namespace.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

#if FUSED_RNN_VECTOR_BYTES == 64
constexpr int kAccumulators = 24;
#else
constexpr int kAccumulators = 12;
#endif

typedef float FloatV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES)));
typedef double DoubleV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES)));
typedef int32_t IntV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES)));
typedef uint16_t ShortV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES / 2)));

template <class C>
struct VecOf;
template <>
struct VecOf<float> {
  typedef FloatV type;
};
template <>
struct VecOf<double> {
  typedef DoubleV type;
};
template <class C>
using Vec = typename VecOf<C>::type;
template <class C>
constexpr int kLanes = FUSED_RNN_VECTOR_BYTES / int(sizeof(C));

#define VEC_FN static inline __attribute__((always_inline))

VEC_FN FloatV splat(float value) {
#if FUSED_RNN_VECTOR_BYTES == 64
  return (FloatV)_mm512_set1_ps(value);
#elif FUSED_RNN_VECTOR_BYTES == 32
  return (FloatV)_mm256_set1_ps(value);
#else
  return FloatV{value, value, value, value};
#endif
}

VEC_FN DoubleV splat(double value) {
#if FUSED_RNN_VECTOR_BYTES == 64
  return (DoubleV)_mm512_set1_pd(value);
#elif FUSED_RNN_VECTOR_BYTES == 32
  return (DoubleV)_mm256_set1_pd(value);
#else
  return DoubleV{value, value};
#endif
}

// Fused multiply-add, one rounding where the instruction set has it.
VEC_FN FloatV fma(FloatV a, FloatV b, FloatV c) {
#if FUSED_RNN_VECTOR_BYTES == 64
  return (FloatV)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FUSED_RNN_VECTOR_BYTES == 32
  return (FloatV)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

VEC_FN DoubleV fma(DoubleV a, DoubleV b, DoubleV c) {
#if FUSED_RNN_VECTOR_BYTES == 64
  return (DoubleV)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif FUSED_RNN_VECTOR_BYTES == 32
  return (DoubleV)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// Conversions of the 16-bit formats, round to nearest even.
VEC_FN float bf16_to_float(uint16_t bits) {
  return __builtin_bit_cast(float, uint32_t(bits) << 16);
}

VEC_FN uint16_t float_to_bf16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if (value != value) return 0x7FC0;
  return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

VEC_FN float half_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16;
  const uint32_t magnitude = uint32_t(bits & 0x7FFF) << 13;
  if (magnitude >= 0x0F800000) {  // infinity, NaN
    return __builtin_bit_cast(float, sign | magnitude | 0x70000000);
  }
  // 2^112 moves the exponent's bias from 15 to 127 and normalises what is subnormal.
  const float scaled = __builtin_bit_cast(float, magnitude) * 0x1p112f;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, scaled));
}

VEC_FN uint16_t float_to_half(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // rounds to infinity
  if (magnitude < 0x38800000) {                       // subnormal: let the addition round
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    return sign | uint16_t(__builtin_bit_cast(uint32_t, shifted) - 0x3F000000);
  }
  const uint32_t rounded = magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1);
  return sign | uint16_t(rounded >> 13);
}

VEC_FN float to_float(Bf16 v) { return bf16_to_float(v.bits); }
VEC_FN float to_float(Half v) { return half_to_float(v.bits); }
VEC_FN float to_float(float v) { return v; }
VEC_FN double to_float(double v) { return v; }

VEC_FN void from_float(Bf16* to, float v) { to->bits = float_to_bf16(v); }
VEC_FN void from_float(Half* to, float v) { to->bits = float_to_half(v); }
VEC_FN void from_float(float* to, float v) { *to = v; }
VEC_FN void from_float(double* to, double v) { *to = v; }

// Whole vectors, any alignment.
VEC_FN FloatV load(const float* p) {
  FloatV v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

VEC_FN DoubleV load(const double* p) {
  DoubleV v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

VEC_FN FloatV load(const Bf16* p) {
  ShortV bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return (FloatV)(__builtin_convertvector(bits, IntV) << 16);
}

VEC_FN FloatV load(const Half* p) {
#if FUSED_RNN_VECTOR_BYTES == 64
  return (FloatV)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif FUSED_RNN_VECTOR_BYTES == 32
  return (FloatV)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  FloatV v;
  for (int l = 0; l < kLanes<float>; ++l) v[l] = to_float(p[l]);
  return v;
#endif
}

VEC_FN void store(float* p, FloatV v) { __builtin_memcpy(p, &v, sizeof v); }
VEC_FN void store(double* p, DoubleV v) { __builtin_memcpy(p, &v, sizeof v); }

VEC_FN void store(Bf16* p, FloatV v) {
  const IntV bits = (IntV)v;
  const IntV rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const IntV nan = (IntV)(v != v);
  const ShortV narrow = __builtin_convertvector((nan & 0x7FC0) | (~nan & rounded), ShortV);
  __builtin_memcpy(p, &narrow, sizeof narrow);
}

VEC_FN void store(Half* p, FloatV v) {
#if FUSED_RNN_VECTOR_BYTES == 64
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif FUSED_RNN_VECTOR_BYTES == 32
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int l = 0; l < kLanes<float>; ++l) from_float(p + l, v[l]);
#endif
}

// The first n lanes, n < lanes; the others read as zero.
template <class C, class IO>
VEC_FN Vec<C> load_part(const IO* p, int64_t n) {
#if FUSED_RNN_VECTOR_BYTES == 64
  const unsigned mask = (1u << n) - 1;
  if constexpr (std::is_same<IO, float>::value) {
    return (FloatV)_mm512_maskz_loadu_ps(__mmask16(mask), p);
  } else if constexpr (std::is_same<IO, double>::value) {
    return (DoubleV)_mm512_maskz_loadu_pd(__mmask8(mask), p);
  }
#endif
  Vec<C> v{};
  for (int64_t l = 0; l < n; ++l) v[l] = to_float(p[l]);
  return v;
}

template <class C, class IO>
VEC_FN void store_part(IO* p, Vec<C> v, int64_t n) {
#if FUSED_RNN_VECTOR_BYTES == 64
  const unsigned mask = (1u << n) - 1;
  if constexpr (std::is_same<IO, float>::value) {
    return _mm512_mask_storeu_ps(p, __mmask16(mask), (__m512)v);
  } else if constexpr (std::is_same<IO, double>::value) {
    return _mm512_mask_storeu_pd(p, __mmask8(mask), (__m512d)v);
  }
#endif
  for (int64_t l = 0; l < n; ++l) from_float(p + l, v[l]);
}

// The first n lanes, or all of them.
template <class C, class IO>
VEC_FN Vec<C> load_n(const IO* p, int64_t n) {
  return n >= kLanes<C> ? load(p) : load_part<C>(p, n);
}

template <class C, class IO>
VEC_FN void store_n(IO* p, Vec<C> v, int64_t n) {
  if (n >= kLanes<C>) return store(p, v);
  store_part<C>(p, v, n);
}

// Bit l: whether lane l of a is above that of b.
VEC_FN uint32_t lanes_above(FloatV a, FloatV b) {
#if FUSED_RNN_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#elif FUSED_RNN_VECTOR_BYTES == 32
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)));
#else
  uint32_t above = 0;
  for (int l = 0; l < kLanes<float>; ++l) above |= uint32_t(a[l] > b[l]) << l;
  return above;
#endif
}

// sigmoid and tanh to about one unit in the last place.
template <class C>
struct Math;

template <>
struct Math<float> {
  // 2^n * exp(f), |f| <= ln 2 / 2; a degree-6 polynomial fitted for the relative error.
  VEC_FN FloatV exp(FloatV x) {
    const FloatV low = splat(-87.0f), high = splat(88.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const FloatV round = splat(12582912.0f);  // 1.5 * 2^23
    const FloatV n = fma(x, splat(1.44269504f), round) - round;
    FloatV f = fma(n, splat(-0.693145752f), x);
    f = fma(n, splat(-1.42860677e-6f), f);
    FloatV p = splat(0x1.6a23cep-10f);
    p = fma(p, f, splat(0x1.123a2p-7f));
    p = fma(p, f, splat(0x1.5558f2p-5f));
    p = fma(p, f, splat(0x1.555492p-3f));
    p = fma(p, f, splat(0x1.fffffcp-2f));
    p = fma(p * f, f, f) + 1.0f;
    const IntV exponent = __builtin_convertvector(n, IntV) << 23;
    return (FloatV)((IntV)p + exponent);
  }

  VEC_FN FloatV sigmoid(FloatV x) { return 1.0f / (1.0f + exp(-x)); }

  VEC_FN FloatV tanh(FloatV x) {
    const FloatV magnitude = (FloatV)((IntV)x & 0x7FFFFFFF);
    const FloatV e = exp(-2.0f * magnitude);
    const FloatV large = (1.0f - e) / (1.0f + e);
    const FloatV s = x * x;
    FloatV p = splat(-0.0057170438f);
    p = fma(p, s, splat(0.020650586f));
    p = fma(p, s, splat(-0.053743497f));
    p = fma(p, s, splat(0.13331491f));
    p = fma(p, s, splat(-0.33333284f));
    const FloatV small = fma(p * s, x, x);
    const FloatV signed_large = (FloatV)((IntV)large | ((IntV)x & (int32_t)0x80000000));
    return magnitude < 0.625f ? small : signed_large;
  }
};

template <>
struct Math<double> {
  VEC_FN DoubleV sigmoid(DoubleV x) {
    for (int l = 0; l < kLanes<double>; ++l) x[l] = 1.0 / (1.0 + __builtin_exp(-x[l]));
    return x;
  }

  VEC_FN DoubleV tanh(DoubleV x) {
    for (int l = 0; l < kLanes<double>; ++l) x[l] = __builtin_tanh(x[l]);
    return x;
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
