// SPDX-License-Identifier: MIT
// The CPU in the place of csrc/cuda/runtime.cpp: tensors in host memory, kernels on the emulator.
#include "../../../../csrc/cuda/runtime.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "settings.h"

namespace fused_rnn {
namespace cuda {

int32_t device_type() { return aoti_torch_device_type_cpu(); }

bool on_device(const Tensor& tensor) { return tensor.is_cpu(); }

Device device_sizes(int32_t) { return emulator::emulated_device; }

StreamHandle current_stream(int32_t) { return nullptr; }

int* shared_with_device(int count) { return new int[count](); }

CurrentDevice::CurrentDevice(int32_t) : guard_(nullptr) {}
CurrentDevice::~CurrentDevice() {}

void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}

void multiply_add(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1));
}

void multiply_batch(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_bmm_out(out.get(), a.get(), b.get()));
}

Tensor concatenate(const std::vector<Tensor>& tensors) {
  std::vector<AtenTensorHandle> handles;
  for (const Tensor& tensor : tensors) handles.push_back(tensor.get());
  AtenTensorHandle whole;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_cat(handles.data(), int64_t(handles.size()), 0, &whole));
  return Tensor(whole);
}

}  // namespace cuda
}  // namespace fused_rnn
