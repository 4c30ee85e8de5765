// SPDX-License-Identifier: MIT
// Products of rows with packed panels, whichever way the operands lie.
#pragma once

#include "../problem.h"
#include "pack.h"
#include "tile.h"
#ifdef FUSED_RNN_TILES
#include "tiled/pack.h"
#include "tiled/product.h"
#endif

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Cuts `rows` into what `multiply_panel` takes at once: f(first, count).
template <class Op, class F>
VEC_FN void for_rows(int64_t rows, int vecs, F f) {
  if constexpr (kTiled<Op>) {
    for_blocks(rows, kBlockRows<Op>, f);
  } else {
    for_tiles(rows, vecs, f);
  }
}

// `count` rows of K elements times panel `index` of a map, each added to init or to zero. row(r)
// tells where row r lies; rows in tiles begin with a tile and are `ld` wide. c has room for whole
// tiles.
template <class Op, class Row>
VEC_FN void multiply_panel(const PanelMap<SumOf<Op>>& map, int64_t index, const Op* panel,
                           int64_t K, Row row, int64_t ld, int64_t count, const SumOf<Op>* init,
                           SumOf<Op>* c, int64_t c_stride) {
  if constexpr (kTiled<Op>) {
    auto tiles = panel_tiles(map, index, panel, K);
    tiles.a = row(0);
    tiles.a_tile = kRowsTogether<Op> * ld;
    tiles.init = init;
    tiles.c = c;
    tiles.c_stride = c_stride;
    run_tiled(int(count), tiles);
  } else {
    TileArgs<SumOf<Op>> tile = panel_tile<Op>(map, panel, K);
    for (int64_t r = 0; r < count; ++r) tile.a[r] = row(r);
    tile.init = init;
    tile.init_stride = 0;
    tile.c = c;
    tile.c_stride = c_stride;
    run_tile<Op>(int(count), map.used_vecs(index), tile);
  }
}

// The same with panel `index` of a matrix that is stored (stored.h), where such are served.
template <class Op>
VEC_FN void multiply_stored(const PanelMap<float>& map, int64_t index, const StoredMatrix& matrix,
                            int64_t K, const typename Kept<Op>::Factor* const* a, int64_t count,
                            const float* init, float* c, int64_t c_stride);

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
