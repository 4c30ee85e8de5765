// SPDX-License-Identifier: MIT
// Vectors of float and double, their loads, stores and functions, of the width that the including
// file names. Compiled once per instruction set, in that set's own namespace.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

// Registers for sums: of 32 with AVX-512 and on aarch64, else of 16.
#if FUSED_RNN_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kAccumulators = 24;
#else
constexpr int kAccumulators = 12;
#endif

typedef float FloatV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES)));
typedef double DoubleV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES)));
typedef int32_t IntV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES)));
typedef uint16_t ShortV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES / 2)));
typedef int8_t ByteV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES / 4)));

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

VEC_FN void store(float* p, FloatV v) { __builtin_memcpy(p, &v, sizeof v); }
VEC_FN void store(double* p, DoubleV v) { __builtin_memcpy(p, &v, sizeof v); }

// bfloat16 in the low halves of the lanes; the high halves are of no meaning.
VEC_FN IntV round_to_bf16(FloatV v) {
  const IntV bits = (IntV)v;
  const IntV rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const IntV nan = (IntV)(v != v);
  return (nan & 0x7FC0) | (~nan & rounded);
}

VEC_FN void store(Bf16* p, FloatV v) {
  const ShortV narrow = __builtin_convertvector(round_to_bf16(v), ShortV);
  __builtin_memcpy(p, &narrow, sizeof narrow);
}

// Lanes from `first` and from `second` on, in turns; those of b are counted behind those of a.
template <int first, int second, class V, int... l>
VEC_FN V alternate(V a, V b, std::integer_sequence<int, l...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, ((l % 2 ? second : first) + l / 2)...);
#else
  typedef decltype(a < b) Mask;
  return __builtin_shuffle(a, b, Mask{((l % 2 ? second : first) + l / 2)...});
#endif
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn

// What processors have instructions of their own for. The including file names the header with
// those of its instruction set, FUSED_RNN_INTRINSICS, or defines FUSED_RNN_PLAIN to do without.
// (The compiler's own macros will not tell: gcc reads a whole file before it heeds a target
// pragma.)
//   splat        a number in every lane
//   fma          a * b + c, rounded once where there is an instruction for it
//   load, store  of float16
//   widen        16-bit lanes to 32 bits
//   narrow       to bytes, lanes of at most 127 in magnitude (on kDotOffset)
//   load_part, store_part  the first n lanes, n < lanes, of float and double; FUSED_RNN_MASKS says
//                that there are such
//   lanes_above  bit l: whether lane l of a is above that of b
//   add_pairs    to each lane of a sum, the products of its pairs of bfloat16
//   round_pairs  pairs of bfloat16, of a lane each
//   add_fours    to each lane of a sum, the products of its four int8 and those of a dot_factor
//                (kDotOffset is on these and to be taken off the sum)
#ifdef FUSED_RNN_PLAIN
#include "vec_plain.h"
#else
#include FUSED_RNN_INTRINSICS
#endif

namespace fused_rnn {
namespace FUSED_RNN_ISA {

VEC_FN FloatV load(const Bf16* p) {
  ShortV bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return (FloatV)(widen(bits) << 16);
}

#ifdef FUSED_RNN_MASKS
template <class IO>
constexpr bool kMasked = std::is_same<IO, float>::value || std::is_same<IO, double>::value;
#else
template <class IO>
constexpr bool kMasked = false;
#endif

// The first n lanes, or all of them; the others read as zero.
template <class C, class IO>
VEC_FN Vec<C> load_n(const IO* p, int64_t n) {
  if (n >= kLanes<C>) return load(p);
  if constexpr (kMasked<IO>) {
    return load_part(p, n);
  } else {
    Vec<C> v{};
    for (int64_t l = 0; l < n; ++l) v[l] = to_float(p[l]);
    return v;
  }
}

template <class C, class IO>
VEC_FN void store_n(IO* p, Vec<C> v, int64_t n) {
  if (n >= kLanes<C>) return store(p, v);
  if constexpr (kMasked<IO>) {
    store_part(p, v, n);
  } else {
    for (int64_t l = 0; l < n; ++l) from_float(p + l, v[l]);
  }
}

// sigmoid and tanh to about one unit in the last place.
template <class C>
struct Math;

template <>
struct Math<float> {
  static constexpr float kLargest = 88.72283f;  // the largest float whose exp is one

  // 2^n * exp(f), |f| <= ln 2 / 2; a degree-6 polynomial fitted for the relative error. exp(-87) of
  // all that is less; x is at most kLargest.
  VEC_FN FloatV exp(FloatV x) {
    const FloatV low = splat(-87.0f);
    x = x < low ? low : x;
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

  // Zero, no small number, where exp(-x) is beyond every float: infinity times a gate that is shut
  // is no number.
  VEC_FN FloatV sigmoid(FloatV x) {
    const FloatV open = 1.0f / (1.0f + exp(-x));
    return x < splat(-kLargest) ? FloatV{} : open;
  }
  VEC_FN FloatV keep(FloatV x) { return sigmoid(x); }

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
  VEC_FN DoubleV keep(DoubleV x) { return sigmoid(x); }

  VEC_FN DoubleV tanh(DoubleV x) {
    for (int l = 0; l < kLanes<double>; ++l) x[l] = __builtin_tanh(x[l]);
    return x;
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
