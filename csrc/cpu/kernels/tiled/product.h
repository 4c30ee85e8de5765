// SPDX-License-Identifier: MIT
// The matrix product micro-kernel on tile registers: up to 32 rows in tiles against a packed panel.
//
// Rows of a tile do not meet: a row's sums are taken in one order, whatever rows lie beside it.
// Of numbers in two parts three products are taken, of numbers in three parts six: what is left out
// is below the rounding of their sum.
#pragma once

#include <type_traits>

#include "../operand.h"
#include "../vec.h"
#include "parts.h"
#include "registers.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

constexpr int64_t kTileLine = 64;  // bytes of a tile's row

template <int parts>
struct TiledArgs {
  const Parts<parts>* a;  // the tile of the first row and the first k
  int64_t a_tile;         // elements from one tile of rows to the next
  const Parts<parts>* b;  // a panel: for each pair of vectors (K / 32, 2, parts, 16, 32)
  int64_t K;              // a multiple of 32
  int vecs, used_vecs;    // vectors of a panel, and those that hold columns
  const float* init;      // row r starts from init + r * init_stride; null: zero; not c
  int64_t init_stride;    // 0: the same for all rows
  float* c;               // row r at c + r * c_stride, with room for whole tiles
  int64_t c_stride;
};

// Which registers hold what: up to four sums first, then rows, then weights; of more than three
// vectors the last takes the place of the first.
template <int R, int V>
struct TiledRegisters {
  static_assert(R * V <= 4);
  static constexpr int kFree = 8 - R * V - R;
  static constexpr bool kKeepsB = kFree >= V;
  static constexpr int sum(int r, int v) { return r * V + v; }
  static constexpr int a(int r) { return R * V + r; }
  static constexpr int b(int v) { return R * V + R + v % kFree; }
};

template <int first, int last, class F>
VEC_FN void unrolled(const F& f) {
  if constexpr (first < last) {
    f(std::integral_constant<int, first>{});
    unrolled<first + 1, last>(f);
  }
}

// Loads part pa of the rows and part pb of the weights, unless the registers hold them already,
// and adds their products.
template <int parts, int R, int V, int pa, int pb, bool new_a = true, bool new_b = true>
VEC_FN void tiled_step(const uint16_t* a, int64_t a_tile, const uint16_t* const (&b)[2]) {
  typedef TiledRegisters<R, V> Reg;
  if constexpr (new_a) {
    unrolled<0, R>(
        [&](auto r) { tile_load<Reg::a(r)>(a + r * a_tile + pa * kTileElements, kTileLine); });
  }
  unrolled<0, V>([&](auto v) {
    if constexpr (new_b || !Reg::kKeepsB) {
      tile_load<Reg::b(v)>(b[v / 2] + (v % 2 * parts + pb) * kTileElements, kTileLine);
    }
    unrolled<0, R>([&](auto r) { tile_product<Reg::sum(r, v), Reg::a(r), Reg::b(v)>(); });
  });
}

// All products of one block of k, the largest last.
template <int parts, int R, int V>
VEC_FN void tiled_steps(const uint16_t* a, int64_t a_tile, const uint16_t* const (&b)[2]) {
  if constexpr (parts == 3) {
    tiled_step<parts, R, V, 0, 2>(a, a_tile, b);
    tiled_step<parts, R, V, 0, 1, false, true>(a, a_tile, b);
    tiled_step<parts, R, V, 1, 1, true, false>(a, a_tile, b);
    tiled_step<parts, R, V, 1, 0, false, true>(a, a_tile, b);
    tiled_step<parts, R, V, 2, 0, true, false>(a, a_tile, b);
    tiled_step<parts, R, V, 0, 0, true, false>(a, a_tile, b);
  } else if constexpr (parts == 2) {
    tiled_step<parts, R, V, 0, 1>(a, a_tile, b);
    tiled_step<parts, R, V, 1, 0>(a, a_tile, b);
    tiled_step<parts, R, V, 0, 0, true, false>(a, a_tile, b);
  } else {
    tiled_step<parts, R, V, 0, 0>(a, a_tile, b);
  }
}

// Where vector v of a panel has its tiles at depth k. Pairs of vectors lie together, so that what
// one pass of the micro-kernel reads is one stretch of memory.
template <class Op>
VEC_FN Op* tiles_at(Op* panel, int64_t depth, int vecs, int v, int64_t k) {
  const int pair = v / 2 * 2, width = vecs - pair < 2 ? 1 : 2;
  return panel + (pair * (depth / kTileDepth) + k / kTileDepth * width + v - pair) * kTileElements;
}

