// SPDX-License-Identifier: MIT
// Products with weights as they lie, for calls too short to pay for packing: dot products along
// the rows of the weights.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

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
      v[i] = zip<C>(v[i], v[i + half], false) + zip<C>(v[i], v[i + half], true);
    }
  }
  return v[0];
}

// c[r * c_stride + j] = init[j] + a[r] . w[j] for a block of R operand rows and as many weight
// rows as `columns` says.
template <class C, int R, class Op, class IO>
void dot_block(const Op* const* a, const IO* w, int64_t ld_w, int64_t columns, int64_t K,
               const C* init, C* c, int64_t c_stride) {
  constexpr int L = kLanes<C>;
  constexpr int kSums = R * kDotColumns;
  constexpr int kPadded = (kSums + L - 1) / L * L;
  Vec<C> acc[kPadded] = {};
  const IO* rows[kDotColumns];
  for (int j = 0; j < kDotColumns; ++j) rows[j] = w + (j < columns ? j : 0) * ld_w;
  for (int64_t k = 0; k < K; k += L) {
    Vec<C> weights[kDotColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) weights[j] = load_n<C>(rows[j] + k, K - k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<C> x = load_n<C>(a[r] + k, K - k);
#pragma GCC unroll 4
      for (int j = 0; j < kDotColumns; ++j) {
        acc[r * kDotColumns + j] = fma(x, weights[j], acc[r * kDotColumns + j]);
      }
    }
  }
  C sums[kPadded];
  for (int i = 0; i < kPadded; i += L) {
    Vec<C> group[L];
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) group[l] = acc[i + l];
    store(sums + i, sum_lanes<C>(group));
  }
  for (int r = 0; r < R; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      c[r * c_stride + j] = sums[r * kDotColumns + j] + (init ? init[j] : C(0));
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
        const C* start = init ? init + column : nullptr;
        int64_t r = 0;
        for (; r + R <= rows; r += R) {
          dot_block<C, R>(a + r, from, K, columns, K, start, c + r * c_stride + column, c_stride);
        }
        for (; r < rows; ++r) {
          dot_block<C, 1>(a + r, from, K, columns, K, start, c + r * c_stride + column, c_stride);
        }
      }
    }
  }
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
