// SPDX-License-Identifier: MIT
// Which kernels run a recurrence on a device, and why. No CUDA in here: Python asks for the plan
// of a shape on any machine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "problem.h"
#include "shapes.h"

namespace fused_rnn {
namespace cuda {

// What a plan depends on besides the shape.
struct Device {
  int processors;    // multiprocessors
  int shared_bytes;  // that one block may ask for
  int cluster;       // blocks of a cluster at most; 1 where there are none
};

enum class Tier { kBlock, kExact, kCluster, kGrid, kStepwise };

struct Plan {
  Tier tier = Tier::kStepwise;
  std::string reason;
  int rows = 0;          // batch rows of a block or, in grid, of a group of blocks
  int slots = 0;         // gates that a block of grid has in shared memory at once, backward
  int blocks = 0;        // of the launch for all steps; stepwise has none
  int threads = 0;       // of a block
  int shared_bytes = 0;  // of a block
  int cluster = 1;       // blocks that make up a cluster
};

inline std::string kilobytes(int64_t bytes) { return std::to_string(bytes / 1024) + " KiB"; }

inline Plan stepwise_plan(std::string reason) { return {Tier::kStepwise, reason}; }

inline Plan too_little_memory(int64_t bytes, const Device& device) {
  return stepwise_plan("a block needs " + kilobytes(bytes) + " of shared memory, there are " +
                       kilobytes(device.shared_bytes));
}

// 16-bit formats: W_hh in the registers of one block.
inline Plan block_plan(const Sizes& s, const Device& device, bool backward) {
  const int64_t bytes = block_bytes(s.cell, s.H, backward);
  if (bytes > device.shared_bytes) return too_little_memory(bytes, device);
  const int blocks = (s.B + kTileRows - 1) / kTileRows * s.N;
  return {Tier::kBlock, "W_hh fits the registers of one block",
          kTileRows,    0,
          blocks,       block_threads(s.H),
          int(bytes)};
}

// Clusters of `blocks` that run at once: each lies within one of the device's larger parts, of 18
// multiprocessors or a few less, of which the last are often unusable.
inline int clusters_at_once(const Device& device, int blocks) {
  return device.processors / 18 * (kLargestCluster / blocks);
}

// 16-bit formats: W_hh in the registers and shared memory of a cluster. The stepwise tier where
// none fits.
inline Plan cluster_plan(const Sizes& s, const Device& device, bool backward) {
  Plan best;
  int least = 0;
  for (int blocks = kSmallestCluster; blocks <= std::min(device.cluster, kLargestCluster);
       blocks *= 2) {
    const int groups = cluster_groups(s.H, blocks), most = clusters_at_once(device, blocks) / s.N;
    if (s.T == 1 || groups > kMostGroups || most == 0) continue;
    const int rows = round_up((s.B + most - 1) / most, kTileRows);
    const int64_t bytes = backward ? cluster_backward_bytes(s.cell, groups, blocks, rows)
                                   : cluster_forward_bytes(s.cell, groups, blocks, rows);
    if (rows > kMostClusterRows || bytes > device.shared_bytes) continue;
    // The time of a step grows with a block's share; of equals, the smaller cluster hands on less.
    const int share = rows * groups;
    if (least && share >= least) continue;
    least = share;
    best = {Tier::kCluster,
            "W_hh fits one cluster's registers and shared memory",
            rows,
            0,
            blocks * ((s.B + rows - 1) / rows) * s.N,
            groups * kGroupThreads,
            int(bytes),
            blocks};
  }
  return best;
}

// The grid tier backward by two dimensions. The stepwise tier where no cluster's size serves.
inline Plan grid_cluster_plan(const Sizes& s, const Device& device) {
  for (const int ranks : {kRanks, kFewRanks}) {
    const int blocks = grid_blocks(s.H, ranks) * s.N;
    const int most = clusters_at_once(device, ranks) * ranks / blocks;
    if (ranks > device.cluster || most == 0) continue;
    const int rows = grid_rows((s.B + most - 1) / most);
    const int64_t bytes = grid_cluster_bytes(s.cell, s.H, ranks, rows);
    if (rows > kMostPasses * kPassRows || bytes > device.shared_bytes ||
        gate_count(s.cell) * column_peers(s.H, ranks) > kMostColumnSteps) {
      continue;
    }
    return {Tier::kGrid,
            "W_hh fits the blocks' registers and shared memory",
            rows,
            0,
            blocks * ((s.B + rows - 1) / rows),
            kGridThreads,
            int(bytes),
            ranks};
  }
  return stepwise_plan("no cluster of blocks serves");
}

// 16-bit formats: W_hh in the registers, then the shared memory of many blocks, which hand h or dG
// around after each step.
inline Plan grid_plan(const Sizes& s, const Device& device, bool backward) {
  if (s.cell == Cell::kGruResetBefore) {
    return stepwise_plan(
        "the textbook GRU would have to meet twice a step, the grid tier meets once");
  }
  if (s.T == 1) return stepwise_plan("a single step leaves no weights to keep");
  if (s.H > kGridUnits) {
    return stepwise_plan("hidden size " + std::to_string(s.H) + " is above " +
                         std::to_string(kGridUnits) + ", what the blocks hold the weights of");
  }
  // Each block gathers a part of dG alone, which outweighs fewer groups of more rows.
  if (backward) {
    const Plan plan = grid_cluster_plan(s, device);
    if (plan.tier == Tier::kGrid) return plan;
  }
  // A group of blocks has all units of some rows; all groups run at once.
  const int blocks = grid_slices(s.H) * s.N, most = device.processors / blocks;
  if (most == 0) {
    return stepwise_plan(std::to_string(blocks) + " blocks would have to run at once, on " +
                         std::to_string(device.processors) + " multiprocessors");
  }
  const int rows = grid_rows((s.B + most - 1) / most);
  if (rows > kMostPasses * kPassRows) {
    return stepwise_plan(std::to_string(rows) + " rows of the batch for each block are above " +
                         std::to_string(kMostPasses * kPassRows));
  }
  int slots = backward ? gate_count(s.cell) : 0;
  const auto bytes = [&] {
    return backward ? grid_backward_bytes(s.cell, s.H, rows, slots)
                    : grid_forward_bytes(s.cell, s.H, rows);
  };
  while (slots > 1 && bytes() > device.shared_bytes) --slots;
  if (bytes() > device.shared_bytes) return too_little_memory(bytes(), device);
  return {Tier::kGrid,
          "W_hh fits the blocks' registers and shared memory",
          rows,
          slots,
          blocks * ((s.B + rows - 1) / rows),
          kGridThreads,
          int(bytes())};
}

// float32 and float64: W_hh in the shared memory of one block.
inline Plan exact_plan(const Sizes& s, const Device& device, bool backward) {
  const int width = s.dtype == Dtype::kDouble ? 8 : 4, most = exact_units(s.cell, width);
  if (s.H > most) {
    return stepwise_plan("hidden size " + std::to_string(s.H) + " is above " +
                         std::to_string(most) + ", what one block's shared memory holds");
  }
  // A row each while all run at once: a block's time grows with its rows.
  const int rows = int64_t(s.B) * s.N <= device.processors ? 1 : kManyRows;
  const int64_t bytes = exact_bytes(s.cell, s.H, rows, width, backward);
  if (bytes > device.shared_bytes) return too_little_memory(bytes, device);
  const int blocks = (s.B + rows - 1) / rows * s.N;
  return {
      Tier::kExact, "W_hh fits the shared memory of one block", rows, 0, blocks, exact_threads(s.H),
      int(bytes)};
}

// The plan of one pass over a layer's recurrences.
inline Plan make_plan(const Sizes& s, const Device& device, bool backward) {
  if (!is_half(s.dtype)) return exact_plan(s, device, backward);
  if (s.H <= kBlockUnits) return block_plan(s, device, backward);
  const Plan plan = cluster_plan(s, device, backward);
  return plan.tier == Tier::kCluster ? plan : grid_plan(s, device, backward);
}

inline const char* tier_name(Tier tier) {
  switch (tier) {
    case Tier::kBlock:
      return "tier block";
    case Tier::kExact:
      return "tier exact";
    case Tier::kCluster:
      return "tier cluster";
    case Tier::kGrid:
      return "tier grid";
    default:
      return "tier stepwise";
  }
}

inline std::string describe(const Plan& plan) {
  const std::string tier = tier_name(plan.tier);
  if (plan.tier == Tier::kStepwise) {
    return tier + ", a library product and a pointwise launch each step: " + plan.reason;
  }
  const std::string clusters =
      plan.cluster > 1 ? " in clusters of " + std::to_string(plan.cluster) : "";
  return tier + ", " + std::to_string(plan.blocks) + " blocks" + clusters + " of " +
         std::to_string(plan.threads) + " threads, " + std::to_string(plan.rows) + " rows and " +
         kilobytes(plan.shared_bytes) + " of shared memory each: " + plan.reason;
}

}  // namespace cuda
}  // namespace fused_rnn
