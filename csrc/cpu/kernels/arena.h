// SPDX-License-Identifier: MIT
// The workspace, in pieces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "integers.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Hands out aligned pieces of one block; with a null base it only counts.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}

  template <class T>
  T* take(int64_t count) {
    char* at = base_ + used_;
    used_ += round_up(count * int64_t(sizeof(T)), 64);
    return reinterpret_cast<T*>(at);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
