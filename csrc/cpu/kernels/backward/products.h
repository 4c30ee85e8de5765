// SPDX-License-Identifier: MIT
// The products of the walk back: gradients with weights, packed or as they lie.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::pack(const Product& product, int64_t row, int64_t k, int64_t K,
                                      int rank, int size) {
  if (!product.packed) return;
  const PanelMap<C>& map = product.map;
  const Matrix<IO> from{product.matrix + row * map.units, 1, map.units};
  const Range mine(map.panels(), rank, size);
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    pack_panel(product.panel(p), map, p, from, K, product.depth, k);
  }
}

template <class IO, class Op, Cell cell>
TileArgs<typename BackwardPass<IO, Op, cell>::C> BackwardPass<IO, Op, cell>::tile_of(
    const Product& product, int64_t panel, int64_t k, int64_t row, int64_t K) {
  TileArgs<C> tile;
  tile.K = K;
  tile.a_step = 1;
  tile.init = nullptr;
  if (product.packed) {
    tile.b_step = product.map.panel_columns();
    tile.b = product.panel(panel) + k * tile.b_step;
  } else {
    tile.b_step = product.map.units;
    tile.b = product.matrix + row * tile.b_step + panel * product.map.width();
  }
  return tile;
}

template <class IO, class Op, Cell cell>
template <class Row>
void BackwardPass<IO, Op, cell>::multiply(const Product& product, int64_t panel, Row row,
                                          int64_t ld, int64_t count, C* sums) {
  const int vecs = product.map.used_vecs(panel);
  if constexpr (!kTiled<Op>) {
    if (!product.packed) {
      TileArgs<C> tile = tile_of(product, panel, 0, 0, product.depth);
      for (int64_t r = 0; r < count; ++r) tile.a[r] = row(r);
      tile.c = sums;
      tile.c_stride = vecs * L;
      return run_tile<Op>(int(count), vecs, tile);
    }
  }
  multiply_panel<Op>(product.map, panel, product.panel(panel), product.depth, row, ld, count,
                     nullptr, sums, vecs * L);
}

template <class IO, class Op, Cell cell>
template <class F>
void BackwardPass<IO, Op, cell>::for_products(const Product& product, int64_t panel,
                                              const Op* operand, int64_t ld, int64_t t,
                                              int64_t offset, F f) {
  alignas(64) C sums[kBlockRows<Op> * kPlainVecs * L];
  const PanelMap<C>& map = product.map;
  const int vecs = map.used_vecs(panel);
  for_rows<Op>(rows_.active(t), vecs, [&](int64_t first, int64_t count) {
    const auto row = [&](int64_t r) { return operand + operand_row(first + r, offset) * ld; };
    multiply(product, panel, row, ld, count, sums);
    for (int64_t r = 0; r < count; ++r) {
      const Visit a = visit(first + r, t, offset);
      for (int v = 0; v < vecs; ++v) {
        const int64_t u = panel * map.width() + v * L;
        f(a, u, map.units - u, load(sums + (r * vecs + v) * L));
      }
    }
  });
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
