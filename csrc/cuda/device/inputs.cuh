// SPDX-License-Identifier: MIT
// What one unit and row takes from memory at one step.
#pragma once

#include "../problem.h"
#include "../shapes.h"
#include "numbers.cuh"
#include "primitives.cuh"
#include "records.cuh"
#include "units.cuh"
#include "walk.cuh"

namespace fused_rnn {
namespace cuda {

// Forward, of the tiers of many blocks: the input's part of the gates of the row that comes next,
// and the unit's biases.
template <Cell cell, class IO>
struct ForwardInputs {
  static constexpr int G = gate_count(cell), kSummed = summed_gates(cell);

  const Rows<const IO> xg;
  float bias[G], x_bias;  // x_bias is that of the GRU's n, whose recurrent part is scaled apart
  IO x[G];

  DEVICE_FN ForwardInputs(const Forward& p, const Walk& walk, int unit)
      : xg(walk, static_cast<const IO*>(p.xg), G, unit), x_bias(0) {
    const auto* b_ih = static_cast<const IO*>(p.b_ih);
    const auto* b_hh = static_cast<const IO*>(p.b_hh);
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const int64_t index = (int64_t(walk.n) * G + g) * walk.H + unit;
      const float from_x = b_ih && unit < walk.H ? widen(b_ih[index]) : 0;
      bias[g] = b_hh && unit < walk.H ? widen(b_hh[index]) : 0;
      if (g < kSummed) {
        bias[g] += from_x;
      } else {
        x_bias = from_x;
      }
    }
  }

  // Takes what a row needs at the k-th step for gates `first` to `end`, and asks for what it needs
  // two steps later, one lane for all that lies together.
  template <int first, int end>
  DEVICE_FN void load(const Walk& walk, int k, const OwnRow& own) {
    const uint32_t number = walk.number(walk.time(k), own.b);
    if (walk.time(k) < own.length) {
      const IO* units = xg[number];
#pragma unroll
      for (int g = first; g < end; ++g) x[g] = units[g * walk.H];
    }
    if (threadIdx.x % kTileUnits || k + 2 >= walk.T || walk.time(k + 2) >= own.length) return;
    const IO* later = xg[walk.reverse ? number - 2 * walk.B : number + 2 * walk.B];
#pragma unroll
    for (int g = first; g < end; ++g) prefetch(later + g * walk.H);
  }

  // The input's part of a gate.
  DEVICE_FN float part(int g) const { return g < kSummed ? widen(x[g]) : widen(x[g]) + x_bias; }
};

template <Cell cell, class IO>
struct BackwardInputs {
  // Slots of the tape, or a plain network's y.
  static constexpr int kSaved = saved_slots(cell) == 0 ? 1 : saved_slots(cell);

  IO saved[kSaved], before, dy;

  DEVICE_FN void widened(float (&to)[kSaved]) const {
#pragma unroll
    for (int s = 0; s < kSaved; ++s) to[s] = widen(saved[s]);
  }
};

// Where that stands for a thread's unit, or two from it on.
template <Cell cell, class IO>
struct BackwardSource {
  static constexpr bool kPlain = saved_slots(cell) == 0, kLstm = cell == Cell::kLstm;
  static constexpr int kSaved = BackwardInputs<cell, IO>::kSaved;

  const Backward& p;
  const int unit;
  const Rows<const IO> saved, y, dy;

  DEVICE_FN BackwardSource(const Backward& p, const Walk& walk, int unit)
      : p(p),
        unit(unit),
        saved(walk, static_cast<const IO*>(kPlain ? p.y : p.tape), kSaved, unit),
        y(walk, static_cast<const IO*>(p.y), 1, unit),
        dy(walk, static_cast<const IO*>(p.dy), 1, unit) {}

  // Whether there is a state before step t of row b, else it is zeros.
  DEVICE_FN bool has_before(const Walk& walk, int t, int b, int length) const {
    const bool given = kLstm ? p.c0 : p.h0;
    return !walk.cut(t, b, length) && (given || !walk.first(t, length));
  }
  // Where it stands, c of the LSTM; `number` is the step's.
  DEVICE_FN const IO* before(const Walk& walk, int t, int b, int length, uint32_t number) const {
    if (walk.first(t, length)) {
      return static_cast<const IO*>(kLstm ? p.c0 : p.h0) + walk.state(b) + unit;
    }
    const uint32_t previous = walk.previous(number);
    return kLstm ? saved[previous] + 4 * walk.H : y[previous];
  }

  // What the tiers of many blocks take for a row at a stage, counted from the last step, if the row
  // has one there; and what they ask for, two stages ahead.
  DEVICE_FN void take(BackwardInputs<cell, IO>& in, const Walk& walk, int stage,
                      const OwnRow& own) const {
    load(in, walk, walk.stage_time(stage), own);
    if (stage + 2 < walk.T) ask(walk, walk.stage_time(stage + 2), own);
  }

  DEVICE_FN void load(BackwardInputs<cell, IO>& in, const Walk& walk, int t,
                      const OwnRow& own) const {
    if (t >= own.length) return;
    const uint32_t number = walk.number(t, own.b);
    const IO* slots = saved[number];
#pragma unroll
    for (int s = 0; s < kSaved; ++s) in.saved[s] = slots[s * walk.H];
    in.before = in.dy = IO{};
    if (has_before(walk, t, own.b, own.length)) {
      in.before = *before(walk, t, own.b, own.length, number);
    }
    if (p.dy) in.dy = *dy[number];
  }

  // One lane for all that lies together.
  DEVICE_FN void ask(const Walk& walk, int t, const OwnRow& own) const {
    if (threadIdx.x % kTileUnits || t >= own.length) return;
    const uint32_t number = walk.number(t, own.b);
    const IO* slots = saved[number];
#pragma unroll
    for (int s = 0; s < kSaved; ++s) prefetch(slots + s * walk.H);
    if (!kLstm && !kPlain) prefetch(y[number]);
    if (p.dy) prefetch(dy[number]);
  }

  // The gradients of the last states of row b, to its place among the records; no length is read.
  template <class Place>
  DEVICE_FN void start(const Place& at, const Walk& walk, const Records& records, int place,
                       int b) const {
    const bool there = at.in_layer && b < at.end_row;
    const int64_t state = walk.state(b) + unit;
    float* own = &records.state(at, place);
    own[0] = there && p.dhn ? widen(static_cast<const IO*>(p.dhn)[state]) : 0;
    own[at.units] = there && p.dcn ? widen(static_cast<const IO*>(p.dcn)[state]) : 0;
  }

  // Those of the initial states.
  DEVICE_FN void finish(const Walk& walk, const OwnRow& own) const {
    if (!own.there) return;
    const int64_t state = walk.state(own.b) + unit;
    if (p.dh0) static_cast<IO*>(p.dh0)[state] = narrow<IO>(own.h);
    if (p.dc0) static_cast<IO*>(p.dc0)[state] = narrow<IO>(own.c);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
