// SPDX-License-Identifier: MIT
#include "team.h"

#include <atomic>
#include <cstdint>

namespace fused_rnn::cpu {

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

Team::Team(int most) : size(most), barriers_(new Barrier[size_t(1 + 2 * most)]) {}

Team::~Team() = default;

void Team::wait(int barrier, int parties) { barriers_[size_t(barrier)].wait(parties); }

void Team::wait_all() { wait(0, size); }

}  // namespace fused_rnn::cpu
