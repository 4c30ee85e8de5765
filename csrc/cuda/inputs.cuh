// SPDX-License-Identifier: MIT
// What one unit and row takes from memory at one step backward.
#pragma once

#include "units.cuh"
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
    const int number = walk.number(t, b);
    const int64_t row = walk.offset(number, 1) + u;
    if (S == 0) saved[0] = y[row];
    const IO* slot = tape + walk.offset(number, S) + u;
#pragma unroll
    for (int s = 0; s < S; ++s, slot += walk.H) saved[s] = *slot;
    if (!walk.cut(t, b, length)) load_before(p, walk, t, b, u, length);
    if (p.dy) dy = static_cast<const IO*>(p.dy)[row];
  }

  // The state before a step, if the walk goes on from there.
  DEVICE_FN void load_before(const Backward& p, const Walk& walk, int t, int b, int u, int length) {
    const bool first = walk.first(t, length);
    const void* from = first ? kLstm ? p.c0 : p.h0 : kLstm ? p.tape : p.y;
    if (!from) return;
    const int64_t row = first ? walk.offset(walk.n * walk.B + b, 1)
                              : walk.offset(walk.number(t - walk.forth, b), kLstm ? S : 1) +
                                    (kLstm ? 4 * walk.H : 0);
    before = static_cast<const IO*>(from)[row + u];
  }

  // Asks for what a later step loads, as it comes from far away: of the lanes that share sixteen
  // units from u on, each for one tensor's or slot's.
  DEVICE_FN static void fetch(const Backward& p, const Walk& walk, int t, int b, int u, int lane) {
    const int number = walk.number(t, b);
    if (lane < S) {
      prefetch(static_cast<const IO*>(p.tape) + walk.offset(number, S) + lane * walk.H + u);
      return;
    }
    const void* other = lane == S ? p.dy : lane == S + 1 && !kLstm ? p.y : nullptr;
    if (other) prefetch(static_cast<const IO*>(other) + walk.offset(number, 1) + u);
  }

  DEVICE_FN void widened(float (&to)[kSaved]) const {
#pragma unroll
    for (int s = 0; s < kSaved; ++s) to[s] = widen(saved[s]);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
