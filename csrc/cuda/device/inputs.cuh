// SPDX-License-Identifier: MIT
// What one unit and row takes from memory at one step backward.
#pragma once

#include "../problem.h"
#include "numbers.cuh"
#include "primitives.cuh"
#include "walk.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO>
struct BackwardInputs {
  static constexpr int S = saved_slots(cell);
  static constexpr bool kLstm = cell == Cell::kLstm;
  // Slots of the tape, or a plain network's y.
  static constexpr int kSaved = S == 0 ? 1 : S;

  IO saved[kSaved], before, dy;

  // Of unit u of row b at a step within its length.
  DEVICE_FN void load(const Backward& p, const Walk& walk, int t, int b, int u, int length) {
    const auto* y = static_cast<const IO*>(p.y);
    const auto* tape = static_cast<const IO*>(p.tape);
    const int64_t row = walk.row(t, b, 1) + u;
    if (S == 0) saved[0] = y[row];
#pragma unroll
    for (int s = 0; s < S; ++s) saved[s] = tape[walk.row(t, b, S) + s * walk.H + u];
    const IO* from = kLstm ? walk.before(t, b, length, tape, S, 4, static_cast<const IO*>(p.c0))
                           : walk.before(t, b, length, y, 1, 0, static_cast<const IO*>(p.h0));
    if (from) before = from[u];
    if (p.dy) dy = static_cast<const IO*>(p.dy)[row];
  }

  // Asks for what a later step loads: it comes from far away.
  DEVICE_FN static void fetch(const Backward& p, const Walk& walk, int t, int b, int u) {
    const int64_t row = walk.row(t, b, 1) + u;
#pragma unroll
    for (int s = 0; s < S; ++s) {
      prefetch(static_cast<const IO*>(p.tape) + walk.row(t, b, S) + s * walk.H + u);
    }
    if (!kLstm) prefetch(static_cast<const IO*>(p.y) + row);
    if (p.dy) prefetch(static_cast<const IO*>(p.dy) + row);
  }

  DEVICE_FN void widened(float (&to)[kSaved]) const {
#pragma unroll
    for (int s = 0; s < kSaved; ++s) to[s] = widen(saved[s]);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
