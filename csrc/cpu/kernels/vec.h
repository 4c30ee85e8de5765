// SPDX-License-Identifier: MIT
// Vectors of float and double: their loads, stores and functions.
#pragma once

#include <type_traits>

#include "vec_types.h"

// What processors have instructions of their own for. (The compiler's own macros will not tell:
// gcc reads a whole file before it heeds a target pragma.)
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
#include "../isa/vec_plain.h"
#else
#include FUSED_RNN_INTRINSICS
#endif

namespace fused_rnn::cpu::FUSED_RNN_ISA {

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

// sigmoid, tanh and log_sigmoid to about one unit in the last place.
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

  // min(x, 0) - log(1 + e), e = exp(-|x|), by the series of 2 atanh(e / (2 + e)).
  VEC_FN FloatV log_sigmoid(FloatV x) {
    const FloatV magnitude = (FloatV)((IntV)x & 0x7FFFFFFF);
    const FloatV e = exp(-magnitude), s = e / (2.0f + e), q = s * s;
    FloatV p = splat(2.0f / 15);
    p = fma(p, q, splat(2.0f / 13));
    p = fma(p, q, splat(2.0f / 11));
    p = fma(p, q, splat(2.0f / 9));
    p = fma(p, q, splat(2.0f / 7));
    p = fma(p, q, splat(2.0f / 5));
    p = fma(p, q, splat(2.0f / 3));
    p = fma(p, q, splat(2.0f));
    return (x < FloatV{} ? x : FloatV{}) - p * s;
  }

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

  VEC_FN DoubleV exp(DoubleV x) {
    for (int l = 0; l < kLanes<double>; ++l) x[l] = __builtin_exp(x[l]);
    return x;
  }

  VEC_FN DoubleV log_sigmoid(DoubleV x) {
    for (int l = 0; l < kLanes<double>; ++l) {
      const double least = x[l] < 0 ? x[l] : 0;
      x[l] = least - __builtin_log1p(__builtin_exp(-__builtin_fabs(x[l])));
    }
    return x;
  }

  VEC_FN DoubleV tanh(DoubleV x) {
    for (int l = 0; l < kLanes<double>; ++l) x[l] = __builtin_tanh(x[l]);
    return x;
  }
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
