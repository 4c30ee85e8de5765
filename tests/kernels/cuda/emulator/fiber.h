// SPDX-License-Identifier: MIT
// Fibers: one small stack for each CUDA thread, and the switch between them.
#pragma once

#include <cstddef>

namespace emulator {

// A suspended flow of control.
struct Context {
  void* saved = nullptr;
};

// Stacks with a guard page each, reused from run to run.
class Stacks {
 public:
  // At least `count` stacks.
  void reserve(size_t count);
  bool contain(const void* address) const {
    return size_t(static_cast<const char*>(address) - memory_) < bytes_;
  }
  // Makes `context` start `entry`, which must not return, on stack `index`.
  void prepare(Context& context, size_t index, void (*entry)());

 private:
  char* memory_ = nullptr;
  size_t bytes_ = 0;
};

// Goes on with `to`, and leaves this flow in `from`.
void switch_context(Context& from, Context& to);

}  // namespace emulator
