// SPDX-License-Identifier: MIT
// Threads that run one kernel together, how they share it, and their barriers.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace fused_rnn {

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
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

// Holds `parties` threads until all of them have come. Who waits long goes to sleep: with fewer
// free cores than threads, those that are late need this one's core.
class Barrier {
 public:
  void wait(int parties) {
    if (parties == 1) return;
    const uint32_t generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == parties - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      generation_.notify_all();
      return;
    }
    if (spin_until([&] { return generation_.load(std::memory_order_acquire) != generation; })) {
      return;
    }
    generation_.wait(generation, std::memory_order_acquire);
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

constexpr int kMaxThreads = 64;

// Threads that run one kernel together: at most `most`, and `size` once they have been counted.
struct Team {
  int size;
  std::unique_ptr<Barrier[]> barriers;  // everybody's, the recurrences', the row groups'

  explicit Team(int most) : size(most), barriers(new Barrier[size_t(1 + 2 * most)]) {}

  void wait_all() { barriers[0].wait(size); }
};

// How a team shares a layer: first the recurrences, then rows or hidden units. Threads that
// share units of the same rows meet at every step, threads of different rows never do.
struct Split {
  int recurrence_groups, row_groups, unit_groups;
};

// Where one thread stands in the split; idle threads only meet at the team's barrier.
struct Place {
  Split split;
  int recurrence_group, row_group, unit_group;
  bool idle;

  Place(const Split& split, int rank) : split(split) {
    unit_group = rank % split.unit_groups;
    row_group = rank / split.unit_groups % split.row_groups;
    recurrence_group = rank / (split.unit_groups * split.row_groups);
    idle = recurrence_group >= split.recurrence_groups;
  }

  // Threads that share this thread's rows.
  void wait_units(Team& team) const {
    const int group = recurrence_group * split.row_groups + row_group;
    team.barriers[1 + split.recurrence_groups + group].wait(split.unit_groups);
  }

  // Threads that share this thread's recurrence.
  void wait_recurrence(Team& team) const {
    team.barriers[1 + recurrence_group].wait(split.row_groups * split.unit_groups);
  }

  int recurrence_size() const { return split.row_groups * split.unit_groups; }
  int recurrence_rank() const { return row_group * split.unit_groups + unit_group; }
  int rank() const { return recurrence_group * recurrence_size() + recurrence_rank(); }
};

}  // namespace fused_rnn
