// SPDX-License-Identifier: MIT
// What a test chooses: the emulated device's sizes. The schedule and the faults are in machine.h.
#pragma once

#include "../../../../csrc/cuda/planner.h"

namespace emulator {

extern fused_rnn::cuda::Device emulated_device;

}  // namespace emulator
