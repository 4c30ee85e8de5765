// SPDX-License-Identifier: MIT
// The grid tier, backward by two dimensions, 16-bit formats.
#include "../device/launches.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../kernels.h"
#include "../shapes.h"
#include "cluster_backward.cuh"

namespace fused_rnn {
namespace cuda {

const char* grid_cluster_backward(const Backward& p, const Exchange& x, int ranks,
                                  StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() -> const char* {
    if constexpr (cell == Cell::kGruResetBefore) {
      return "the grid tier has no textbook GRU";
    } else {
      return with_half(p.sizes.dtype, [&]<class IO>() {
        const int64_t bytes = grid_cluster_bytes(cell, p.sizes.H, ranks, x.rows);
        const Launch how = grid_launch(p.sizes, ranks, x.rows, bytes);
        return with_columns(cell, p.sizes.H, ranks, [&]<int kOf, bool kKept>() {
          return launch(&grid_cluster_backward_kernel<cell, IO, kOf, kKept>, how, stream, p, x);
        });
      });
    }
  });
}

}  // namespace cuda
}  // namespace fused_rnn
