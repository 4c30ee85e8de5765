// SPDX-License-Identifier: MIT
// The blocks that each tier launches, in both passes.
#pragma once

#include "../shapes.h"
#include "primitives.cuh"

namespace fused_rnn {
namespace cuda {

constexpr unsigned parts(int count, int of) { return unsigned((count + of - 1) / of); }

// The block tier, 16-bit formats.
inline Launch block_launch(const Sizes& s, int64_t bytes) {
  Launch how;
  how.grid = dim3(parts(s.B, kTileRows), s.N);
  how.block = dim3(block_threads(s.H));
  how.shared_bytes = bytes;
  return how;
}

// Calls f with the k-steps of the block tier, and whether units lie in pairs.
template <class F>
const char* with_block_steps(const Recurrence& p, F f) {
  if (block_steps(p.sizes.H) == kSmallSteps) {
    return p.paired ? f.template operator()<kSmallSteps, true>()
                    : f.template operator()<kSmallSteps, false>();
  }
  return p.paired ? f.template operator()<kLargeSteps, true>()
                  : f.template operator()<kLargeSteps, false>();
}

// The exact tier, float32 and float64.
inline Launch exact_launch(const Sizes& s, int rows, int64_t bytes) {
  Launch how;
  how.grid = dim3(parts(s.B, rows), s.N);
  how.block = dim3(exact_threads(s.H));
  how.shared_bytes = bytes;
  return how;
}

// The grid tier; backward by two dimensions in clusters of `ranks`.
inline Launch grid_launch(const Sizes& s, int ranks, int rows, int64_t bytes) {
  Launch how;
  how.grid = dim3(grid_blocks(s.H, ranks), parts(s.B, rows), s.N);
  how.block = dim3(kGridThreads);
  how.shared_bytes = bytes;
  how.cooperative = true;
  how.cluster = ranks;
  return how;
}

// Calls f with the k-steps of the grid tier whose weights are in registers, and in shared memory.
template <class F>
const char* with_grid_steps(int H, F f) {
  if (grid_steps(H) == kFewGridSteps) return f.template operator()<kFewGridSteps, 0>();
  return kept_steps(H) ? f.template operator()<kManyGridSteps, kKeptGridSteps>()
                       : f.template operator()<kManyGridSteps, 0>();
}

// Calls f with the ranks of its backward pass by two dimensions, and whether shared memory keeps
// weights. Clusters of few ranks are planned where registers hold all.
static_assert(kMostColumnSteps / (kGridWarps / kFewRanks) <= held_column_steps(Cell::kLstm));
static_assert(column_steps(Cell::kRnnTanh, kGridUnits, kFewRanks) <=
              held_column_steps(Cell::kRnnTanh));
template <class F>
const char* with_columns(Cell cell, int H, int ranks, F f) {
  if (ranks == kFewRanks) return f.template operator()<kFewRanks, false>();
  return column_steps(cell, H, ranks) > held_column_steps(cell)
             ? f.template operator()<kRanks, true>()
             : f.template operator()<kRanks, false>();
}

// The cluster tier.
inline Launch cluster_launch(const Sizes& s, int blocks, int rows, int64_t bytes) {
  Launch how;
  how.grid = dim3(blocks, parts(s.B, rows), s.N);
  how.block = dim3(cluster_groups(s.H, blocks) * kGroupThreads);
  how.shared_bytes = bytes;
  how.cluster = blocks;
  return how;
}

// Calls f with the groups of units of a block and the blocks of a cluster.
template <class F>
const char* with_cluster_shape(int H, int blocks, F f) {
  const int groups = cluster_groups(H, blocks);
  if (blocks == 4 && groups == 3) return f.template operator()<3, 4>();
  if (blocks == 8 && groups == 2) return f.template operator()<2, 8>();
  if (blocks == 8 && groups == 3) return f.template operator()<3, 8>();
  if (blocks == 16 && groups == 1) return f.template operator()<1, 16>();
  if (blocks == 16 && groups == 2) return f.template operator()<2, 16>();
  if (blocks == 16 && groups == 3) return f.template operator()<3, 16>();
  return "no kernel is built for such clusters: the block tier takes layers of so few units";
}

}  // namespace cuda
}  // namespace fused_rnn
