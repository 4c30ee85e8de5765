// SPDX-License-Identifier: MIT
// The grid tier, forward, 16-bit formats.
#include "../device/launches.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../kernels.h"
#include "../shapes.h"
#include "forward.cuh"

namespace fused_rnn {
namespace cuda {
namespace {

template <Cell cell, class IO>
const char* launch_grid(const Forward& p, const Exchange& x, Stream stream) {
  const Launch how = grid_launch(p.sizes, 1, x.rows, grid_forward_bytes(cell, p.sizes.H, x.rows));
  return with_grid_steps(p.sizes.H, [&]<int kSteps, int kKept>() {
    return launch(&grid_forward_kernel<cell, IO, kSteps, kKept>, how, stream, p, x);
  });
}

}  // namespace

const char* grid_forward(const Forward& p, const Exchange& x, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() -> const char* {
    if constexpr (cell == Cell::kGruResetBefore) {
      return "the grid tier has no textbook GRU";
    } else {
      return with_half(p.sizes.dtype,
                       [&]<class IO>() { return launch_grid<cell, IO>(p, x, stream); });
    }
  });
}

}  // namespace cuda
}  // namespace fused_rnn
