// SPDX-License-Identifier: MIT
// The cluster tier, forward, 16-bit formats.
#include "../device/launches.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../kernels.h"
#include "../shapes.h"
#include "forward.cuh"

namespace fused_rnn {
namespace cuda {

const char* cluster_forward(const Forward& p, int blocks, int rows, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() {
    return with_half(p.sizes.dtype, [&]<class IO>() {
      return with_cluster_shape(p.sizes.H, blocks, [&]<int kGroups, int kBlocks>() {
        const int64_t bytes = cluster_forward_bytes(cell, kGroups, kBlocks, rows);
        const Launch how = cluster_launch(p.sizes, kBlocks, rows, bytes);
        return launch(&cluster_forward_kernel<cell, IO, kGroups, kBlocks>, how, stream, p, rows);
      });
    });
  });
}

}  // namespace cuda
}  // namespace fused_rnn
