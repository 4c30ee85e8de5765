// SPDX-License-Identifier: MIT
// Devices that are made up, as test_cuda_launches.py has them: what one allows, what was asked of
// it, what fails next.
#include <array>
#include <map>
#include <utility>

#include "../../../../csrc/cuda/launch.h"
#include "cuda_runtime_api.h"

namespace {

enum Call { kDevice, kDeviceAttribute, kSetAttribute, kOccupancy, kLaunch, kCalls };

struct Runtime {
  int device = 0, has_clusters = 1, clusters_at_once = 0;
  std::array<int, kCalls> counts{};
  int failing = kCalls;
  cudaError_t status = cudaSuccess, last = cudaSuccess;
  std::map<std::pair<const void*, int>, std::array<int, 2>> permitted;
} runtime;

cudaError_t answer(Call call, cudaError_t own = cudaSuccess) {
  ++runtime.counts[call];
  const cudaError_t status = call == runtime.failing && runtime.status ? runtime.status : own;
  if (status != cudaSuccess) runtime.last = status;
  return status;
}

}  // namespace

cudaError_t cudaGetDevice(int* device) {
  *device = runtime.device;
  return answer(kDevice);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrClusterLaunch ? runtime.has_clusters : 227 * 1024;
  return answer(kDeviceAttribute);
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute which, int value) {
  runtime.permitted[{kernel, runtime.device}][which] = value;
  return answer(kSetAttribute);
}

cudaError_t cudaOccupancyMaxActiveClusters(int* count, const void*, const cudaLaunchConfig_t*) {
  *count = runtime.clusters_at_once;
  return answer(kOccupancy);
}

// Refuses what the kernel was not permitted on the current device.
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  const auto& allowed = runtime.permitted[{kernel, runtime.device}];
  bool refused =
      config->dynamicSmemBytes > 48 * 1024 &&
      int(config->dynamicSmemBytes) > allowed[cudaFuncAttributeMaxDynamicSharedMemorySize];
  for (unsigned n = 0; n < config->numAttrs; ++n) {
    const cudaLaunchAttribute& attribute = config->attrs[n];
    if (attribute.id == cudaLaunchAttributeClusterDimension) {
      refused |= attribute.val.clusterDim.x > 8 &&
                 !allowed[cudaFuncAttributeNonPortableClusterSizeAllowed];
    }
  }
  return answer(kLaunch, refused ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaGetLastError() { return std::exchange(runtime.last, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t status) {
  const char* names[] = {"no error", "invalid value", "invalid cluster size", "too large"};
  return names[status];
}

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void runtime_use(int device, int has_clusters, int clusters_at_once) {
  runtime = {};
  runtime.device = device;
  runtime.has_clusters = has_clusters;
  runtime.clusters_at_once = clusters_at_once;
}

EXPORTED void runtime_fail(int call, int status) {
  runtime.failing = call;
  runtime.status = cudaError_t(status);
}

EXPORTED int runtime_count(int call) { return runtime.counts[call]; }
EXPORTED int runtime_last_error() { return runtime.last; }

// What went wrong, or null.
EXPORTED const char* runtime_launch(const void* kernel, unsigned blocks, size_t shared_bytes,
                                    int cluster, int cooperative) {
  void* arguments[] = {nullptr};
  return fused_rnn::cuda::queue(
      {kernel, {blocks, 1, 1}, {32, 1, 1}, shared_bytes, cooperative != 0, cluster, arguments},
      nullptr);
}
