// SPDX-License-Identifier: MIT
// Tensors of weights packed beforehand: bytes behind the name of the instruction set they are for.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace fused_rnn {

using torch::stable::Tensor;

// For so many bytes, of the instruction set in use.
Tensor make_prepacked(int64_t bytes);
char* prepacked_memory(Tensor& prepacked);

// The bytes, checked to be so many and of the instruction set in use.
const char* prepacked_memory(const Tensor& prepacked, int64_t bytes);

}  // namespace fused_rnn
