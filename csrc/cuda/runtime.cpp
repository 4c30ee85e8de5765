// SPDX-License-Identifier: MIT
#include "runtime.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

#include <cstring>

#include "../check.h"

namespace fused_rnn {
namespace cuda {
namespace {

void check_status(cudaError_t status) {
  if (status == cudaSuccess) return;
  // Else the next launch would report it.
  cudaGetLastError();
  FUSED_RNN_CHECK(false, "device: ", cudaGetErrorString(status));
}

int attribute(cudaDeviceAttr which, int32_t index) {
  int value = 0;
  check_status(cudaDeviceGetAttribute(&value, which, index));
  return value;
}

}  // namespace

int32_t device_type() { return aoti_torch_device_type_cuda(); }

bool on_device(const Tensor& tensor) { return tensor.is_cuda(); }

Device device_sizes(int32_t index) {
  return {attribute(cudaDevAttrMultiProcessorCount, index),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
          attribute(cudaDevAttrComputeCapabilityMajor, index) >= 9 ? kLargestCluster : 1};
}

StreamHandle current_stream(int32_t index) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  return stream;
}

int* shared_with_device(int count) {
  void* words = nullptr;
  // Nothing is queued, so that it may be while a graph is captured.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check_status(cudaThreadExchangeStreamCaptureMode(&mode));
  const cudaError_t status =
      cudaHostAlloc(&words, count * sizeof(int), cudaHostAllocMapped | cudaHostAllocPortable);
  check_status(cudaThreadExchangeStreamCaptureMode(&mode));
  check_status(status);
  std::memset(words, 0, count * sizeof(int));
  return static_cast<int*>(words);
}

CurrentDevice::CurrentDevice(int32_t index) {
  CUDAGuardHandle guard;
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(index, &guard));
  guard_ = guard;
}

CurrentDevice::~CurrentDevice() {
  aoti_torch_delete_cuda_guard(static_cast<CUDAGuardHandle>(guard_));
}

void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_mm_out(out.get(), a.get(), b.get()));
}

void multiply_add(const Tensor& out, const Tensor& a, const Tensor& b) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1));
}

void multiply_batch(const Tensor& out, const Tensor& a, const Tensor& b) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_bmm_out(out.get(), a.get(), b.get()));
}

Tensor concatenate(const std::vector<Tensor>& tensors) {
  std::vector<AtenTensorHandle> handles;
  for (const Tensor& tensor : tensors) handles.push_back(tensor.get());
  AtenTensorHandle whole;
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_cat(handles.data(), int64_t(handles.size()), 0, &whole));
  return Tensor(whole);
}

}  // namespace cuda
}  // namespace fused_rnn
