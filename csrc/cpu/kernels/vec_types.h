// SPDX-License-Identifier: MIT
// Vectors of the width that the including file names (isa.h), numbers of 16 bits, and what any
// compiler makes of loads, stores and shuffles.
#pragma once

#include <cstdint>
#include <utility>

#include "../../types.h"
#include "isa.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

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

// A value, whatever lies there and however it is aligned.
template <class T>
VEC_FN T read(const void* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

// Whole vectors, any alignment.
VEC_FN FloatV load(const float* p) { return read<FloatV>(p); }
VEC_FN DoubleV load(const double* p) { return read<DoubleV>(p); }

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

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
