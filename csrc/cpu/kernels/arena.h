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

// The workspace of a team of any size up to `threads`, of which used(size) tells one's.
template <class F>
size_t most_used(int threads, F used) {
  size_t most = 0;
  for (int size = 1; size <= threads; ++size) {
    if (used(size) > most) most = used(size);
  }
  return most;
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
