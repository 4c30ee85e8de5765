// SPDX-License-Identifier: MIT
// Which rows a thread walks through time, and what happens to them at a step.
#pragma once

#include <cstdint>

#include "../problem.h"
#include "isa.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// A range of items that is this thread's share.
struct Range {
  int64_t begin, end;

  Range(int64_t items, int rank, int size)
      : begin(items * rank / size), end(items * (rank + 1) / size) {}

  // f(item) for each, at odd steps from the end: the cache still holds what the last step read
  // last. In one and the same order, a share larger than the cache would find nothing there.
  template <class F>
  void at_step(int64_t step, F f) const {
    for (int64_t i = begin; i < end; ++i) f(step & 1 ? begin + end - 1 - i : i);
  }
};

// One batch row at one step. Steps follow one another in the recurrence's own direction: the
// forward pass goes on to the one after, the backward pass to the one before.
struct Visit {
  int64_t p;       // position in the order of lengths
  int64_t b;       // batch row
  int64_t index;   // among the rows of the steps that the pass takes together
  int64_t row;     // in x, y and tape
  int64_t before;  // `row` of the step before, -1 where this is the first; set by the backward pass
  int64_t op;      // in operands
  bool cut;        // whether a mark cuts off what the pass would carry on from this step
  bool last;       // whether it is the row's last step; set by the forward pass
};

// One row group's rows of one recurrence, and what happens to them at a step.
struct RowGroup {
  const Rows& rows;
  int64_t T, B;
  int group, groups;
  bool reverse;

  int64_t position(int64_t local) const { return group + local * groups; }
  int64_t count(int64_t positions) const { return (positions - group + groups - 1) / groups; }
  int64_t active(int64_t t) const { return count(rows.active[t]); }
  int64_t all() const { return count(B); }

  // Where x, y and tape have step t of batch row b, and whether they have steps past its length.
  int64_t row(int64_t t, int64_t b) const { return rows.begin[t] + b; }
  bool padded() const { return rows.count == T * B; }

  // The step of the recurrence that walks T steps in its own direction.
  int64_t time(int64_t k) const { return reverse ? T - 1 - k : k; }
  bool first(int64_t t, int64_t length) const { return reverse ? t + 1 == length : t == 0; }
  bool last(int64_t t, int64_t length) const { return reverse ? t == 0 : t + 1 == length; }

  // Whether a mark cuts off the state that enters (leaves) step t of a row.
  bool cut_before(int64_t t, int64_t b, int64_t length) const {
    if (!rows.resets) return false;
    if (reverse) return t + 1 < length && rows.resets[row(t + 1, b)];
    return rows.resets[row(t, b)];
  }
  bool cut_after(int64_t t, int64_t b, int64_t length) const {
    if (!rows.resets || last(t, length)) return false;
    return cut_before(reverse ? t - 1 : t + 1, b, length);
  }

  // How many marks a row has up to step t, that one included.
  int64_t marks(int64_t t, int64_t b) const {
    int64_t count = 0;
    for (int64_t k = 0; rows.resets && k <= t; ++k) count += rows.resets[row(k, b)] ? 1 : 0;
    return count;
  }
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