// R tiles of rows times V vectors of a panel from `vector` on, an even one.
template <int parts, int R, int V>
void tiled_block(const TiledArgs<parts>& args, int vector) {
  typedef TiledRegisters<R, V> Reg;
  constexpr int L = kLanes<float>;
  const int64_t c_tile = kTileRows * args.c_stride, c_bytes = args.c_stride * sizeof(float);
  const int64_t init_tile = kTileRows * args.init_stride;
  const int64_t init_bytes = args.init_stride * sizeof(float);
  float* const c = args.c + vector * L;
  const float* const init = args.init ? args.init + vector * L : nullptr;
  unrolled<0, R>([&](auto r) {
    unrolled<0, V>([&](auto v) {
      if (init) {
        tile_load<Reg::sum(r, v)>(init + r * init_tile + v * L, init_bytes);
      } else {
        tile_zero<Reg::sum(r, v)>();
      }
    });
  });
  const uint16_t* a = words(args.a);
  const uint16_t* b[2];
  int64_t b_step[2];
  for (int pair = 0; pair < 2; ++pair) {
    const int first = vector + (2 * pair < V ? 2 * pair : 0);
    b[pair] = words(tiles_at(args.b, args.K, args.vecs, first, 0));
    b_step[pair] = (args.vecs - first < 2 ? 1 : 2) * parts * kTileElements;
  }
  for (int64_t k = 0; k < args.K; k += kTileDepth) {
    tiled_steps<parts, R, V>(a, args.a_tile * parts, b);
    a += parts * kTileElements;
    b[0] += b_step[0];
    b[1] += b_step[1];
  }
  unrolled<0, R>([&](auto r) {
    unrolled<0, V>([&](auto v) { tile_store<Reg::sum(r, v)>(c + r * c_tile + v * L, c_bytes); });
  });
}

// R tiles of rows times all vectors of a panel. Four sums hide how long a product takes.
template <int parts, int R>
void tiled_rows(const TiledArgs<parts>& args) {
  constexpr int V = 4 / R;
  int v = 0;
  for (; v + V <= args.used_vecs; v += V) tiled_block<parts, R, V>(args, v);
  const int rest = args.used_vecs - v;
  if (rest == 1) tiled_block<parts, R, 1>(args, v);
  if constexpr (R == 1) {
    if (rest == 2) tiled_block<parts, R, 2>(args, v);
    if (rest == 3) tiled_block<parts, R, 3>(args, v);
  }
}

// Element k of an operand's row, and of the weights of L columns, put together again.
template <int parts>
VEC_FN float whole(const uint16_t* row, int64_t k) {
  float sum = 0;
  const uint16_t* at = row + k / kTileDepth * parts * kTileElements + k % kTileDepth;
  for (int j = parts; j-- > 0;) sum += bf16_to_float(at[j * kTileElements]);
  return sum;
}

template <int parts>
VEC_FN void whole_pair(const uint16_t* b, int64_t k, FloatV (&w)[2]) {
  w[0] = w[1] = FloatV{};
  for (int j = parts; j-- > 0;) {
    IntV pair;
    __builtin_memcpy(&pair, b + j * kTileElements + k % kTileDepth / 2 * kTileDepth, sizeof pair);
    w[0] += (FloatV)(pair << 16);
    w[1] += (FloatV)(pair & (int32_t)0xFFFF0000);
  }
}

// Infinity times zero, where the zero is a part of a number that is none, is a fault of splitting:
// rows with sums that are no finite numbers are computed again, from whole numbers.
template <int parts>
void mend_row(const TiledArgs<parts>& args, int row) {
  constexpr int L = kLanes<float>;
  const uint16_t* a =
      words(args.a) + row / kTileRows * args.a_tile * parts + row % kTileRows * kTileDepth;
  for (int v = 0; v < args.used_vecs; ++v) {
    FloatV sum{};
    if (args.init) sum = load(args.init + row * args.init_stride + v * L);
    for (int64_t k = 0; k < args.K; k += 2) {
      FloatV w[2];
      whole_pair<parts>(words(tiles_at(args.b, args.K, args.vecs, v, k)), k, w);
      sum = fma(splat(whole<parts>(a, k)), w[0], sum);
      sum = fma(splat(whole<parts>(a, k + 1)), w[1], sum);
    }
    store(args.c + row * args.c_stride + v * L, sum);
  }
}

VEC_FN bool all_finite(const float* sums, int vecs) {
  FloatV zero{};
  for (int v = 0; v < vecs; ++v) {
    const FloatV x = load(sums + v * kLanes<float>);
    zero += x - x;
  }
  return lanes_above(splat(1.0f), zero) == (1u << kLanes<float>)-1;
}

// Computes `rows` rows, up to kBlockRows, of a panel.
template <int parts>
VEC_FN void run_tiled(int rows, const TiledArgs<parts>& args) {
  if (rows > kTileRows) {
    tiled_rows<parts, 2>(args);
  } else {
    tiled_rows<parts, 1>(args);
  }
  if constexpr (parts > 1) {
    for (int r = 0; r < rows; ++r) {
      if (!all_finite(args.c + r * args.c_stride, args.used_vecs)) mend_row(args, r);
    }
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
