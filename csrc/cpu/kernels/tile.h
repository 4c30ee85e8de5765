// SPDX-License-Identifier: MIT
// The matrix product micro-kernel: a few rows of A against one packed panel of B.
//
// A panel is (K, V, lanes): V vectors of output columns for each k. Every output element is the
// sum, in order, of chains of `chain` fused multiply-adds each, whatever the number of rows in the
// tile, so that a row's result does not depend on the batch it came with. One chain over all of a
// long K would lose accuracy against the blocked sums of a library's product.
#pragma once

#include <cstdint>
#include <utility>

#include "operand.h"
#include "vec.h"
#ifdef FUSED_RNN_MATRIX_BF16
#include "matrix_tile.h"
#endif

namespace fused_rnn::cpu::FUSED_RNN_ISA {

constexpr int64_t kChain = 128;
constexpr int64_t kAhead = 16;  // steps of k that operands are fetched ahead
constexpr int kMaxVecs = 4;
// Of a panel of plain columns: beside 12 sums and a number of A, 16 registers hold three vectors of
// weights, and a fourth would be read again for each row.
constexpr int kPlainVecs = kAccumulators > 12 ? 4 : 3;
constexpr int kMaxRows = kBlockRows<float>;

// Rows a tile of V vectors can keep in registers.
constexpr int max_rows(int vecs) {
  const int rows = kAccumulators / vecs;
  return rows < kMaxRows ? rows : kMaxRows;
}

template <class C>
struct TileArgs {
  const void* a[kMaxRows];  // row r, element k at a[r] + k * a_step
  int64_t a_step;
  const void* b;        // (K, b_step), of which the tile takes V * lanes
  int64_t b_step;       // elements from one k to the next
  int64_t K;            // even where operands go in pairs
  const C* init;        // row r starts from init + r * init_stride; null: zero
  int64_t init_stride;  // 0: the same for all rows
  C* c;                 // row r at c + r * c_stride
  int64_t c_stride;
  int64_t chain = kChain;  // even where operands go in pairs
};

// Whether a tile has so many rows that it fetches them ahead.
template <int R>
constexpr bool kFetches = R >= 4;

// One step along k: what Tile adds to its sums. `columns`: k walks down columns, which kTwoForms
// tells apart.
template <class Op, int R, int V>
struct TileStep {
  typedef Op C;
  static constexpr int64_t kAtOnce = 1;
  static constexpr bool kTwoForms = kFetches<R>;
  typedef Vec<C> Sums[R][V];

  VEC_FN Vec<C> sum(const Sums& acc, int r, int v) { return acc[r][v]; }

  template <bool columns>
  VEC_FN void add(Sums& acc, const C* const (&a)[R], int64_t a_offset, int64_t a_step, const C* b,
                  int64_t) {
    Vec<C> w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = load(b + v * kLanes<C>);
    // No hardware foresees the next rows.
    if constexpr (columns && kFetches<R>) {
      __builtin_prefetch(a[0] + a_offset + kAhead * a_step);
      __builtin_prefetch(a[R - 1] + a_offset + kAhead * a_step);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Vec<C> x = splat(a[r][a_offset]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = fma(x, w[v], acc[r][v]);
    }
  }
};

#ifdef FUSED_RNN_MATRIX_BF16
template <int R, int V>
struct TileStep<Bf16, R, V> : MatrixStep<R, V> {};
#elif defined(FUSED_RNN_DOT_BF16)
// bfloat16 operands in pairs of k, float sums.
template <int R, int V>
struct TileStep<Bf16, R, V> {
  typedef float C;
  static constexpr int64_t kAtOnce = 2;
  static constexpr bool kTwoForms = false;
  typedef Vec<C> Sums[R][V];

  VEC_FN Vec<C> sum(const Sums& acc, int r, int v) { return acc[r][v]; }

