// SPDX-License-Identifier: MIT
#include "record.h"

#include <mutex>
#include <optional>

namespace fused_rnn {
namespace cuda {
namespace {

struct Record {
  std::mutex mutex;
  std::optional<Plan> last[2];  // by pass
  std::map<std::string, int64_t> rewinds;
} record;

}  // namespace

void record_run(const Plan& plan, bool backward) {
  const std::lock_guard guard(record.mutex);
  record.last[backward] = plan;
}

std::string last_plan(bool backward) {
  const std::lock_guard guard(record.mutex);
  const std::optional<Plan>& plan = record.last[backward];
  return plan ? describe(*plan) : "";
}

void record_rewind(Tier tier) {
  const std::lock_guard guard(record.mutex);
  ++record.rewinds[tier_name(tier)];
}

std::map<std::string, int64_t> fallbacks() {
  const std::lock_guard guard(record.mutex);
  return record.rewinds;
}

}  // namespace cuda
}  // namespace fused_rnn
