// SPDX-License-Identifier: MIT
// The stepwise tier.
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../kernels.h"
#include "steps.cuh"

namespace fused_rnn {
namespace cuda {
namespace {

Launch over_units(const Sizes& s) {
  Launch how;
  const int64_t units = int64_t(s.N) * s.B * s.H;
  how.grid = dim3(unsigned((units + kStepThreads - 1) / kStepThreads));
  how.block = dim3(kStepThreads);
  return how;
}

}  // namespace

const char* start_forward(const StepForward& p, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  const Sizes& s = p.layer.sizes;
  return with_dtype(s.dtype, [&]<class IO>() {
    return launch(&start_forward_kernel<IO>, over_units(s), stream, p);
  });
}

const char* step_gates(const StepForward& p, int k, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  const Sizes& s = p.layer.sizes;
  return with_dtype(s.dtype, [&]<class IO>() {
    return launch(&step_gates_kernel<IO>, over_units(s), stream, p, k);
  });
}

const char* step_forward(const StepForward& p, int k, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  const Sizes& s = p.layer.sizes;
  return with_cell(s.cell, [&]<Cell cell>() {
    return with_dtype(s.dtype, [&]<class IO>() {
      return launch(&step_forward_kernel<cell, IO>, over_units(s), stream, p, k);
    });
  });
}

const char* step_backward(const StepBackward& p, int k, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  const Sizes& s = p.layer.sizes;
  return with_cell(s.cell, [&]<Cell cell>() {
    return with_dtype(s.dtype, [&]<class IO>() {
      return launch(&step_backward_kernel<cell, IO>, over_units(s), stream, p, k);
    });
  });
}

const char* step_gates_backward(const StepBackward& p, int k, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  const Sizes& s = p.layer.sizes;
  return with_dtype(s.dtype, [&]<class IO>() {
    return launch(&step_gates_backward_kernel<IO>, over_units(s), stream, p, k);
  });
}

const char* finish_backward(const StepBackward& p, StreamHandle handle) {
  const auto stream = static_cast<Stream>(handle);
  const Sizes& s = p.layer.sizes;
  return with_dtype(s.dtype, [&]<class IO>() {
    return launch(&finish_backward_kernel<IO>, over_units(s), stream, p);
  });
}

}  // namespace cuda
}  // namespace fused_rnn
