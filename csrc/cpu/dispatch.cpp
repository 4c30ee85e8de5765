// SPDX-License-Identifier: MIT
#include "dispatch.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "processor.h"

namespace fused_rnn {
namespace {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  if (has_avx512_bf16()) found.push_back(&kAvx512Bf16);
  if (has_avx512()) found.push_back(&kAvx512);
  if (has_avx2()) found.push_back(&kAvx2);
#elif defined(__aarch64__)
  if (has_neon_bf16()) found.push_back(&kNeonBf16);
  found.push_back(&kNeon);
#endif
  found.push_back(&kPortable);
  return found;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> kernels{available().front()};
  return kernels;
}

std::atomic<bool> concurrent_regions{false};

// Multiply-adds that take about as long as waking another thread.
constexpr double kWorkPerThread = 1 << 17;

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : available()) names.emplace_back(kernels->name);
  return names;
}

std::string instruction_set() { return current().load()->name; }

void set_instruction_set(const std::string& name) {
  for (const Kernels* kernels : available()) {
    if (name == kernels->name) return current().store(kernels);
  }
  std::string names;
  for (const std::string& known : instruction_sets()) names += " " + known;
  throw std::invalid_argument("instruction set: expected one of" + names + ", got " + name);
}

void set_concurrent_regions(bool concurrent) { concurrent_regions = concurrent; }

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

int team_size(double multiply_adds) {
  if (!concurrent_regions || multiply_adds < 2 * kWorkPerThread) return 1;
  const int most = std::min(int(torch::stable::get_num_threads()), kMaxThreads);
  return int(std::min(double(most), multiply_adds / kWorkPerThread));
}

void run_team(int threads, const std::function<void(Team&, int)>& f) {
  Team team(threads);
  if (threads == 1) return f(team, 0);
  // A region may hand several indices to one call: only the calls that came are parties.
  std::atomic<int> calls{0}, indices{0};
  std::atomic<bool> counted{false};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    calls.fetch_add(1, std::memory_order_relaxed);
    indices.fetch_add(int(end - begin), std::memory_order_acq_rel);
    if (begin == 0) {
      wait_until([&] { return indices.load(std::memory_order_acquire) == threads; });
      team.size = calls.load(std::memory_order_relaxed);
      counted.store(true, std::memory_order_release);
    } else {
      wait_until([&] { return counted.load(std::memory_order_acquire); });
    }
    f(team, int(begin * team.size / threads));
  });
}

}  // namespace fused_rnn
