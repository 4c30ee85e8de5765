// SPDX-License-Identifier: MIT
// The matrix product micro-kernel: a few rows of A against one packed panel of B.
//
// A panel is (K, V, lanes): V vectors of output columns for each k. Every output element is one
// chain of fused multiply-adds over k in order, whatever the number of rows in the tile, so that
// a row's result does not depend on the batch it came with.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

constexpr int kMaxVecs = 4;
constexpr int kMaxRows = 12;

// Rows a tile of V vectors can keep in registers.
constexpr int max_rows(int vecs) {
  const int rows = kAccumulators / vecs;
  return rows < kMaxRows ? rows : kMaxRows;
}

template <class C>
struct TileArgs {
  const void* a[kMaxRows];  // row r, element k at a[r] + k * a_step
  int64_t a_step;
  const void* b;        // (K, b_vecs, lanes)
  int64_t b_vecs;       // vectors from one k to the next
  int64_t K;            // even where operands go in pairs
  const C* init;        // row r starts from init + r * init_stride; null: zero
  int64_t init_stride;  // 0: the same for all rows
  C* c;                 // row r at c + r * c_stride
  int64_t c_stride;
};

template <class Op, int R, int V>
struct Tile {
  typedef Op C;

  static void run(const TileArgs<C>& args) {
    constexpr int L = kLanes<C>;
    Vec<C> acc[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        acc[r][v] = args.init ? load(args.init + r * args.init_stride + v * L) : Vec<C>{};
      }
    }
    const C* a[R];
    for (int r = 0; r < R; ++r) a[r] = static_cast<const C*>(args.a[r]);
    const C* b = static_cast<const C*>(args.b);
    const int64_t a_step = args.a_step, b_step = args.b_vecs * L;
    for (int64_t k = 0; k < args.K; ++k) {
      Vec<C> w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = load(b + k * b_step + v * L);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const Vec<C> x = splat(a[r][k * a_step]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = fma(x, w[v], acc[r][v]);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(args.c + r * args.c_stride + v * L, acc[r][v]);
    }
  }
};

#ifdef FUSED_RNN_DOT_BF16
// bfloat16 operands in pairs of k, float sums.
template <int R, int V>
struct Tile<Bf16, R, V> {
  typedef float C;

  static void run(const TileArgs<C>& args) {
    constexpr int L = kLanes<C>;
    Vec<C> acc[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        acc[r][v] = args.init ? load(args.init + r * args.init_stride + v * L) : Vec<C>{};
      }
    }
    const char* b = static_cast<const char*>(args.b);
    for (int64_t k = 0; k < args.K; k += 2) {
      __m512bh w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        w[v] = (__m512bh)_mm512_loadu_si512(b + (k / 2 * args.b_vecs + v) * 64);
      }
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, static_cast<const Bf16*>(args.a[r]) + k, sizeof pair);
        const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          acc[r][v] = (Vec<C>)_mm512_dpbf16_ps((__m512)acc[r][v], x, w[v]);
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(args.c + r * args.c_stride + v * L, acc[r][v]);
    }
  }
};
#endif

template <class Op>
using TileFn = void (*)(const TileArgs<typename Tile<Op, 1, 1>::C>&);

template <class Op, int V, class Rows>
struct TileTable;
template <class Op, int V, int... R>
struct TileTable<Op, V, std::integer_sequence<int, R...>> {
  static constexpr TileFn<Op> tiles[] = {Tile<Op, R + 1, V>::run...};
};

template <class Op, int V>
VEC_FN TileFn<Op> tile_of(int rows) {
  return TileTable<Op, V, std::make_integer_sequence<int, max_rows(V)>>::tiles[rows - 1];
}

// Computes a tile of `rows` x `vecs`.
template <class Op>
VEC_FN void run_tile(int rows, int vecs, const TileArgs<typename Tile<Op, 1, 1>::C>& args) {
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

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
