// SPDX-License-Identifier: MIT
// Waits that ran out, as the host learns of them: a word for each kind of launch, zero until one of
// its kernels gives up and sets it.
//
// The words lie in the host's memory, mapped into every device, so that nothing is copied or waited
// for: a kernel stores straight into what the next call reads, one that a CUDA graph replays too.
// A device reaches them over its bus; a wait reads its word only every so many polls.
#pragma once

#include <cstdint>

#include "../exported.h"
#include "planner.h"
#include "problem.h"

namespace fused_rnn {
namespace cuda {

// The word for launches of this tier, pass and shape, that waits of the launch set and read. Lives
// as long as the process: graphs keep its address.
int* stuck_word(const Sizes& sizes, Tier tier, bool backward, int32_t device);

// RuntimeError, with the tier and the shape, where a wait ran out since the last check, whose
// results are NaN.
FUSED_RNN_EXPORTED void check_stuck();

}  // namespace cuda
}  // namespace fused_rnn
