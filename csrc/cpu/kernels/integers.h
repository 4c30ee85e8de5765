// SPDX-License-Identifier: MIT
// Sums on sizes; the standard library's are not called (csrc/README.md).
#pragma once

#include <cstdint>

#include "isa.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
