// SPDX-License-Identifier: MIT
// Tiles of weights and of factors of their gradients: what the product reads as its second operand
// has pairs of rows k and k + 1 side by side, (16, 16, 2).
#pragma once

#include <type_traits>

#include "../integers.h"
#include "../pack.h"
#include "parts.h"
#include "product.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// The high halves of two vectors' lanes side by side, the first one low.
VEC_FN IntV pair_halves(IntV first, IntV second) {
  return (second & (int32_t)0xFFFF0000) | ((first >> 16) & 0xFFFF);
}

// Rows k and k + 1 of a second operand: pair number `pair` of its tiles.
template <int parts>
VEC_FN void put_pair(Parts<parts>* tiles, int64_t pair, FloatV first, FloatV second) {
  IntV a[parts], b[parts];
  split(first, a);
  split(second, b);
  for (int j = 0; j < parts; ++j) {
    const IntV both = pair_halves(a[j], b[j]);
    __builtin_memcpy(words(tiles) + j * kTileElements + pair * kTileDepth, &both, sizeof both);
  }
}

// Turns tiles of 16 rows by 16 pairs around: rows of pairs become pairs of rows.
VEC_FN void transpose_pairs(uint16_t* to, const uint16_t* from, int64_t from_stride) {
  store_transposed<float>(reinterpret_cast<float*>(to), kTileDepth / 2, kTileRows, [&](int64_t l) {
    return load(reinterpret_cast<const float*>(from + l * from_stride));
  });
}

// The tiles of one vector's columns, `columns` of them real, and K rows of a matrix, up to 32.
template <int parts, class IO>
void pack_tile(Parts<parts>* to, const Matrix<IO>& from, int64_t columns, int64_t K) {
  constexpr int L = kLanes<float>;
  if (from.column_step == 1) {
    for (int64_t k = 0; k < kTileDepth; k += 2) {
      const IO* at = from.data + k * from.k_step;
      put_pair(to, k / 2, k < K ? load_n<float>(at, columns) : FloatV{},
               k + 1 < K ? load_n<float>(at + from.k_step, columns) : FloatV{});
    }
    return;
  }
  if constexpr (parts == 1 && std::is_same<IO, Bf16>::value) {
    if (columns == L && K == kTileDepth) {
      return transpose_pairs(words(to), &from.data->bits, from.column_step);
    }
  }
  alignas(64) Parts<parts> rows[kTileElements];
  for (int64_t l = 0; l < L; ++l) {
    put_row(rows, kTileDepth, l, l < columns ? from.data + l * from.column_step : nullptr, K);
  }
  for (int j = 0; j < parts; ++j) {
    transpose_pairs(words(to) + j * kTileElements, words(rows) + j * kTileElements, kTileDepth);
  }
}

// The same for panels of tiles, from a row that is a multiple of 32.
template <int parts, class IO>
void pack_panel(Parts<parts>* to, const PanelMap<float>& map, int64_t panel, const Matrix<IO>& from,
                int64_t K, int64_t depth, int64_t row = 0) {
  constexpr int L = kLanes<float>;
  depth = round_up(depth, kTileDepth);
  for (int64_t k = 0; k < K; k += kTileDepth) {
    for (int i = 0; i < map.panel_vecs(); ++i) {
      const int64_t unit = panel * map.width() + i % map.vecs * L;
      const int64_t columns = max(0, min(L, map.units - unit));
      Matrix<IO> part = from;
      part.data += k * from.k_step;
      if (columns > 0) {
        part.data += ((map.first_gate + i / map.vecs) * map.units + unit) * from.column_step;
      }
      pack_tile(tiles_at(to, depth, map.panel_vecs(), i, row + k), part, columns,
                min(kTileDepth, K - k));
    }
  }
}

// Rows of K elements times a panel whose rows are K deep.
template <int parts>
VEC_FN TiledArgs<parts> panel_tiles(const PanelMap<float>& map, int64_t panel,
                                    const Parts<parts>* packed, int64_t K) {
  TiledArgs<parts> args;
  args.b = packed;
  args.K = round_up(K, kTileDepth);
  args.vecs = map.panel_vecs();
  args.used_vecs = map.used_vecs(panel);
  args.init = nullptr;
  args.init_stride = 0;
  return args;
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
