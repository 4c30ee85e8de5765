// SPDX-License-Identifier: MIT
// What a search does with rows of logits: log-probabilities, and the largest of them in order.
#pragma once

#include <cstdint>

#include "../problem.h"
#include "vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// n elements from p on, `fill` behind them.
VEC_FN FloatV load_filled(const float* p, int64_t n, float fill) {
  constexpr int L = kLanes<float>;
  if (n >= L) return load(p);
  FloatV v = splat(fill);
  for (int64_t l = 0; l < n; ++l) v[l] = p[l];
  return v;
}

// The largest of n elements; NaN where one is.
inline float peak_of(const float* x, int64_t n) {
  constexpr int L = kLanes<float>;
  FloatV most = splat(-__builtin_inff());
  IntV numbers = ~IntV{};
  for (int64_t i = 0; i < n; i += L) {
    const FloatV v = load_filled(x + i, n - i, -__builtin_inff());
    most = v > most ? v : most;
    numbers &= v == v;
  }
  float peak = most[0];
  for (int l = 0; l < L; ++l) {
    if (!numbers[l]) return __builtin_nanf("");
    if (most[l] > peak) peak = most[l];
  }
  return peak;
}

// x - peak - log(sum(exp(x - peak))); returns the peak.
inline float log_softmax_row(const float* x, int64_t n, float* to) {
  constexpr int L = kLanes<float>;
  const float peak = peak_of(x, n);
  FloatV sums[2] = {};
  for (int64_t i = 0; i < n; i += L) {
    const FloatV v = load_filled(x + i, n - i, -__builtin_inff()) - peak;
    sums[i / L % 2] += Math<float>::exp(v);
  }
  // Behind the end, and at -infinity, exp gives its smallest number.
  double sum = 0;
  for (int l = 0; l < L; ++l) sum += double(sums[0][l]) + double(sums[1][l]);
  const float shift = float(__builtin_log(sum));
  for (int64_t i = 0; i < n; i += L) {
    store_n<float>(to + i, load_n<float>(x + i, n - i) - peak - shift, n - i);
  }
  return peak;
}

// Puts an element among the `count` largest so far, in falling order; equal ones by their place.
inline void insert(float* values, int64_t* places, int64_t count, float value, int64_t place) {
  int64_t at = count;
  for (; at > 0 && values[at - 1] < value; --at) {
    values[at] = values[at - 1];
    places[at] = places[at - 1];
  }
  values[at] = value;
  places[at] = place;
}

// The k largest of n elements, in falling order, and where they are; of equal ones the first.
inline void top_row(const float* x, int64_t n, int64_t k, float* values, int64_t* places) {
  constexpr int L = kLanes<float>;
  for (int64_t i = 0; i < k; ++i) insert(values, places, i, x[i], i);
  for (int64_t i = k; i < n; i += L) {
    const FloatV v = load_filled(x + i, n - i, -__builtin_inff());
    for (uint32_t above = lanes_above(v, splat(values[k - 1])); above; above &= above - 1) {
      const int l = __builtin_ctz(above);
      // Others of this vector may have raised the bar.
      if (x[i + l] > values[k - 1]) insert(values, places, k - 1, x[i + l], i + l);
    }
  }
}

inline void log_softmax(const LogSoftmax& args, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    args.peaks[r] =
        log_softmax_row(args.x + r * args.columns, args.columns, args.y + r * args.columns);
  }
}

inline void top(const Top& args, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    top_row(args.x + r * args.columns, args.columns, args.k, args.values + r * args.k,
            args.places + r * args.k);
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
