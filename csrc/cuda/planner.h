// SPDX-License-Identifier: MIT
// Which kernels run a recurrence on a device, and why. No CUDA in here: Python asks for the plan
// of a shape on any machine.
#pragma once

#include <algorithm>
#include <string>

#include "shapes.h"

namespace fused_rnn {
namespace cuda {

// What a plan depends on besides the shape.
struct Device {
  int processors;    // multiprocessors
  int shared_bytes;  // that one block may ask for
};

enum class Tier { kBlock, kExact, kLibrary };

struct Plan {
  Tier tier;
  int rows;          // batch rows of a block
  int blocks;        // of the persistent launch; 0 for a launch a step
  int threads;       // of a block
  int shared_bytes;  // of a block
  std::string reason;
};

inline const char* tier_name(Tier tier) { return tier == Tier::kLibrary ? "L" : "S"; }

inline std::string kilobytes(int64_t bytes) { return std::to_string(bytes / 1024) + " KiB"; }

inline Plan library_plan(std::string reason) { return {Tier::kLibrary, 0, 0, 0, 0, reason}; }

// 16-bit formats: W_hh in the registers of one block.
inline Plan block_plan(const Sizes& s, const Device& device, bool backward) {
  if (s.H > kBlockUnits) {
    return library_plan("hidden size " + std::to_string(s.H) + " is above " +
                        std::to_string(kBlockUnits) + ", what one block's registers hold");
  }
  const int64_t bytes = block_bytes(s.cell, s.H, backward);
  if (bytes > device.shared_bytes) {
    return library_plan("needs " + kilobytes(bytes) + " of shared memory, there are " +
                        kilobytes(device.shared_bytes));
  }
  const int blocks = (s.B + kTileRows - 1) / kTileRows * s.N;
  return {Tier::kBlock,       kTileRows,  blocks,
          block_threads(s.H), int(bytes), "W_hh fits the registers of one block"};
}

// float32 and float64: W_hh in the shared memory of one block.
inline Plan exact_plan(const Sizes& s, const Device& device, bool backward) {
  const int width = s.dtype == Dtype::kDouble ? 8 : 4;
  // A row each while all run at once: a block's time grows with its rows.
  int rows = int64_t(s.B) * s.N <= device.processors ? 1 : kManyRows;
  int64_t bytes = exact_bytes(s.cell, s.H, rows, width, backward);
  if (s.H > exact_units(s.cell, width) || bytes > device.shared_bytes) {
    return library_plan("W_hh of hidden size " + std::to_string(s.H) + " takes " +
                        kilobytes(bytes) + " and at most " +
                        std::to_string(exact_units(s.cell, width)) + " units run; one block has " +
                        kilobytes(device.shared_bytes) + " of shared memory");
  }
  const int blocks = (s.B + rows - 1) / rows * s.N;
  return {Tier::kExact,       rows,       blocks,
          exact_threads(s.H), int(bytes), "W_hh fits the shared memory of one block"};
}

// The plan of one pass over a layer's recurrences.
inline Plan make_plan(const Sizes& s, const Device& device, bool backward) {
  return is_half(s.dtype) ? block_plan(s, device, backward) : exact_plan(s, device, backward);
}

inline std::string describe(const Plan& plan) {
  if (plan.tier == Tier::kLibrary) {
    return "tier L, a library product and a pointwise launch each step: " + plan.reason;
  }
  return "tier S, " + std::to_string(plan.blocks) + " blocks of " + std::to_string(plan.threads) +
         " threads, " + std::to_string(plan.rows) + " rows and " + kilobytes(plan.shared_bytes) +
         " of shared memory each: " + plan.reason;
}

}  // namespace cuda
}  // namespace fused_rnn
