// SPDX-License-Identifier: MIT
// Tensors and workspaces, and the memory they leave for the next ones.
//
// The pages of new memory are cleared by the kernel, each at its first write. For what a layer
// saves for its backward pass that takes up to half as long as the forward pass itself.
#pragma once

#include <cstddef>

#include "../check.h"

namespace fused_rnn::cpu {

// A contiguous tensor, uninitialised.
Tensor make(Sizes shape, ScalarType dtype);

// The same in memory that an earlier one has left, where it is large. Not for what users see:
// its storage cannot be resized.
Tensor make_recycled(Sizes shape, ScalarType dtype);

// The same numbers as a tensor, contiguous, whose owner may write to it. Where it is large the two
// share memory until one of them is written.
Tensor copy_on_write(const Tensor& tensor);

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

}  // namespace fused_rnn::cpu
