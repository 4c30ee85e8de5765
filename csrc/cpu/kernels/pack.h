// SPDX-License-Identifier: MIT
// Weights rearranged into the panels that the micro-kernel reads.
#pragma once

#include <type_traits>
#include <utility>

#include "integers.h"
#include "operand.h"
#include "tile.h"
#include "vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Elements of a row as products take it: of an integer row, its scale stands last.
template <class Op>
constexpr int64_t factor_ld(int64_t K) {
  constexpr int64_t kScale = std::is_same<Op, Int8>::value ? int64_t(sizeof(float)) : 0;
  return round_up(K, kDepth<Op>) + kScale;
}

// Which output columns form a panel: `vecs` vectors of hidden units for each of `gates` gates,
// counted from gate `first_gate` of a matrix whose gates have `units` columns each.
template <class C>
struct PanelMap {
  int gates, vecs, first_gate;
  int64_t units;

  int64_t width() const { return vecs * kLanes<C>; }  // units in a panel
  int64_t panels() const { return (units + width() - 1) / width(); }
  int panel_vecs() const { return gates * vecs; }
  int64_t panel_columns() const { return gates * width(); }
  int64_t columns() const { return panels() * panel_columns(); }
  int64_t units_in(int64_t panel) const { return min(width(), units - panel * width()); }

  // Vectors of the panel that hold columns; the others need no computing.
  int used_vecs(int64_t panel) const {
    if (gates > 1) return panel_vecs();
    return int((units_in(panel) + kLanes<C> - 1) / kLanes<C>);
  }
};

template <class C>
constexpr PanelMap<C> plain_map(int64_t columns) {
  return PanelMap<C>{1, kPlainVecs, 0, columns};
}

// Alternates the lanes of the low (or high) halves of two vectors.
template <class C, bool high>
VEC_FN Vec<C> zip(Vec<C> a, Vec<C> b) {
  constexpr int L = kLanes<C>, first = high ? L / 2 : 0;
  return alternate<first, first + L>(a, b, std::make_integer_sequence<int, L>{});
}

// Transposes a square of lanes by log2(lanes) perfect shuffles. Unrolled whole, so that the square
// stays in registers.
template <class C>
VEC_FN void transpose(Vec<C> (&rows)[kLanes<C>]) {
  constexpr int L = kLanes<C>;
#pragma GCC unroll 4
  for (int stage = 1; stage < L; stage *= 2) {
    Vec<C> next[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = zip<C, false>(rows[i], rows[i + L / 2]);
      next[2 * i + 1] = zip<C, true>(rows[i], rows[i + L / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) rows[i] = next[i];
  }
}

// Copies n elements into another format and fills up to `width` with zeros; null reads as zeros.
template <class To, class From>
VEC_FN void convert(To* to, const From* from, int64_t n, int64_t width) {
  typedef typename std::conditional<sizeof(From) == 8, double, float>::type C;
  int64_t i = 0;
  for (; from && i < n; i += kLanes<C>) {
    store_n<C>(to + i, load_n<C>(from + i, n - i), n - i);
  }
  for (i = from ? n : 0; i < width; ++i) from_float(to + i, C(0));
}

// Stores a vector of an operand's row, from column u on; of its lanes, those that are columns.
template <class Op>
VEC_FN void put_vector(Op* operand, int64_t ld, int64_t row, int64_t u, Vec<SumOf<Op>> value,
                       int64_t lanes) {
  store_n<SumOf<Op>>(operand + row * ld + u, value, lanes);
}

// Stores a whole row of an operand: n elements and zeros behind them; null reads as zeros.
template <class Op, class IO>
VEC_FN void put_row(Op* operand, int64_t ld, int64_t row, const IO* from, int64_t n) {
  convert(operand + row * ld, from, n, ld);
}

// A weight matrix as the product sees it: element (column, k) at column * column_step + k * k_step.
template <class IO>
struct Matrix {
  const IO* data;
  int64_t column_step, k_step;
};

// Stores the transpose of the square whose row l is load_row(l), or zero from row `rows` on.
template <class C, class Load>
VEC_FN void store_transposed(C* to, int64_t step, int64_t rows, Load load_row) {
  constexpr int L = kLanes<C>;
  Vec<C> square[L];
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l) square[l] = l < rows ? load_row(l) : Vec<C>{};
  transpose<C>(square);
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l) store(to + l * step, square[l]);
}

// One vector's columns of a panel, `columns` of them real and the rest zero, for all k.
template <class Op, class IO>
struct PackVector {
  typedef Op C;

