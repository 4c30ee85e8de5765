// SPDX-License-Identifier: MIT
// The block tier, forward, 16-bit formats.
#include "../device/launches.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../kernels.h"
#include "../shapes.h"
#include "forward.cuh"

namespace fused_rnn {
namespace cuda {
const char* block_forward(const Forward& p, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_cell(p.sizes.cell, [&]<Cell cell>() {
    return with_half(p.sizes.dtype, [&]<class IO>() {
      return with_block_steps(p, [&]<int kSteps, bool kPaired>() {
        const Launch how = block_launch(p.sizes, block_bytes(cell, p.sizes.H, false));
        return launch(&block_forward_kernel<cell, IO, kSteps, kPaired>, how, stream, p);
      });
    });
  });
}

}  // namespace cuda
}  // namespace fused_rnn
