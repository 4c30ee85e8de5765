// SPDX-License-Identifier: MIT
#include "stuck.h"

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "../check.h"
#include "runtime.h"

namespace fused_rnn {
namespace cuda {
namespace {

// Tier, backward, device, T, B, N, H.
using Kind = std::tuple<Tier, bool, int32_t, int, int, int, int>;

// A page of memory. The kinds past the last but one share the last.
constexpr int kMostWords = 1024;

struct Words {
  int* const words = shared_with_device(kMostWords);
  std::mutex mutex;
  std::map<Kind, int> numbers;
  std::vector<std::string> names;

  int number(const Kind& kind) {
    const std::lock_guard guard(mutex);
    const auto known = numbers.find(kind);
    if (known != numbers.end()) return known->second;
    const int next = int(names.size());
    if (next == kMostWords) return next - 1;
    names.push_back(next == kMostWords - 1 ? "a shape past the first ones" : name(kind));
    numbers.emplace(kind, next);
    used.store(next + 1, std::memory_order_release);
    return next;
  }

  static std::string name(const Kind& kind) {
    const auto [tier, backward, device, T, B, N, H] = kind;
    return joined(tier_name(tier), ", ", backward ? "backward" : "forward", ", T ", T, ", B ", B,
                  ", N ", N, ", H ", H, ", device ", device);
  }

  // What is set, which is zero afterwards.
  std::string taken() {
    std::string found;
    for (int n = 0; n < used.load(std::memory_order_acquire); ++n) {
      const std::atomic_ref<int> word(words[n]);
      if (word.load(std::memory_order_relaxed) == 0 || word.exchange(0) == 0) continue;
      const std::lock_guard guard(mutex);
      found += (found.empty() ? "" : "; ") + names[n];
    }
    return found;
  }

  // How many words launches have got: a check before the first of them makes none.
  static inline std::atomic<int> used{0};
};

Words& shared() {
  // Never destroyed: kernels may still write when the process ends.
  static Words* const words = new Words;
  return *words;
}

}  // namespace

int* stuck_word(const Sizes& s, Tier tier, bool backward, int32_t device) {
  Words& all = shared();
  return all.words + all.number({tier, backward, device, s.T, s.B, s.N, s.H});
}

void check_stuck() {
  if (Words::used.load(std::memory_order_acquire) == 0) return;
  const std::string found = shared().taken();
  FUSED_RNN_CHECK(found.empty(),
                  "a wait of a kernel ran out in an earlier call, whose results are NaN: ", found);
}

}  // namespace cuda
}  // namespace fused_rnn
