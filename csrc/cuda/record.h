// SPDX-License-Identifier: MIT
// What ran: the plan of the last launch of each pass, and the launches that a device had no room
// for, from which the pass rewound. Of the whole process: backward passes run in threads of
// PyTorch's own.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "../exported.h"
#include "planner.h"

namespace fused_rnn {
namespace cuda {

void record_run(const Plan& plan, bool backward);
// As `describe` has it; empty before the first.
FUSED_RNN_EXPORTED std::string last_plan(bool backward);

void record_rewind(Tier tier);
// How often passes rewound from each tier, by its name.
FUSED_RNN_EXPORTED std::map<std::string, int64_t> fallbacks();

}  // namespace cuda
}  // namespace fused_rnn
