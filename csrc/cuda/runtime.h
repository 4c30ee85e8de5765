// SPDX-License-Identifier: MIT
// What the ops ask of a device's runtime besides the kernels: its sizes, its current stream,
// PyTorch's matrix products on it. Tests put the CPU in its place.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "planner.h"

namespace fused_rnn {
namespace cuda {

using torch::stable::Tensor;

int32_t device_type();
bool on_device(const Tensor& tensor);
Device device_sizes(int32_t index);
StreamHandle current_stream(int32_t index);
// Zeros that the host and every device read and write in place, for as long as the process lives.
int* shared_with_device(int count);

// Makes a device the current one while it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int32_t index);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  void* guard_;
};

// out = a b, or out += a b; matrices, then batches of matrices.
void multiply(const Tensor& out, const Tensor& a, const Tensor& b);
void multiply_add(const Tensor& out, const Tensor& a, const Tensor& b);
void multiply_batch(const Tensor& out, const Tensor& a, const Tensor& b);
// One tensor behind another along their first axis.
Tensor concatenate(const std::vector<Tensor>& tensors);

}  // namespace cuda
}  // namespace fused_rnn
