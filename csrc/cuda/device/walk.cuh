// SPDX-License-Identifier: MIT
// The order of a recurrence's steps, and what a ragged or reset batch makes of each.
#pragma once

#include <type_traits>

#include "../problem.h"
#include "primitives.cuh"

namespace fused_rnn {
namespace cuda {

// One recurrence's walk over the steps; its k-th visit is at time(k). See the reference's _masks.
struct Walk {
  int T, B, N, H, n;
  bool reverse;
  const int64_t* lengths;
  const uint8_t* resets;

  DEVICE_FN Walk(const Recurrence& r, int n)
      : T(r.sizes.T),
        B(r.sizes.B),
        N(r.sizes.N),
        H(r.sizes.H),
        n(n),
        reverse(low_bits(uint32_t(r.reverse >> n), 1)),
        lengths(r.lengths),
        resets(r.resets) {}

  DEVICE_FN int time(int k) const { return reverse ? T - 1 - k : k; }
  // Backward in time: stages are counted from the last visit.
  DEVICE_FN int stage_time(int stage) const { return reverse ? stage : T - 1 - stage; }

  // Steps of row b; none past the batch.
  DEVICE_FN int length(int b) const {
    if (b >= B) return 0;
    if (!lengths) return T;
    const int64_t given = lengths[b];
    return given < 0 ? 0 : given > T ? T : int(given);
  }

  // Whether the walk reaches step t of a row fresh, without the state before it.
  DEVICE_FN bool cut(int t, int b, int length) const {
    const int marked = reverse ? t + 1 : t;
    uint32_t mark = 0;
    if (resets && marked < length) mark = resets[number(marked, b)];
    return mark != 0;
  }

  DEVICE_FN bool first(int t, int length) const { return t == (reverse ? length - 1 : 0); }

  // Offsets of row (t, b, n), of `columns` tensors of H each; of row (n, b) of a state.
  DEVICE_FN int64_t row(int t, int b, int columns) const {
    return ((int64_t(t) * B + b) * N + n) * columns * H;
  }
  DEVICE_FN int64_t state(int b) const { return uint64_t(uint32_t(n * B + b)) * uint32_t(H); }

  // The number of row (t, b) among all steps'. Its tensors have fewer than 2^31.
  DEVICE_FN uint32_t number(int t, int b) const { return uint32_t(t) * B + b; }

  // That of the row's step before.
  DEVICE_FN uint32_t previous(uint32_t number) const { return reverse ? number + B : number - B; }

  // Where the state before step t stands, in `steps` (T, B, N, columns, H) at `column`, or in
  // `initial` (N, B, H); null for zeros.
  template <class IO>
  DEVICE_FN const IO* before(int t, int b, int length, const IO* steps, int columns, int column,
                             const IO* initial) const {
    if (cut(t, b, length)) return nullptr;
    if (first(t, length)) return initial ? initial + state(b) : nullptr;
    return steps + row(reverse ? t + 1 : t - 1, b, columns) + int64_t(column) * H;
  }
};

// The rows of a tensor (T, B, N, columns, H) that belong to one recurrence, by their numbers, from
// a unit on. A product of 32 bits and an addition of 64 are one instruction.
template <class Number>
struct Rows {
  using Byte = std::conditional_t<std::is_const_v<Number>, const char, char>;
  Number* const first;
  const uint32_t bytes;  // from row to row

  DEVICE_FN Rows(const Walk& walk, Number* tensor, int columns, int unit)
      : first(tensor + uint32_t(walk.n * walk.H * columns + unit)),
        bytes(uint32_t(walk.N * walk.H) * uint32_t(columns * sizeof(Number))) {}

  DEVICE_FN Number* operator[](uint32_t number) const {
    return reinterpret_cast<Number*>(reinterpret_cast<Byte*>(first) + uint64_t(number) * bytes);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
