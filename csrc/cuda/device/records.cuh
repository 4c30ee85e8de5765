// SPDX-License-Identifier: MIT
// What a block keeps of each of its rows in shared memory: the length, and the states of its units
// or their gradients. A place tells the words of a record, its units, which of them is the thread's
// own, and where its rows of the batch end.
#pragma once

#include "../shapes.h"
#include "primitives.cuh"

namespace fused_rnn {
namespace cuda {

struct Records {
  float* const memory;

  template <class Place>
  DEVICE_FN int& length(const Place& at, int row) const {
    return *reinterpret_cast<int*>(memory + row * at.record);
  }
  // The state h, or its gradient, of the thread's unit.
  template <class Place>
  DEVICE_FN float& state(const Place& at, int row) const {
    return memory[row * at.record + kRecordHead + at.own];
  }
};

// A row of a pass, as a thread sees it.
struct OwnRow {
  const int b;
  const bool there;
  const int length;  // none where there is nothing to compute
  float &h, &c;      // or their gradients

  // `place` is the row's among the records.
  template <class Place>
  DEVICE_FN OwnRow(const Place& at, const Records& records, int place, int b)
      : b(b),
        there(at.in_layer && b < at.end_row),
        length(there ? records.length(at, place) : 0),
        h(records.state(at, place)),
        c((&h)[at.units]) {}
};

}  // namespace cuda
}  // namespace fused_rnn
