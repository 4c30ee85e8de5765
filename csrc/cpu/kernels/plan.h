// SPDX-License-Identifier: MIT
// How threads share a layer.
#pragma once

#include <cstdint>

#include "../problem.h"
#include "integers.h"
#include "operand.h"
#include "place.h"
#include "tile.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Cycles that one step takes one thread: products of `panels` panels, of `vecs` vectors by K,
// with `rows` rows. A weight vector costs 2 cycles from the second cache level, of which weights
// have three quarters, and 6 from beyond.
VEC_FN double step_cycles(int64_t rows, int64_t panels, int64_t K, int vecs) {
  const int64_t limit = max_rows(vecs), tiles = (rows + limit - 1) / limit;
  const double tile_rows = double(rows) / double(max(tiles, 1));
  const double vectors = double(panels * K * vecs);
  const double first = vectors * FUSED_RNN_VECTOR_BYTES > 0.75 * near_cache_bytes() ? 6 : 2;
  const double near = tile_rows > 2 ? tile_rows : 2, far = tile_rows > first ? tile_rows : first;
  return vectors * (far + near * double(max(tiles, 1) - 1));
}

// The same on tiles: a product takes 16 cycles, a kilobyte of weights 20 from the second cache
// level, 100 from beyond.
template <int parts>
VEC_FN double tiled_step_cycles(int64_t rows, int64_t panels, int64_t K, int vecs) {
  constexpr int kProducts = parts == 3 ? 6 : parts == 2 ? 3 : 1;
  const double blocks = double((rows + 31) / 32), tiles = double((rows + 15) / 16);
  const double weights = double(panels * vecs * ((K + 31) / 32) * parts);
  const double first = weights * kTileBytes > 0.75 * near_cache_bytes() ? 100 : 20;
  const double products = tiles * 16 * kProducts / parts;
  const double loads = first + 20 * (blocks - 1);
  return weights * (products > loads ? products : loads);
}

// The split of `threads` threads that takes the fewest cycles a step; meeting costs some too.
template <class Op>
VEC_FN Split plan_split(int64_t N, int64_t B, int64_t panels, int64_t K, int vecs, int threads) {
  constexpr double kMeeting = 800;
  int recurrence_groups = int(min(N, threads));
  while (N % recurrence_groups != 0) --recurrence_groups;
  const int share = threads / recurrence_groups;
  Split best{recurrence_groups, 1, 1};
  double least = -1;
  for (int units = 1; units <= share && units <= panels; ++units) {
    const int rows = int(min(share / units, max(B, 1)));
    const int64_t group = (B + rows - 1) / rows, share_of_panels = (panels + units - 1) / units;
    double cycles = units > 1 ? kMeeting : 0;
    if constexpr (kTiled<Op>) {
      cycles += tiled_step_cycles<kParts<Op>>(group, share_of_panels, K, vecs);
    } else if constexpr (kStored<Op>) {
      const int64_t depth = kDepth<Op>, fours = (vecs + kMaxVecs - 1) / kMaxVecs;
      cycles += step_cycles(group, share_of_panels * fours, (K + depth - 1) / depth, kMaxVecs);
    } else {
      cycles += step_cycles(group, share_of_panels, K, vecs);
    }
    if (least < 0 || cycles < least) {
      least = cycles;
      best = Split{recurrence_groups, rows, units};
    }
  }
  return best;
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
