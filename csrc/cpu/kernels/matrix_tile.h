// SPDX-License-Identifier: MIT
// What tile.h does for bfloat16 where an instruction multiplies two rows with two columns, four
// elements of each. It is dot products of pairs, one after the other, to the same bits; an odd row,
// which has no other beside it, takes those.
#pragma once

#include <cstdint>

#include "vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Vectors of the sets that this is for.
typedef int32_t Int4V __attribute__((vector_size(16)));
typedef float Float4V __attribute__((vector_size(16)));
typedef int64_t LongV __attribute__((vector_size(16)));

// Of R rows and V vectors of columns. Of each two rows and vector: its first two columns, row by
// row, and its last two.
template <int R, int V>
struct MatrixSums {
  static constexpr int kPairs = R / 2;
  Float4V squares[kPairs + 1][V][2] = {};
  Float4V odd[V] = {};
};

// Where operands lie: rows, elements behind the first two along k, and a panel in pairs.
template <int R>
struct MatrixPlace {
  const Bf16* a[R];
  int64_t a_step;
  const Bf16* b;
  int64_t b_step;
};

VEC_FN int32_t pair_at(const Bf16* at) {
  int32_t pair;
  __builtin_memcpy(&pair, at, sizeof pair);
  return pair;
}

VEC_FN Int4V pairs_at(const Bf16* at) {
  Int4V pairs;
  __builtin_memcpy(&pairs, at, sizeof pairs);
  return pairs;
}

// Four elements of two rows, of which the last two lie `a_step` times two behind the first two:
// where it is 1, all of them together.
template <bool together>
VEC_FN Int4V two_rows(const Bf16* row, const Bf16* next, int64_t a_step) {
  if constexpr (together) {
    int64_t fours[2];
    __builtin_memcpy(&fours[0], row, sizeof fours[0]);
    __builtin_memcpy(&fours[1], next, sizeof fours[1]);
    return (Int4V)LongV{fours[0], fours[1]};
  } else {
    const int64_t second = 2 * a_step;
    return Int4V{pair_at(row), pair_at(row + second), pair_at(next), pair_at(next + second)};
  }
}

// Two elements of four columns, and the next two, as two columns of four each.
VEC_FN void two_columns(Int4V (&columns)[2], Int4V pairs, Int4V next) {
  const auto lanes = std::make_integer_sequence<int, 4>{};
  columns[0] = alternate<0, 4>(pairs, next, lanes);
  columns[1] = alternate<2, 6>(pairs, next, lanes);
}

template <int R, int V>
VEC_FN void add_square(MatrixSums<R, V>& sums, int p, int v, Int4V rows,
                       const Int4V (&columns)[2]) {
  sums.squares[p][v][0] = add_squares(sums.squares[p][v][0], rows, columns[0]);
  sums.squares[p][v][1] = add_squares(sums.squares[p][v][1], rows, columns[1]);
}

// Elements k to k + 3 of rows 2 p and 2 p + 1, and of vector v of the columns.
template <bool together, int R>
VEC_FN Int4V rows_at(const MatrixPlace<R>& at, int64_t k, int p) {
  const int64_t first = k * at.a_step;
  return two_rows<together>(at.a[2 * p] + first, at.a[2 * p + 1] + first, at.a_step);
}
template <int R>
VEC_FN void columns_at(Int4V (&columns)[2], const MatrixPlace<R>& at, int64_t k, int v) {
  const Bf16* b = at.b + k * at.b_step + 8 * v;
  two_columns(columns, pairs_at(b), pairs_at(b + 2 * at.b_step));
}

// Adds their products. What there are fewer of, rows or columns, stays in registers.
template <bool together, int R, int V>
VEC_FN void add_fours(MatrixSums<R, V>& sums, const MatrixPlace<R>& at, int64_t k) {
  if constexpr (R / 2 > 2 * V) {
    Int4V columns[V][2];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) columns_at(columns[v], at, k, v);
#pragma GCC unroll 6
    for (int p = 0; p < R / 2; ++p) {
      const Int4V rows = rows_at<together>(at, k, p);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) add_square(sums, p, v, rows, columns[v]);
    }
  } else {
    Int4V rows[R / 2 + 1];
#pragma GCC unroll 6
    for (int p = 0; p < R / 2; ++p) rows[p] = rows_at<together>(at, k, p);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      Int4V columns[2];
      columns_at(columns, at, k, v);
#pragma GCC unroll 6
      for (int p = 0; p < R / 2; ++p) add_square(sums, p, v, rows[p], columns);
    }
  }
}

// Adds the products of elements k and k + 1 of an odd row.
template <int R, int V>
VEC_FN void add_odd(MatrixSums<R, V>& sums, const MatrixPlace<R>& at, int64_t k) {
  if constexpr (R % 2 == 1) {
    const Int4V row = pair_at(at.a[R - 1] + k * at.a_step) + Int4V{};
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sums.odd[v] = add_pairs(sums.odd[v], row, pairs_at(at.b + k * at.b_step + 8 * v));
    }
  }
}

// Elements k and k + 1 alone.
template <int R, int V>
VEC_FN void add_last_pair(MatrixSums<R, V>& sums, const MatrixPlace<R>& at, int64_t k) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    Int4V columns[2];
    two_columns(columns, pairs_at(at.b + k * at.b_step + 8 * v), Int4V{});
#pragma GCC unroll 6
    for (int p = 0; p < R / 2; ++p) {
      const int64_t first = k * at.a_step;
      const Int4V rows{pair_at(at.a[2 * p] + first), 0, pair_at(at.a[2 * p + 1] + first), 0};
      add_square(sums, p, v, rows, columns);
    }
  }
  add_odd(sums, at, k);
}

// Adds the products of elements k to `end`, an even number.
template <bool together, int R, int V>
VEC_FN void add_chain(MatrixSums<R, V>& sums, const MatrixPlace<R>& at, int64_t k, int64_t end) {
  for (; k + 4 <= end; k += 4) {
    add_fours<together>(sums, at, k);
    add_odd(sums, at, k);
    add_odd(sums, at, k + 2);
  }
  if (k < end) add_last_pair(sums, at, k);
}

// The sums of row r and vector v.
template <int R, int V>
VEC_FN Float4V sums_of(const MatrixSums<R, V>& sums, int r, int v) {
  if (r / 2 == R / 2) return sums.odd[v];
  const LongV left = (LongV)sums.squares[r / 2][v][0], right = (LongV)sums.squares[r / 2][v][1];
  return (Float4V)(r % 2 ? LongV{left[1], right[1]} : LongV{left[0], right[0]});
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
