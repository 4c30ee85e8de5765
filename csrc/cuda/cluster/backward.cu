// SPDX-License-Identifier: MIT
// The cluster tier, backward, 16-bit formats.
#include "../device/launches.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../kernels.h"
#include "../shapes.h"
#include "backward.cuh"

namespace fused_rnn {
namespace cuda {

const char* cluster_backward(const Backward& p, int blocks, int rows, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() {
    return with_half(p.sizes.dtype, [&]<class IO>() {
      return with_cluster_shape(p.sizes.H, blocks, [&]<int kGroups, int kBlocks>() {
        const int64_t bytes = cluster_backward_bytes(cell, kGroups, kBlocks, rows);
        const Launch how = cluster_launch(p.sizes, kBlocks, rows, bytes);
        return launch(&cluster_backward_kernel<cell, IO, kGroups, kBlocks>, how, stream, p, rows);
      });
    });
  });
}

}  // namespace cuda
}  // namespace fused_rnn