  template <bool>
  VEC_FN void add(Sums& acc, const Bf16* const (&a)[R], int64_t a_offset, int64_t, const Bf16* b,
                  int64_t) {
    constexpr int L = kLanes<C>;
    IntV w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = read<IntV>(b + 2 * v * L);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const IntV x = read<int32_t>(a[r] + a_offset) + IntV{};
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = add_pairs(acc[r][v], x, w[v]);
    }
  }
};
#endif

template <class Op>
struct SumType {
  typedef typename TileStep<Op, 1, 1>::C type;
};
template <int parts>
struct SumType<Parts<parts>> {
  typedef float type;
};
template <class Op>
using SumOf = typename SumType<Op>::type;

template <class Op, int R, int V>
void tile(const TileArgs<SumOf<Op>>& args) {
  typedef SumOf<Op> C;
  typedef TileStep<Op, R, V> Step;
  constexpr int L = kLanes<C>;
  const Op* a[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) a[r] = static_cast<const Op*>(args.a[r]);
  const Op* b = static_cast<const Op*>(args.b);
  const int64_t a_step = args.a_step, b_step = args.b_step, c_stride = args.c_stride;
  C* const c = args.c;
  const C* base = args.init;
  int64_t base_stride = args.init_stride, k = 0;
  do {
    const int64_t end = k + args.chain < args.K ? k + args.chain : args.K;
    typename Step::Sums sums = {};
    if (Step::kTwoForms && a_step == 1) {
      for (; k + Step::kAtOnce <= end; k += Step::kAtOnce)
        Step::template add<false>(sums, a, k, 1, b + k * b_step, b_step);
    } else {
      for (; k + Step::kAtOnce <= end; k += Step::kAtOnce)
        Step::template add<true>(sums, a, k * a_step, a_step, b + k * b_step, b_step);
    }
    // Operands go in pairs where they do not go alone.
    if constexpr (Step::kAtOnce > 2) {
      if (k < end) Step::add_rest(sums, a, k * a_step, b + k * b_step);
    }
    k = end;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        Vec<C> sum = Step::sum(sums, r, v);
        if (base) sum += load(base + r * base_stride + v * L);
        store(c + r * c_stride + v * L, sum);
      }
    }
    base = c;
    base_stride = c_stride;
  } while (k < args.K);
}

template <class Op>
using TileFn = void (*)(const TileArgs<SumOf<Op>>&);

template <class Op, int V, class Rows>
struct TileTable;
template <class Op, int V, int... R>
struct TileTable<Op, V, std::integer_sequence<int, R...>> {
  static constexpr TileFn<Op> tiles[] = {tile<Op, R + 1, V>...};
};

template <class Op, int V>
VEC_FN TileFn<Op> tile_of(int rows) {
  return TileTable<Op, V, std::make_integer_sequence<int, max_rows(V)>>::tiles[rows - 1];
}

// Computes a tile of `rows` x `vecs`.
template <class Op>
VEC_FN void run_tile(int rows, int vecs, const TileArgs<SumOf<Op>>& args) {
  switch (vecs) {
    case 1:
      return tile_of<Op, 1>(rows)(args);
    case 2:
      return tile_of<Op, 2>(rows)(args);
    case 3:
      return tile_of<Op, 3>(rows)(args);
    default:
      return tile_of<Op, 4>(rows)(args);
  }
}

// Cuts `rows` into the fewest tiles, of nearly equal size: f(first, count).
template <class F>
VEC_FN void for_tiles(int64_t rows, int vecs, F f) {
  const int64_t limit = max_rows(vecs);
  const int64_t tiles = (rows + limit - 1) / limit;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = rows * i / tiles;
    f(first, rows * (i + 1) / tiles - first);
  }
}

// Cuts `rows` into blocks of `limit` and a rest.
template <class F>
VEC_FN void for_blocks(int64_t rows, int64_t limit, F f) {
  for (int64_t first = 0; first < rows; first += limit) {
    f(first, rows - first < limit ? rows - first : limit);
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
