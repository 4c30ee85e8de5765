// SPDX-License-Identifier: MIT
// Around the weight gradients.
#include "../kernels.h"
#include "around.cuh"
#include "numbers.cuh"
#include "primitives.cuh"

namespace fused_rnn {
namespace cuda {
namespace {

Launch over(int64_t blocks, int rows = 1) {
  Launch how;
  how.grid = dim3(unsigned(blocks), rows);
  how.block = dim3(kAroundThreads);
  return how;
}

}  // namespace

const char* states_before(const States& p, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  const Sizes& s = p.layer.sizes;
  return with_dtype(s.dtype, [&]<class IO>() {
    return launch(&states_kernel<IO>, over(int64_t(s.T) * s.B), stream, p);
  });
}

const char* inputs_inside(const Inputs& p, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_dtype(p.dtype, [&]<class IO>() {
    return launch(&inputs_kernel<IO>, over(int64_t(p.T) * p.B), stream, p);
  });
}

const char* partial_sums(const Columns& p, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_dtype(p.dtype, [&]<class IO>() {
    const int blocks = (p.columns + kAroundThreads - 1) / kAroundThreads;
    return launch(&partial_sums_kernel<IO>, over(blocks, p.parts), stream, p);
  });
}

const char* bias_grads(const Biases& p, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  return with_dtype(p.sums.dtype, [&]<class IO>() {
    const int blocks = (p.D * p.H + kAroundThreads - 1) / kAroundThreads;
    return launch(&bias_kernel<IO>, over(blocks), stream, p);
  });
}

}  // namespace cuda
}  // namespace fused_rnn
