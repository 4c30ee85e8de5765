// SPDX-License-Identifier: MIT
// Tier C, backward, 16-bit formats.
#include "cluster_backward.cuh"
#include "kernels.h"

namespace fused_rnn {
namespace cuda {
namespace {

template <Cell cell, class IO, int kSteps, int kGroups>
const char* launch_cluster(const Backward& p, int blocks, int rows, Stream stream) {
  const Sizes& s = p.sizes;
  const int groups = cluster_groups(s.H, blocks);
  Launch how;
  how.grid = dim3(blocks, (s.B + rows - 1) / rows, s.N);
  how.block = dim3(groups * kGroupThreads);
  how.shared_bytes = cluster_backward_bytes(cell, groups, blocks, rows);
  how.cluster = blocks;
  return launch(&cluster_backward_kernel<cell, IO, kSteps, kGroups>, how, stream, p, rows);
}

}  // namespace

const char* cluster_backward(const Backward& p, int blocks, int rows, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() {
    return with_half(p.sizes.dtype, [&]<class IO>() {
      return cluster_groups(p.sizes.H, blocks) < 3
                 ? launch_cluster<cell, IO, kTwoGroupSteps, 2>(p, blocks, rows, stream)
                 : launch_cluster<cell, IO, kThreeGroupSteps, 3>(p, blocks, rows, stream);
    });
  });
}

}  // namespace cuda
}  // namespace fused_rnn
