// SPDX-License-Identifier: MIT
// The exact tier, backward, float32 and float64.
#include "../device/launches.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../kernels.h"
#include "../shapes.h"
#include "backward.cuh"

namespace fused_rnn {
namespace cuda {
namespace {

template <Cell cell, class A, int kRows>
const char* launch_exact(const Backward& p, Stream stream) {
  const int64_t bytes = exact_bytes(cell, p.sizes.H, kRows, sizeof(A), true);
  return launch(&exact_backward_kernel<cell, A, kRows>, exact_launch(p.sizes, kRows, bytes), stream,
                p);
}

}  // namespace

const char* exact_backward(const Backward& p, int rows, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() {
    return with_exact(p.sizes.dtype, [&]<class A>() {
      return rows == 1 ? launch_exact<cell, A, 1>(p, stream)
                       : launch_exact<cell, A, kManyRows>(p, stream);
    });
  });
}

}  // namespace cuda
}  // namespace fused_rnn