  static void run(Op* to, int64_t step, const Matrix<IO>& from, int64_t columns, int64_t K) {
    constexpr int L = kLanes<C>;
    int64_t k = 0;
    if (from.column_step == 1) {
      for (; k < K; ++k) store(to + k * step, load_n<C>(from.data + k * from.k_step, columns));
      return;
    }
    for (; k + L <= K && from.k_step == 1; k += L) {
      store_transposed<C>(to + k * step, step, columns,
                          [&](int64_t l) { return load(from.data + l * from.column_step + k); });
    }
    for (; k < K; ++k) {
      for (int l = 0; l < L; ++l) {
        to[k * step + l] =
            l < columns ? to_float(from.data[l * from.column_step + k * from.k_step]) : C(0);
      }
    }
  }
};

// bfloat16 in pairs: lane l of vector k / 2 holds elements k and k + 1 of column l.
template <>
struct PackVector<Bf16, Bf16> {
  static void run(Bf16* to, int64_t step, const Matrix<Bf16>& from, int64_t columns, int64_t K) {
    constexpr int L = kLanes<float>;
    int64_t k = 0;
    // A pair is moved about as if it were a float.
    for (; k + 2 * L <= K && from.k_step == 1; k += 2 * L) {
      store_transposed<float>(
          reinterpret_cast<float*>(to + k / 2 * step), step / 2, columns, [&](int64_t l) {
            return load(reinterpret_cast<const float*>(from.data + l * from.column_step + k));
          });
    }
    for (; k + 2 <= K && from.column_step == 1 && columns == L; k += 2) {
      const Bf16* at = from.data + k * from.k_step;
      const IntV high = (IntV)load(at + from.k_step), low = (IntV)load(at);
      store(reinterpret_cast<float*>(to + k / 2 * step), (FloatV)(high | (low >> 16 & 0xFFFF)));
    }
    for (; k < K; k += 2) {
      for (int64_t l = 0; l < L; ++l) {
        const Bf16* at = from.data + l * from.column_step + k * from.k_step;
        Bf16* pair = to + k / 2 * step + 2 * l;
        pair[0] = l < columns ? at[0] : Bf16{0};
        pair[1] = l < columns && k + 1 < K ? at[from.k_step] : Bf16{0};
      }
    }
  }
};

// Stores vectors of elements k and, where the micro-kernel takes pairs, k + 1, as PackVector does.
template <class C>
VEC_FN void store_operand(C* to, Vec<C> first, Vec<C>) {
  store(to, first);
}
#ifdef FUSED_RNN_DOT_BF16
VEC_FN void store_operand(Bf16* to, FloatV first, FloatV second) {
  const IntV pairs = round_pairs(first, second);
  __builtin_memcpy(to, &pairs, sizeof pairs);
}
#endif

// K rows of panel `panel` of the map: (round_up(K, depth) / depth, panel_vecs, lanes, depth).
template <class Op, class C, class IO>
VEC_FN void pack_rows(Op* to, const PanelMap<C>& map, int64_t panel, const Matrix<IO>& from,
                      int64_t K) {
  constexpr int L = kLanes<C>;
  const int64_t step = int64_t(map.panel_vecs()) * L * kDepth<Op>;
  for (int g = 0; g < map.gates; ++g) {
    for (int v = 0; v < map.vecs; ++v) {
      const int64_t unit = panel * map.width() + v * L;
      const int64_t columns = max(0, min(L, map.units - unit));
      const int64_t column = (map.first_gate + g) * map.units + (columns > 0 ? unit : 0);
      Matrix<IO> part = from;
      part.data += column * from.column_step;
      PackVector<Op, IO>::run(to + (g * map.vecs + v) * L * kDepth<Op>, step, part, columns, K);
    }
  }
}

// K rows of a panel that is `depth` deep, from its row `row` on; in blocks of rows where these lie
// together, as whole columns where those do.
template <class Op, class C, class IO>
VEC_FN void pack_panel(Op* to, const PanelMap<C>& map, int64_t panel, const Matrix<IO>& from,
                       int64_t K, int64_t /* depth */, int64_t row = 0) {
  to += row * map.panel_columns();
  const int64_t block = from.column_step == 1 ? 2 * kLanes<C> : K;
  for (int64_t k = 0; k < K; k += block) {
    Matrix<IO> part = from;
    part.data += k * from.k_step;
    pack_rows(to + k * map.panel_columns(), map, panel, part, min(block, K - k));
  }
}

// The product of rows, to be named, with a panel packed K deep.
template <class Op, class C>
VEC_FN TileArgs<C> panel_tile(const PanelMap<C>& map, const Op* panel, int64_t K) {
  TileArgs<C> tile;
  tile.K = round_up(K, kDepth<Op>);
  tile.a_step = 1;
  tile.b = panel;
  tile.b_step = map.panel_columns();
  return tile;
}

// Elements of one packed panel.
template <class Op, class C>
constexpr int64_t panel_size(const PanelMap<C>& map, int64_t K) {
  return map.panel_columns() * round_up(K, kDepth<Op>);
}

// Elements of a whole packed matrix.
template <class Op, class C>
constexpr int64_t packed_size(const PanelMap<C>& map, int64_t K) {
  return map.panels() * panel_size<Op>(map, K);
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
