// SPDX-License-Identifier: MIT
// Tier C, backward, 16-bit formats.
#include "cluster_backward.cuh"
#include "kernels.h"
#include "launches.cuh"

namespace fused_rnn {
namespace cuda {
namespace {

template <Cell cell, class IO>
const char* launch_cluster(const Backward& p, int blocks, int rows, Stream stream) {
  return with_cluster(p.sizes.H, blocks, [&]<int kBlocks, int kGroups>() {
    const int64_t bytes = cluster_backward_bytes(cell, kGroups, kBlocks, rows);
    const Launch how = cluster_launch(p.sizes, kBlocks, rows, bytes);
    return launch(&cluster_backward_kernel<cell, IO, kBlocks, kGroups>, how, stream, p, rows);
  });
}

}  // namespace

const char* cluster_backward(const Backward& p, int blocks, int rows, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() {
    return with_half(p.sizes.dtype,
                     [&]<class IO>() { return launch_cluster<cell, IO>(p, blocks, rows, stream); });
  });
}

}  // namespace cuda
}  // namespace fused_rnn
