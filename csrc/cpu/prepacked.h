// SPDX-License-Identifier: MIT
// Tensors of weights packed beforehand: bytes behind what they are, and for which instruction set.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string_view>

namespace fused_rnn {

using torch::stable::Tensor;

enum class PackOf { kLinear = 1, kLayer = 2 };

// For so many bytes, of the instruction set in use.
Tensor make_prepacked(PackOf kind, int64_t bytes);
char* prepacked_memory(Tensor& prepacked);

// The bytes, checked to be of this kind and of the instruction set in use.
std::string_view prepacked_bytes(PackOf kind, const Tensor& prepacked);

// Raises unless there are as many bytes as expected.
void check_prepacked(std::string_view bytes, int64_t expected);

}  // namespace fused_rnn
