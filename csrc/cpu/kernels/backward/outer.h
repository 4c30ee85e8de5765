// SPDX-License-Identifier: MIT
// Sums of outer products over the rows of a chunk: the weight gradients.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../arena.h"
#include "../pack.h"
#include "../rows.h"
#include "../tile.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// A gradient summed over chunks: the output itself where rows are whole vectors of its own
// format, else a padded buffer that is copied out at the end.
template <class IO, class C>
struct GradSum {
  IO* out = nullptr;
  C *sum = nullptr, *buffer = nullptr;
  int64_t rows = 0, columns = 0, ld = 0;

  // Takes a buffer where one is needed; bind() names the output.
  static GradSum reserve(Arena& arena, int64_t rows, int64_t columns) {
    GradSum g;
    g.rows = rows;
    g.columns = columns;
    g.ld = round_up(columns, kLanes<C>);
    if (!std::is_same<IO, C>::value || g.ld != columns) g.buffer = arena.take<C>(rows * g.ld);
    return g;
  }

  void bind(void* output) {
    out = static_cast<IO*>(output);
    sum = buffer ? buffer : static_cast<C*>(output);
  }

  void finish(const Range& mine) const {
    if (!buffer) return;
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      convert(out + r * columns, sum + r * ld, columns, columns);
    }
  }
};

// Sums over rows of the chunk are taken in blocks of this many, for the sake of accuracy: few
// enough beside what a reference that sums step by step takes at once. A long sequence has many
// blocks: those of a chunk are added up before the whole grows by their sum.
constexpr int64_t kBlock = 32;

// Rows first .. first + rows of a gradient, from the columns of `a` that start at `column`.
struct Segment {
  int64_t column, first, rows;
};

// to[r] += scale[r] * row for the rows r of a range; the first time, = instead of +=.
template <class C>
VEC_FN void add_scaled(C* to, int64_t ld, const C* scale, const Range& rows, const C* row, int vecs,
                       bool first_time) {
  constexpr int L = kLanes<C>;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    for (int v = 0; v < vecs; ++v) {
      C* sum = to + r * ld + v * L;
      const Vec<C> product = splat(scale[r]) * load(row + v * L);
      store(sum, first_time ? product : load(sum) + product);
    }
  }
}

// sum = or += rows of sums that lie ld_from apart.
template <class C>
VEC_FN void add_rows(C* sum, int64_t ld, const C* from, int64_t ld_from, int64_t rows, int vecs,
                     bool first_time) {
  constexpr int L = kLanes<C>;
  for (int64_t r = 0; r < rows; ++r) {
    for (int v = 0; v < vecs; ++v) {
      C* to = sum + r * ld + v * L;
      const Vec<C> value = load(from + r * ld_from + v * L);
      store(to, first_time ? value : load(to) + value);
    }
  }
}

// Rows of a gradient's factor in pairs, columns of a segment that this thread multiplies: of rows k
// and k + 1, a column's two numbers stand side by side.
template <class Op, class C>
VEC_FN void pair_rows(Op* pairs, const C* a, int64_t ld, int64_t K, const Segment& segment,
                      int rank, int size) {
  constexpr int L = kLanes<C>;
  const Range mine(segment.rows, rank, size);
  for (int64_t k = 0; k < K; k += 2) {
    for (int64_t i = mine.begin; i < mine.end; i += L) {
      const int64_t n = min(L, mine.end - i);
      const C* from = a + k * ld + segment.column + i;
      alignas(64) Op both[2 * L];
      store_operand(both, load_n<C>(from, n), k + 1 < K ? load_n<C>(from + ld, n) : Vec<C>{});
      __builtin_memcpy(pairs + k * ld + 2 * (segment.column + i), both, 2 * n * sizeof(Op));
    }
  }
}

// sum[segment rows] += a[:, segment columns]^T times the rows that load(k, column, lanes) gives;
// the first time, = instead of +=. Threads share the rows of every segment; `panel` is this
// thread's own. operand: `a` itself, or in pairs of rows, where the micro-kernel takes such.
template <class Op, class IO, class C, int count, class Load>
VEC_FN void add_outer(const GradSum<IO, C>& grad, const C* a, const Op* operand, int64_t ld_a,
                      int64_t K, const Segment (&segments)[count], bool first_time, int rank,
                      int size, C* panel, Load load_row) {
  constexpr int L = kLanes<C>;
  const PanelMap<C> map = plain_map<C>(grad.columns);
  for (int64_t p = 0; p < map.panels(); ++p) {
    const int vecs = map.used_vecs(p);
    const int64_t column = p * map.width();
    const bool alone = K == 1;
    Op* packed = reinterpret_cast<Op*>(panel);
    for (int64_t k = 0; k < K; k += kDepth<Op>) {
      for (int v = 0; v < vecs; ++v) {
        const int64_t u = column + v * L, lanes = grad.columns - u;
        const Vec<C> first = load_row(k, u, lanes);
        if (alone) {
          store(panel + v * L, first);
          continue;
        }
        const bool second = kDepth<Op> == 2 && k + 1 < K;
        store_operand(packed + (k * vecs + v * kDepth<Op>)*L, first,
                      second ? load_row(k + 1, u, lanes) : Vec<C>{});
      }
    }
    alignas(64) C sums[kAccumulators * L];
    TileArgs<C> tile;
    tile.a_step = ld_a;
    tile.b = panel;
    tile.b_step = vecs * L;
    tile.K = round_up(K, kDepth<Op>);
    tile.chain = kBlock;
    tile.init = nullptr;
    tile.c = sums;
    tile.c_stride = vecs * L;
    for (const Segment& segment : segments) {
      const Range mine(segment.rows, rank, size);
      if (alone) {
        C* to = grad.sum + segment.first * grad.ld + column;
        add_scaled(to, grad.ld, a + segment.column, mine, panel, vecs, first_time);
        continue;
      }
      for_tiles(mine.end - mine.begin, vecs, [&](int64_t first, int64_t rows) {
        const int64_t row = mine.begin + first;
        for (int64_t r = 0; r < rows; ++r) {
          tile.a[r] = operand + kDepth<Op> * (segment.column + row + r);
        }
        run_tile<Op>(int(rows), vecs, tile);
        C* to = grad.sum + (segment.first + row) * grad.ld + column;
        add_rows(to, grad.ld, sums, tile.c_stride, rows, vecs, first_time);
      });
    }
  }
}

// sum[column] += the column's sum over K rows of a, for this thread's vectors of columns.
template <class C>
VEC_FN void add_columns(C* sum, const C* a, int64_t ld_a, int64_t K, const Range& vectors) {
  constexpr int L = kLanes<C>;
  for (int64_t v = vectors.begin; v < vectors.end; ++v) {
    Vec<C> total{};
    for (int64_t first = 0; first < K; first += kBlock) {
      Vec<C> part{};
      const int64_t end = min(first + kBlock, K);
      for (int64_t k = first; k < end; ++k) part += load(a + k * ld_a + v * L);
      total += part;
    }
    store(sum + v * L, load(sum + v * L) + total);
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
