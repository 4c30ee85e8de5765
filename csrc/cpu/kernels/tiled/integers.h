// SPDX-License-Identifier: MIT
// Products of integers on tiles. A panel of int8 weights is what a tile register takes of it as it
// lies: 16 columns of four bytes each, 16 times along k.
#pragma once

#include <cstdint>

#include "../operand.h"
#include "registers.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Fours along k that one product takes.
constexpr int kTileFours = 16;

// The shapes of a thread's registers between products: of `rows` rows, and of what is left of k.
// Loading them takes as long as some products, and they seldom change.
struct IntegerShapes {
  int rows = 0, rest = 0;  // no rows: not configured
};
inline thread_local IntegerShapes integer_shapes;

// Releases the registers of a thread that has multiplied.
struct IntegerTileScope {
  ~IntegerTileScope() {
    if (integer_shapes.rows) tile_release();
    integer_shapes = {};
  }
};

// Registers: 0 to 3 sums, 4 and 5 rows and weights, 6 and 7 the same of what is left of k.
VEC_FN void shape_tiles(int rows, int rest) {
  if (rows == integer_shapes.rows && rest == integer_shapes.rest) return;
  TileShapes shapes;
  for (int t : {0, 1, 2, 3, 4, 6}) shapes.of[t].rows = rows;
  // Where nothing is left these two are not used, but must have some shape.
  shapes.of[6].bytes = 4 * (rest ? rest : kTileFours);
  shapes.of[7].rows = rest ? rest : kTileFours;
  tile_configure(shapes);
  integer_shapes = {rows, rest};
}

// Sums of `rows` rows, that lie `a_stride` bytes apart, and V times 16 columns: (V, rows, 16).
template <int V>
inline void multiply_integers(int rows, const Int8* a, int64_t a_stride, const Int8* b,
                              int64_t b_stride, int64_t fours, int32_t* sums) {
  constexpr int64_t kColumns = kTileRowBytes;  // bytes of 16 columns
  const int64_t whole = fours / kTileFours;
  shape_tiles(rows, int(fours % kTileFours));
  tile_zero<0>();
  if constexpr (V > 1) tile_zero<1>();
  if constexpr (V > 2) tile_zero<2>();
  if constexpr (V > 3) tile_zero<3>();
  const auto add = [&]<int x, int w>() {
    tile_load<x>(a, a_stride);
    const auto column = [&]<int v>() {
      tile_load<w>(b + v * kColumns, b_stride);
      tile_product_integers<v, x, w>();
    };
    column.template operator()<0>();
    if constexpr (V > 1) column.template operator()<1>();
    if constexpr (V > 2) column.template operator()<2>();
    if constexpr (V > 3) column.template operator()<3>();
    a += kTileRowBytes;
    b += kTileFours * b_stride;
  };
  for (int64_t k = 0; k < whole; ++k) add.template operator()<4, 5>();
  if (integer_shapes.rest) add.template operator()<6, 7>();
  const int64_t ld = kColumns, block = rows * 16;
  tile_store<0>(sums, ld);
  if constexpr (V > 1) tile_store<1>(sums + block, ld);
  if constexpr (V > 2) tile_store<2>(sums + 2 * block, ld);
  if constexpr (V > 3) tile_store<3>(sums + 3 * block, ld);
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
