// SPDX-License-Identifier: MIT
// Tensors of weights packed beforehand: bytes behind what they are, and for which instruction set.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string_view>

#include "problem.h"

namespace fused_rnn::cpu {

using torch::stable::Tensor;

enum class PackOf { kLinear = 1, kLayer = 2 };

// For so many bytes, of one instruction set.
Tensor make_prepacked(PackOf kind, const Kernels& kernels, int64_t bytes);
char* prepacked_memory(Tensor& prepacked);

// The bytes behind the header of what was packed of this kind.
std::string_view prepacked_bytes(PackOf kind, const Tensor& prepacked);

// Raises unless there are as many bytes as expected, packed for one instruction set.
void check_prepacked(const Tensor& prepacked, const Kernels& kernels, int64_t expected);

}  // namespace fused_rnn::cpu
