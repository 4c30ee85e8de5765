// SPDX-License-Identifier: MIT
#include "launch.h"

#include <cuda_runtime_api.h>

#include <array>
#include <map>
#include <mutex>
#include <utility>

namespace fused_rnn {
namespace cuda {
namespace {

// Only the text stays.
const char* failure(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(status);
}

// Every kernel may have all the shared memory that a block of the device can ask for, and clusters
// of more than the eight blocks that every device promises: once, as what one launch sets another
// thread's launch would take away.
cudaError_t permit(const void* kernel, int device) {
  int bytes = 0, clusters = 0;
  cudaError_t status =
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device);
  }
  if (status == cudaSuccess && clusters) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  return status;
}

// What is known of a kernel on a device.
struct Known {
  bool permitted = false;
  // Clusters that run at once, by what a launch asks for.
  std::map<std::array<size_t, 8>, int> clusters;
};

std::mutex mutex;
std::map<std::pair<const void*, int>, Known> kernels;

// Fails where the kernel may not be launched as asked.
const char* prepare(const Request& r, const cudaLaunchConfig_t& config) {
  int device = 0;
  if (const char* error = failure(cudaGetDevice(&device))) return error;
  const std::lock_guard guard(mutex);
  Known& known = kernels[{r.kernel, device}];
  if (!known.permitted) {
    if (const char* error = failure(permit(r.kernel, device))) return error;
    known.permitted = true;
  }
  if (r.cluster == 1) return nullptr;
  const std::array<size_t, 8> asked{r.grid[0],  r.grid[1],  r.grid[2],      r.block[0],
                                    r.block[1], r.block[2], r.shared_bytes, size_t(r.cluster)};
  auto at = known.clusters.find(asked);
  if (at == known.clusters.end()) {
    int count = 0;
    const cudaError_t status = cudaOccupancyMaxActiveClusters(&count, r.kernel, &config);
    const char* error = failure(status);
    if (status != cudaErrorInvalidClusterSize && error) return error;
    at = known.clusters.emplace(asked, error ? 0 : count).first;
  }
  const size_t blocks = size_t(r.grid[0]) * r.grid[1] * r.grid[2];
  const size_t together = r.cooperative ? blocks : r.cluster;
  return size_t(at->second) * r.cluster < together ? kTooLarge : nullptr;
}

}  // namespace

const char* queue(const Request& r, StreamHandle stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = {r.grid[0], r.grid[1], r.grid[2]};
  config.blockDim = {r.block[0], r.block[1], r.block[2]};
  config.dynamicSmemBytes = r.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2];
  config.attrs = attributes;
  if (r.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {unsigned(r.cluster), 1, 1};
  }
  if (const char* error = prepare(r, config)) return error;
  if (r.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  const cudaError_t status = cudaLaunchKernelExC(&config, r.kernel, r.arguments);
  const char* error = failure(status);
  return status == cudaErrorCooperativeLaunchTooLarge ? kTooLarge : error;
}

}  // namespace cuda
}  // namespace fused_rnn
