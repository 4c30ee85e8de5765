// SPDX-License-Identifier: MIT
// The ops for CUDA tensors, registered with PyTorch; the library of ops has their schemas.
#include <torch/csrc/stable/library.h>

#include "ops.h"

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CUDA, m) {
  m.impl("native_forward", TORCH_BOX(&fused_rnn::cuda::forward));
  m.impl("native_backward", TORCH_BOX(&fused_rnn::cuda::backward));
}
