// SPDX-License-Identifier: MIT
// What the kernels with planted faults work on.
#pragma once

#include "../../../../csrc/cuda/device/primitives.cuh"
#include "machine.h"

namespace fused_rnn {
namespace {

constexpr int kThreads = 64, kRounds = 8, kBlocks = 3, kPair = 2;

struct Memory {
  alignas(16) float in[4 * kThreads], out[kBlocks * kThreads], sums[kBlocks * kThreads];
  Vector words[kBlocks * kThreads];
  alignas(16) uint16_t tile[32 * 8];
  uint32_t counter;
};

}  // namespace
}  // namespace fused_rnn
