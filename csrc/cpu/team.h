// SPDX-License-Identifier: MIT
// Threads that run one kernel together, and how they wait for one another.
#pragma once

#include <sched.h>

#include <memory>

namespace fused_rnn::cpu {

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Spins a bounded time; whether the condition came true in it.
template <class Condition>
bool spin_until(const Condition& condition) {
  constexpr int kSpins = 4096;
  for (int spins = 0; spins < kSpins; ++spins) {
    if (condition()) return true;
    pause_briefly();
  }
  return condition();
}

// Spins a bounded time, then yields the core again and again.
template <class Condition>
void wait_until(const Condition& condition) {
  while (!spin_until(condition)) sched_yield();
}

constexpr int kMaxThreads = 64;

class Barrier;

// Threads that run one kernel together: at most `most`, and `size` once they have been counted.
// No function is inline that kernels call: a copy compiled for one instruction set could stand in
// for everybody's at link time.
struct Team {
  int size;

  explicit Team(int most);
  ~Team();

  // Holds `parties` threads at a barrier until all of them have come: barrier 0 is everybody's,
  // behind it those of the recurrences, then those of the row groups.
  void wait(int barrier, int parties);
  void wait_all();

 private:
  std::unique_ptr<Barrier[]> barriers_;
};

}  // namespace fused_rnn::cpu
