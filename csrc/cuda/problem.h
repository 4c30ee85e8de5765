// SPDX-License-Identifier: MIT
// What a recurrence kernel is asked to do: plain pointers and sizes, no tensors.
//
// Letters as in csrc/README.md; the input's part of the gates comes projected, xg = x W_ih^T.
// D is the number of gradient columns, S of tape slots, both without the CPU's extra slot for h.
#pragma once

#include <cstdint>

#include "../types.h"

namespace fused_rnn {
namespace cuda {

// Recurrences of one launch: a bit of `reverse` each.
constexpr int kMostRecurrences = 64;

// What a cooperative launch returns where its grid is larger than what the device has free for it.
inline constexpr char kTooLarge[] = "the blocks do not fit the device at once";

constexpr int saved_slots(Cell cell) { return tape_slots(cell, false); }

struct Sizes {
  int T, B, N, H;
  Cell cell;
  Dtype dtype;
};

struct Recurrence {
  Sizes sizes;
  uint64_t reverse;        // bit n: recurrence n walks backward in time
  const int64_t* lengths;  // (B,) or null
  const uint8_t* resets;   // (T, B) or null
  const void* w_hh;        // (N, G*H, H)
  const void* h0;          // (N, B, H) or null
  const void* c0;          // (N, B, H) or null
  // Neighbouring units of every tensor lie in one aligned word: H is even, addresses are too.
  bool paired;
  // In memory of the host, zero: a block whose wait ran out sets it, the other waits of the launch
  // give up where they find it set. Read and written with the scope of the system.
  int* stuck;
};

struct Forward : Recurrence {
  const void* xg;    // (T, B, N, G*H)
  const void* b_ih;  // (N, G*H) or null
  const void* b_hh;  // (N, G*H) or null
  void* y;           // (T, B, N, H)
  void* hn;          // (N, B, H)
  void* cn;          // (N, B, H), LSTM
  void* tape;        // (T, B, N, S, H) or null
};

struct Backward : Recurrence {
  const void* y;     // (T, B, N, H)
  const void* tape;  // (T, B, N, S, H)
  const void* dy;    // (T, B, N, H) or null
  const void* dhn;   // (N, B, H) or null
  const void* dcn;   // (N, B, H) or null
  void* dg;          // (T, B, N, D, H)
  void* dh0;         // (N, B, H) or null
  void* dc0;         // (N, B, H) or null
};

// What the blocks of a grid share: the grid tier. Backward by two dimensions, `ranks` columns hand
// operands around, each within itself; else all blocks are one column.
struct Exchange {
  int rows;           // of a batch group
  int slots;          // tiles in shared memory at once, backward
  uint16_t* ring;     // (kRingSteps, N, B, ranks, 1, peers, 16), backward G for 1; kAbsent
  uint32_t* counter;  // (N, groups, ranks), zero
};

}  // namespace cuda
}  // namespace fused_rnn
