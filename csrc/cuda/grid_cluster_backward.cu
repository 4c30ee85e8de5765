// SPDX-License-Identifier: MIT
// Tier G, backward by two dimensions, 16-bit formats.
#include "grid_cluster_backward.cuh"
#include "kernels.h"
#include "launches.cuh"

namespace fused_rnn {
namespace cuda {
namespace {

template <Cell cell, class IO>
const char* launch_columns(const Backward& p, const Exchange& x, int ranks, Stream stream) {
  const int H = p.sizes.H;
  const Launch how = grid_launch(p.sizes, ranks, x.rows, grid_cluster_bytes(cell, H, ranks));
  if (ranks != kRanks) {
    return launch(&grid_cluster_backward_kernel<cell, IO, kFewRanks, kManyVectors>, how, stream, p,
                  x);
  }
  return column_vectors(cell, H, ranks) == kFewVectors
             ? launch(&grid_cluster_backward_kernel<cell, IO, kRanks, kFewVectors>, how, stream, p,
                      x)
             : launch(&grid_cluster_backward_kernel<cell, IO, kRanks, kManyVectors>, how, stream, p,
                      x);
}

}  // namespace

const char* grid_cluster_backward(const Backward& p, const Exchange& x, int ranks,
                                  StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() -> const char* {
    if constexpr (cell == Cell::kGruResetBefore) {
      return "tier G has no textbook GRU";
    } else {
      return with_half(p.sizes.dtype,
                       [&]<class IO>() { return launch_columns<cell, IO>(p, x, ranks, stream); });
    }
  });
}

}  // namespace cuda
}  // namespace fused_rnn
