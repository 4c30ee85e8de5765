// SPDX-License-Identifier: MIT
// Products with weights as they lie, for calls too short to pay for packing: dot products along
// the rows of the weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pack.h"
#include "vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Weight rows and operand rows that one block multiplies.
constexpr int kDotColumns = 4;
template <class C>
constexpr int kDotRows = kLanes<C> > kDotColumns ? kLanes<C> / kDotColumns : 1;

// Lane i of the result: the sum of the lanes of v[i].
template <class C>
VEC_FN Vec<C> sum_lanes(Vec<C> (&v)[kLanes<C>]) {
#pragma GCC unroll 4
  for (int half = kLanes<C> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      v[i] = zip<C, false>(v[i], v[i + half]) + zip<C, true>(v[i], v[i + half]);
    }
  }
  return v[0];
}

// Adds to acc[r * kDotColumns + j] the products of `lanes` elements of rows a[r] and w[j].
template <class C, int R, int N, class Op, class IO>
VEC_FN void dot_step(Vec<C> (&acc)[N], const Op* const (&a)[R], const IO* const (&w)[kDotColumns],
                     int64_t k, int64_t lanes) {
  Vec<C> weights[kDotColumns];
#pragma GCC unroll 4
  for (int j = 0; j < kDotColumns; ++j) weights[j] = load_n<C>(w[j] + k, lanes);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const Vec<C> x = load_n<C>(a[r] + k, lanes);
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) {
      acc[r * kDotColumns + j] = fma(x, weights[j], acc[r * kDotColumns + j]);
    }
  }
}

// c[r * c_stride + j] = init[j] + a[r] . w[j] for a block of R operand rows and `columns` weight
// rows.
template <class C, int R, class Op, class IO>
VEC_FN void dot_block(const Op* const* operands, const IO* const (&w)[kDotColumns], int64_t columns,
                      int64_t K, const C* init, C* c, int64_t c_stride) {
  constexpr int L = kLanes<C>;
  constexpr int kSums = R * kDotColumns;
  constexpr int kPadded = (kSums + L - 1) / L * L;
  const Op* a[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) a[r] = operands[r];
  Vec<C> acc[kPadded] = {};
  int64_t k = 0;
  for (; k + L <= K; k += L) dot_step<C>(acc, a, w, k, L);
  if (k < K) dot_step<C>(acc, a, w, k, K - k);
  alignas(64) C sums[kPadded];
#pragma GCC unroll 4
  for (int i = 0; i < kPadded; i += L) {
    Vec<C> group[L];
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) group[l] = acc[i + l];
    store(sums + i, sum_lanes<C>(group));
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    typedef C Row __attribute__((vector_size(kDotColumns * sizeof(C))));
    Row row, start{};
    __builtin_memcpy(&row, sums + r * kDotColumns, sizeof row);
    if (init) __builtin_memcpy(&start, init, sizeof start);
    row += start;
    if (columns == kDotColumns) {
      __builtin_memcpy(c + r * c_stride, &row, sizeof row);
    } else {
      __builtin_memcpy(c + r * c_stride, &row, size_t(columns) * sizeof(C));
    }
  }
}

// What run_tile computes, from unpacked weights: all columns of a panel for `rows` rows.
template <class C, class Op, class IO>
void dot_panel(const PanelMap<C>& map, int64_t panel, const IO* w, int64_t K, const Op* const* a,
               int64_t rows, const C* init, C* c, int64_t c_stride) {
  constexpr int L = kLanes<C>, R = kDotRows<C>;
  for (int g = 0; g < map.gates; ++g) {
    for (int v = 0; v < map.vecs; ++v) {
      const int64_t unit = panel * map.width() + v * L;
      const int64_t lanes = min(L, map.units - unit);
      for (int64_t l = 0; l < lanes; l += kDotColumns) {
        const IO* from = w + ((map.first_gate + g) * map.units + unit + l) * K;
        const int64_t column = (g * map.vecs + v) * L + l;
        const int64_t columns = min(kDotColumns, lanes - l);
        const IO* weights[kDotColumns];
#pragma GCC unroll 4
        for (int j = 0; j < kDotColumns; ++j) weights[j] = j < columns ? from + j * K : from;
        const C* start = init ? init + column : nullptr;
        C* to = c + column;
        int64_t r = 0;
        for (; r + R <= rows; r += R) {
          dot_block<C, R>(a + r, weights, columns, K, start, to + r * c_stride, c_stride);
        }
        for (; r < rows; ++r) {
          dot_block<C, 1>(a + r, weights, columns, K, start, to + r * c_stride, c_stride);
        }
      }
    }
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
