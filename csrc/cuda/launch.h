// SPDX-License-Identifier: MIT
// One launch as CUDA is asked for it, in plain numbers: primitives.cuh makes it of a kernel and its
// arguments.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace fused_rnn {
namespace cuda {

struct Request {
  const void* kernel;
  unsigned grid[3], block[3];
  size_t shared_bytes;
  bool cooperative;
  int cluster;       // neighbouring blocks along x
  void** arguments;  // of the kernel
};

// Queues a kernel on the current device: null, or what went wrong, of which CUDA then remembers
// nothing that the next launch would report.
const char* queue(const Request& request, StreamHandle stream);

}  // namespace cuda
}  // namespace fused_rnn
