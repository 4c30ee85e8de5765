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
namespace {

template <Cell cell, class IO, int kSteps, int kGroups>
const char* launch_cluster(const Backward& p, int blocks, int rows, Stream stream) {
  const int groups = cluster_groups(p.sizes.H, blocks);
  const int64_t bytes = cluster_backward_bytes(cell, groups, blocks, rows);
  const Launch how = cluster_launch(p.sizes, blocks, rows, bytes);
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
