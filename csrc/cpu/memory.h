// SPDX-License-Identifier: MIT
// Tensors and workspaces, and the memory they leave for the next ones.
//
// The pages of new memory are cleared by the kernel, each at its first write. For what a layer
// saves for its backward pass that takes up to half as long as the forward pass itself.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <initializer_list>

namespace fused_rnn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A contiguous tensor, uninitialised.
Tensor make(const int64_t* sizes, size_t dims, ScalarType dtype);
Tensor make(std::initializer_list<int64_t> shape, ScalarType dtype);

// The same in memory that an earlier one has left, where it is large. Not for what users see:
// its storage cannot be resized.
Tensor make_recycled(std::initializer_list<int64_t> shape, ScalarType dtype);

// Memory aligned for vectors, for one call; in huge pages, where large, so that long walks over
// packed weights find their addresses. Up to a limit each calling thread keeps it for the next one.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  char* memory() const { return memory_; }

 private:
  char* own_ = nullptr;  // freed with this, where it is not kept
  char* memory_;
};

}  // namespace fused_rnn
