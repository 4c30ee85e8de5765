// SPDX-License-Identifier: MIT
// A step of tile.h along k for bfloat16, where an instruction multiplies two rows with two columns,
// four elements of each. It is dot products of pairs, one after the other, to the same bits; an odd
// row, which has no other beside it, takes those.
#pragma once

#include <cstdint>

#include "vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Vectors of the sets that this is for.
typedef int32_t Int4V __attribute__((vector_size(16)));
typedef float Float4V __attribute__((vector_size(16)));
typedef int64_t LongV __attribute__((vector_size(16)));

// Two elements of four columns, and the next two, as two columns of four each.
VEC_FN void two_columns(Int4V (&columns)[2], Int4V pairs, Int4V next) {
  const auto lanes = std::make_integer_sequence<int, 4>{};
  columns[0] = alternate<0, 4>(pairs, next, lanes);
  columns[1] = alternate<2, 6>(pairs, next, lanes);
}

template <int R, int V>
struct MatrixStep {
  typedef float C;
  static constexpr int64_t kAtOnce = 4;
  static constexpr bool kTwoForms = true;
  static constexpr int kPairs = R / 2;
  static constexpr bool kOdd = R % 2 == 1;
  typedef const Bf16* const Rows[R];

  // Of each two rows and vector: its first two columns, row by row, and its last two.
  struct Sums {
    Float4V squares[kPairs + 1][V][2] = {};
    Float4V odd[V] = {};
  };

  VEC_FN Float4V sum(const Sums& sums, int r, int v) {
    if (r / 2 == kPairs) return sums.odd[v];
    const LongV left = (LongV)sums.squares[r / 2][v][0], right = (LongV)sums.squares[r / 2][v][1];
    return (Float4V)(r % 2 ? LongV{left[1], right[1]} : LongV{left[0], right[0]});
  }

  // The last two of the four elements lie `a_step` times two, or `b_step` times two, behind the
  // first. What there are fewer of, rows or columns, stays in registers.
  template <bool columns>
  VEC_FN void add(Sums& sums, Rows& a, int64_t at, int64_t a_step, const Bf16* b, int64_t b_step) {
    if constexpr (kPairs > 2 * V) {
      Int4V both[V][2];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) load_columns(both[v], b, b_step, v);
#pragma GCC unroll 6
      for (int p = 0; p < kPairs; ++p) {
        const Int4V rows = load_rows<columns>(a, at, a_step, p);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) add_square(sums, p, v, rows, both[v]);
      }
    } else {
      Int4V rows[kPairs + 1];
#pragma GCC unroll 6
      for (int p = 0; p < kPairs; ++p) rows[p] = load_rows<columns>(a, at, a_step, p);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        Int4V both[2];
        load_columns(both, b, b_step, v);
#pragma GCC unroll 6
        for (int p = 0; p < kPairs; ++p) add_square(sums, p, v, rows[p], both);
      }
    }
    add_odd(sums, a, at, b);
    add_odd(sums, a, at + 2 * a_step, b + 2 * b_step);
  }

  // Two elements alone.
  VEC_FN void add_rest(Sums& sums, Rows& a, int64_t at, const Bf16* b) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      Int4V both[2];
      two_columns(both, read<Int4V>(b + 8 * v), Int4V{});
#pragma GCC unroll 6
      for (int p = 0; p < kPairs; ++p) {
        const Int4V rows{read<int32_t>(a[2 * p] + at), 0, read<int32_t>(a[2 * p + 1] + at), 0};
        add_square(sums, p, v, rows, both);
      }
    }
    add_odd(sums, a, at, b);
  }

 private:
  // Rows 2 p and 2 p + 1.
  template <bool columns>
  VEC_FN Int4V load_rows(Rows& a, int64_t at, int64_t a_step, int p) {
    const Bf16 *row = a[2 * p] + at, *next = a[2 * p + 1] + at;
    if constexpr (!columns) return (Int4V)LongV{read<int64_t>(row), read<int64_t>(next)};
    return Int4V{read<int32_t>(row), read<int32_t>(row + 2 * a_step), read<int32_t>(next),
                 read<int32_t>(next + 2 * a_step)};
  }

  VEC_FN void load_columns(Int4V (&both)[2], const Bf16* b, int64_t b_step, int v) {
    two_columns(both, read<Int4V>(b + 8 * v), read<Int4V>(b + 2 * b_step + 8 * v));
  }

  VEC_FN void add_square(Sums& sums, int p, int v, Int4V rows, const Int4V (&both)[2]) {
    sums.squares[p][v][0] = add_squares(sums.squares[p][v][0], rows, both[0]);
    sums.squares[p][v][1] = add_squares(sums.squares[p][v][1], rows, both[1]);
  }

  VEC_FN void add_odd(Sums& sums, Rows& a, int64_t at, const Bf16* b) {
    if constexpr (kOdd) {
      const Int4V row = read<int32_t>(a[R - 1] + at) + Int4V{};
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sums.odd[v] = add_pairs(sums.odd[v], row, read<Int4V>(b + 8 * v));
      }
    }
  }
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
