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

// The cluster tier.
inline Launch cluster_launch(const Sizes& s, int blocks, int rows, int64_t bytes) {
  Launch how;
  how.grid = dim3(blocks, parts(s.B, rows), s.N);
  how.block = dim3(cluster_groups(s.H, blocks) * kGroupThreads);
  how.shared_bytes = bytes;
  how.cluster = blocks;
  return how;
}

}  // namespace cuda
}  // namespace fused_rnn
