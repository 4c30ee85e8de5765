// SPDX-License-Identifier: MIT
// Sizes of tiles and of shared memory: what the kernels lay out and the planner counts.
#pragma once

#include <cstdint>

#include "problem.h"

namespace fused_rnn {
namespace cuda {

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// ---- The block tier, 16-bit formats (block/). Rows and units of an mma tile; the padding that
// puts the eight rows of a matrix into different banks; stages of a thread's ring of inputs.
constexpr int kTileRows = 8, kTileUnits = 16, kPad = 8, kRingStages = 4;
// Kernels are built for these numbers of k-steps of 16; H is at most 16 times the last.
constexpr int kSmallSteps = 4, kLargeSteps = 8, kBlockUnits = 16 * kLargeSteps;

constexpr int block_steps(int H) { return H <= 16 * kSmallSteps ? kSmallSteps : kLargeSteps; }
constexpr int block_threads(int H) { return round_up(H, kTileUnits) / kTileUnits * 32; }
constexpr int tile_stride(int steps) { return steps * 16 + kPad; }

// h twice, for reading and writing, and r * h of the textbook GRU.
constexpr int forward_tiles(Cell cell) { return cell == Cell::kGruResetBefore ? 3 : 2; }
// dG twice, a tile for each gate.
constexpr int backward_tiles(Cell cell) { return 2 * gate_count(cell); }

// Words that a thread fetches for a step: pairs of units for two rows. Backward, the tape's slots
// (a plain network's y), the state before and dy.
constexpr int forward_words(Cell cell) { return 2 * gate_count(cell); }
constexpr int backward_words(Cell cell) {
  return 2 * ((saved_slots(cell) ? saved_slots(cell) : 1) + 2);
}

// Of a thread's ring.
constexpr int ring_words(int words) { return kRingStages * words + 1; }

constexpr int64_t block_bytes(Cell cell, int H, bool backward) {
  const int tiles = backward ? backward_tiles(cell) : forward_tiles(cell);
  const int words = backward ? backward_words(cell) : forward_words(cell);
  return 2 * tiles * kTileRows * tile_stride(block_steps(H)) +
         4 * ring_words(words) * block_threads(H);
}

// ---- What the tiers of many blocks keep of a row: its length and, behind a head that puts two
// rows into different banks, its states h and c or their gradients, of `groups` of 16 units.
constexpr int kRecordHead = 16;
constexpr int record_words(int groups) { return kRecordHead + 2 * groups * kTileUnits; }

// ---- The grid tier, 16-bit formats (grid/). Each block owns 16 units; its warps part the
// terms of their sums. Rows of a batch group come in passes of 16, one row and unit for each
// thread.
constexpr int kGridWarps = 8, kGridThreads = 32 * kGridWarps, kPassRows = 16, kMostPasses = 4;
constexpr int kHalves = kPassRows / kTileRows;  // tiles of a pass
// Kernels are built for few k-steps of a warp, for as many as its registers hold the weights of,
// and for some more whose weights are in shared memory.
constexpr int kFewGridSteps = 4, kManyGridSteps = 8, kKeptGridSteps = 8;
// Of a group: half a pass, so that more groups run at once, or some passes.
constexpr int grid_rows(int rows) {
  return rows <= kTileRows ? kTileRows : round_up(rows, kPassRows);
}
constexpr int grid_passes(int rows) { return round_up(rows, kPassRows) / kPassRows; }
constexpr int kGridUnits = 16 * kGridWarps * (kManyGridSteps + kKeptGridSteps);

constexpr int kept_steps(int H) {
  return H > 16 * kGridWarps * kManyGridSteps ? kKeptGridSteps : 0;
}
constexpr int grid_steps(int H) {
  return H <= 16 * kGridWarps * kFewGridSteps ? kFewGridSteps : kManyGridSteps + kept_steps(H);
}
constexpr int grid_slices(int H) { return round_up(H, kTileUnits) / kTileUnits; }
constexpr int grid_stride(int steps) { return kGridWarps * steps * 16 + kPad; }
// Steps whose operands are in global memory at once, and after how many of them each block clears
// what it wrote.
constexpr int kRingSteps = 16, kLapSteps = kRingSteps / 2;
// What a word of an operand holds until its two numbers are there, NaNs that no block writes; and
// what one writes instead.
constexpr uint32_t kAbsent = 0xFFFFFFFF, kNans = 0x7FFF7FFF;

// Fragments of an accumulator's 16 units and eight rows: 128 numbers, spread over all banks.
constexpr int kSumWords = 160;

// Weights that are not in registers come first, then the warps' sums, the tile of a pass and the
// rows' records.
constexpr int64_t kept_bytes(Cell cell, int H) {
  return 512 * kGridWarps * gate_count(cell) * int64_t(kept_steps(H));
}
constexpr int64_t grid_record_bytes(int rows) {
  return 4 * grid_passes(rows) * kPassRows * record_words(1);
}
// Warps' sums that are in shared memory at once: half where weights take the room.
constexpr int sum_parts(int kept) { return kept ? kGridWarps / 2 : kGridWarps; }
constexpr int64_t grid_sums(int parts, int gates) {
  return 4 * parts * gates * kHalves * kSumWords;
}
constexpr int64_t grid_tile(int H) { return 2 * kPassRows * grid_stride(grid_steps(H)); }
constexpr int64_t grid_forward_bytes(Cell cell, int H, int rows) {
  return kept_bytes(cell, H) + grid_record_bytes(rows) +
         grid_sums(sum_parts(kept_steps(H)), gate_count(cell)) + grid_tile(H);
}
// `slots` tiles of one gate each are in shared memory at once.
constexpr int64_t grid_backward_bytes(Cell cell, int H, int rows, int slots) {
  return kept_bytes(cell, H) + grid_record_bytes(rows) + grid_sums(kGridWarps, 1) +
         slots * grid_tile(H);
}

// ---- The grid tier backward by two dimensions (grid/cluster_backward.cuh): clusters of one of two
// sizes, whose ranks are columns of blocks, `peers` to each other.
constexpr int kRanks = kGridWarps, kFewRanks = kRanks / 2;
constexpr int grid_blocks(int H, int ranks) { return round_up(grid_slices(H), ranks); }
constexpr int column_peers(int H, int ranks) { return grid_blocks(H, ranks) / ranks; }
// K-steps of a block, as many as a lane gathers vectors of, and those of a warp, by some at a time.
constexpr int kColumnVectors = 4, kMostColumnSteps = 16 * kColumnVectors, kColumnGroup = 8;
constexpr int column_steps(Cell cell, int H, int ranks) {
  const int sharers = kGridWarps / ranks;
  return round_up((gate_count(cell) * column_peers(H, ranks) + sharers - 1) / sharers,
                  kColumnGroup);
}
// Those of a warp whose weights are in registers.
constexpr int held_column_steps(Cell cell) { return gate_count(cell) == 1 ? 16 : 40; }
constexpr int column_stride(Cell cell, int H, int ranks) {
  return kGridWarps / ranks * column_steps(cell, H, ranks) * 16 + kPad;
}

// Two barriers, weights that are not in registers, parts of dh and tiles, of two passes each, and
// the rows' records.
constexpr int64_t grid_cluster_bytes(Cell cell, int H, int ranks, int rows) {
  const int steps = column_steps(cell, H, ranks), held = held_column_steps(cell);
  return 512 * kGridWarps * int64_t(steps > held ? steps - held : 0) + grid_record_bytes(rows) +
         2 * grid_sums(kGridWarps, 1) + 2 * 2 * kPassRows * column_stride(cell, H, ranks) + 16;
}

// ---- The cluster tier, 16-bit formats (cluster/). The blocks of a cluster part the units, some
// groups of 16 for each. A group has four warps; batch rows come in passes of eight, one row and
// unit for each thread.
constexpr int kGroupWarps = 4, kGroupThreads = 32 * kGroupWarps, kMostGroups = 3;
constexpr int kMostClusterRows = 32, kSmallestCluster = 4, kLargestCluster = 16;
// Numbers of k-steps whose weights are in registers: 255 of them for each thread of two groups, 168
// of three. The rest are in shared memory.
constexpr int kTwoGroupSteps = 8, kThreeGroupSteps = 6;

constexpr int held_steps(int groups) { return groups < 3 ? kTwoGroupSteps : kThreeGroupSteps; }
constexpr int cluster_groups(int H, int blocks) { return (grid_slices(H) + blocks - 1) / blocks; }
// Forward, a warp takes a quarter of the columns of h; by two k-steps at a time.
constexpr int cluster_columns(int groups, int blocks) {
  return round_up(groups * kTileUnits * blocks, 32 * kGroupWarps);
}
constexpr int forward_steps(int groups, int blocks) {
  return cluster_columns(groups, blocks) / (16 * kGroupWarps);
}
// Backward, it takes a quarter of the cluster's tiles of units, and all gates of the block's own.
constexpr int backward_steps(Cell cell, int groups) {
  return round_up(gate_count(cell) * groups, 2);
}

// Both begin with two barriers.
constexpr int64_t fragment_bytes(int groups, int count, int steps) {
  const int held = held_steps(groups);
  return 512 * groups * kGroupWarps * count * int64_t(steps > held ? steps - held : 0);
}
// From row to row of a tile, which is there twice, for exchanges in turns.
constexpr int twin_stride(int columns) { return 2 * columns + kPad; }

// Forward, a warp gathers its 32 numbers before they are pushed; the second passes' sums come last.
constexpr int outgoing_bytes(int groups) { return 2 * groups * kGroupThreads; }
constexpr int cluster_sums(Cell cell, int groups) {
  return kGroupWarps * gate_count(cell) * groups * kSumWords;
}
constexpr int64_t cluster_forward_bytes(Cell cell, int groups, int blocks, int rows) {
  return 16 + outgoing_bytes(groups) +
         fragment_bytes(groups, gate_count(cell), forward_steps(groups, blocks)) +
         4 * (rows > kTileRows ? 2 : 1) * cluster_sums(cell, groups) +
         4 * rows * record_words(groups) + 2 * rows * twin_stride(cluster_columns(groups, blocks));
}
// Backward, what belongs to a pass lies together: records, tile and, twice, a letter of sums from
// each block for each group.
constexpr int letters(int groups, int blocks) { return blocks * groups * kSumWords; }
constexpr int pass_bytes(Cell cell, int groups, int blocks) {
  return kTileRows *
             (4 * record_words(groups) + 2 * twin_stride(backward_steps(cell, groups) * 16)) +
         2 * 4 * letters(groups, blocks);
}
constexpr int64_t cluster_backward_bytes(Cell cell, int groups, int blocks, int rows) {
  return 16 + fragment_bytes(groups, blocks / kGroupWarps, backward_steps(cell, groups)) +
         rows / kTileRows * pass_bytes(cell, groups, blocks);
}

// ---- The exact tier, float32 and float64 (exact/). Lanes that share a unit; batch rows of a
// block.
constexpr int kParts = 8, kManyRows = 4;

// Units at most, by the bytes of a number: what shared memory holds, roughly.
constexpr int exact_units(Cell cell, int width) {
  return width == 8 ? 48 : cell == Cell::kLstm ? 104 : 128;
}
constexpr int exact_threads(int H) { return round_up(H, 4) * kParts; }
// Row length of a matrix in shared memory, such that `remainder` banks lie between rows.
constexpr int padded_row(int columns, int remainder) {
  return round_up(columns > remainder ? columns - remainder : 0, 32) + remainder;
}
// Neighbouring lanes read a row forward, and a column backward, of four units at once.
constexpr int forward_row(int H) { return padded_row(H, 8); }
constexpr int backward_row(int H) { return padded_row(H, 4); }

constexpr int64_t exact_bytes(Cell cell, int H, int rows, int width, bool backward) {
  const int G = gate_count(cell);
  const int64_t numbers = backward ? G * H * backward_row(H) + 2 * rows * forward_row(G * H)
                                   : (G * H + forward_tiles(cell) * rows) * forward_row(H);
  return numbers * width;
}

}  // namespace cuda
}  // namespace fused_rnn
