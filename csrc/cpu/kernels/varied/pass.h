// SPDX-License-Identifier: MIT
// What both passes over cells with options share. A step is two halves: products of all rows, then
// what follows them, a whole row at a time, since a row is normalised as a whole.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../team.h"
#include "../../varied.h"
#include "../arena.h"
#include "../dot.h"
#include "../integers.h"
#include "../pack.h"
#include "../place.h"
#include "../plan.h"
#include "../product.h"
#include "../rows.h"
#include "../vec.h"
#include "draws.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class C>
VEC_FN C sum_of_lanes(Vec<C> v) {
  C sum = 0;
  for (int l = 0; l < kLanes<C>; ++l) sum += v[l];
  return sum;
}

// The sum of f(u, lanes) over a row of n; four sums side by side, whose chains are short.
template <class C, class F>
VEC_FN C sum_row(int64_t n, F f) {
  constexpr int L = kLanes<C>;
  Vec<C> sums[4] = {};
  int64_t u = 0;
  for (; u + 4 * L <= n; u += 4 * L) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] += f(u + i * L, int64_t(L));
  }
  for (; u < n; u += L) sums[0] += f(u, min(n - u, L));
  return sum_of_lanes<C>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// The mean of a row, and 1 / sqrt(variance + eps).
template <class C>
struct Moments {
  C mean, scale;

  // Of a vector of the row, of which the first n lanes are read.
  Vec<C> normal(const C* p, int64_t n) const { return (load_n<C>(p, n) - mean) * scale; }

  // What the gradient d of normal values is of the values before: `mean` and `mean_normal` are
  // those of the row's d and d * normal.
  Vec<C> backward(Vec<C> d, Vec<C> normal, C mean, C mean_normal) const {
    return (d - mean - normal * mean_normal) * scale;
  }
};

template <class C>
Moments<C> moments(const C* row, int64_t n, double eps) {
  const C mean = sum_row<C>(n, [&](int64_t u, int64_t k) { return load_n<C>(row + u, k); }) / C(n);
  const C squares = sum_row<C>(n, [&](int64_t u, int64_t k) {
    Vec<C> d = load_n<C>(row + u, k) - mean;
    for (int64_t l = k; l < kLanes<C>; ++l) d[l] = 0;
    return d * d;
  });
  return {mean, C(1) / C(__builtin_sqrt(double(squares) / double(n) + eps))};
}

template <class C, Cell cell>
class VariedPass {
 protected:
  typedef Vec<C> V;
  static constexpr int L = kLanes<C>;
  static constexpr int G = gate_count(cell);
  static constexpr int kCells = cell_states(cell);

  VariedPass(const VariedLayer& args, const PanelMap<C>& map, int64_t K, char* workspace,
             int threads, int rank)
      : given_(args),
        s_(args.shape),
        split_(plan_split<C>(s_.N, s_.B, map.panels(), K, map.vecs, threads)),
        place_(split_, rank),
        rows_{args.rows, s_.T, s_.B, place_.row_group, split_.row_groups, false},
        arena_(workspace),
        gates_(G * s_.H),
        ld_(round_up(s_.H, 16)),
        slots_(all_slots(args)),
        ld_bits_(drawn_size(s_.H)),
        hold_(args.options.zoneout),
        hold_cell_(args.options.zoneout_cell),
        keep_(1 - args.options.dropout),
        kept_(args.options.dropout < 1 ? C(1 / (1 - args.options.dropout)) : C(0)) {
    const bool draws = args.seeds && args.options.dropout > 0;
    drops_state_ = draws && args.options.drops_state;
    for (int g = 0; g < split_.recurrence_groups && drops_state_; ++g) {
      int16_t* bits = arena_.template take<int16_t>(s_.B * ld_bits_);
      int64_t* segments = arena_.template take<int64_t>(s_.B);
      if (g != place_.recurrence_group) continue;
      state_bits_ = bits;
      segments_ = segments;
    }
    const bool own[] = {args.seeds && args.options.zoneout > 0,
                        args.seeds && args.options.zoneout_cell > 0, draws && !drops_state_};
    for (int i = 0; i < split_.recurrence_groups * place_.recurrence_size(); ++i) {
      for (int use = 0; use < kUses; ++use) {
        if (!own[use]) continue;
        int16_t* bits = arena_.template take<int16_t>(ld_bits_);
        if (i == place_.rank()) bits_[use] = bits;
      }
    }
  }

  // Runs f for each recurrence of this thread's, all threads together.
  template <class F>
  void for_recurrences(Team& team, F f) {
    for (int64_t n = 0; n < s_.N; n += split_.recurrence_groups) {
      n_ = n + place_.recurrence_group;
      if (!place_.idle) rows_.reverse = given_.reverse[n_] != 0;
      f();
      team.wait_all();
    }
  }

  // f(position) for this thread's rows among the first `count` of its group.
  template <class F>
  void for_rows_of(int64_t count, F f) const {
    for (int64_t j = place_.unit_group; j < count; j += split_.unit_groups) f(rows_.position(j));
  }

  // Packs this thread's share of some panels; row groups of the same panels share them.
  void pack(const Range& panels, const PanelMap<C>& map, const Matrix<C>& from, int64_t K,
            C* to) const {
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      if (p % split_.row_groups != place_.row_group) continue;
      pack_panel(to + p * panel_size<C>(map, K), map, p, from, K, K);
    }
  }

  // ---- arrays of this recurrence; null where there are none

  const C* of_units(const void* base, int64_t units) const {
    return base ? static_cast<const C*>(base) + n_ * units : nullptr;
  }
  // Of row b of (N, B, states * H), state `which`.
  const C* state_row(const void* base, int64_t b, int states = 1, int which = 0) const {
    if (!base) return nullptr;
    return static_cast<const C*>(base) + ((n_ * s_.B + b) * states + which) * s_.H;
  }
  const C* cell_row(const void* base, int64_t b, int which) const {
    return state_row(base, b, kCells, which);
  }
  // Of a row of (T, B, N, width).
  template <class T>
  T* step_row(T* base, int64_t row, int64_t width) const {
    return base ? base + (row * s_.N + n_) * width : nullptr;
  }
  const C* step_row(const void* base, int64_t row, int64_t width) const {
    return step_row(static_cast<const C*>(base), row, width);
  }
  C* step_row(void* base, int64_t row, int64_t width) const {
    return step_row(static_cast<C*>(base), row, width);
  }
  const C* tape_row(const void* tape, int64_t row, int64_t slot) const {
    return step_row(tape, row, slots_ * s_.H) + slot * s_.H;
  }

  // ---- what is drawn

  // The state's dropout from here on, in the walk's own direction until it meets a mark. A row's
  // segment is the number of marks up to a step.
  void begin_segment(int64_t p, int64_t t) {
    if (!drops_state_) return;
    const int64_t b = given_.rows.order[p];
    segments_[p] = rows_.marks(t, b);
    draw_state(p, b);
  }
  void next_segment(int64_t p, int64_t by) {
    if (!drops_state_) return;
    segments_[p] += by;
    draw_state(p, given_.rows.order[p]);
  }
  void draw_state(int64_t p, int64_t b) const {
    draw_bits(state_bits_ + p * ld_bits_, s_.H, given_.seeds[b], segments_[p], n_, Use::kKeep);
  }

  // All else that a row draws at a step.
  void draw_step(int64_t b, int64_t t) const {
    for (int use = 0; use < kUses; ++use) {
      if (bits_[use]) draw_bits(bits_[use], s_.H, given_.seeds[b], t, n_, Use(use));
    }
  }

  // How much of a vector of the state before is held, and of the cell's.
  V hold(int64_t u) const {
    const int16_t* bits = bits_[int(Use::kHold)];
    return bits ? hold_.of(bits + u) : V{} + C(given_.options.zoneout);
  }
  V hold_cell(int64_t u) const {
    const int16_t* bits = bits_[int(Use::kHoldCell)];
    return bits ? hold_cell_.of(bits + u) : V{} + C(given_.options.zoneout_cell);
  }
  // What dropout multiplies a vector of a candidate with, or of a row's state.
  V kept(int64_t u) const {
    const int16_t* bits = bits_[int(Use::kKeep)];
    return bits ? keep_.of(bits + u) * kept_ : V{} + C(1);
  }
  V kept_state(int64_t p, int64_t u) const {
    return drops_state_ ? keep_.of(state_bits_ + p * ld_bits_ + u) * kept_ : V{} + C(1);
  }

  // ---- options at a vector of units

  cells::Peephole<V> peephole(int64_t u, int64_t lanes) const {
    const C* w = of_units(given_.peephole, 3 * s_.H);
    if (!w) return cells::Peephole<V>{V{}, V{}, V{}};
    return {load_n<C>(w + u, lanes), load_n<C>(w + s_.H + u, lanes),
            load_n<C>(w + 2 * s_.H + u, lanes)};
  }

  bool clips() const { return given_.options.clip > 0; }
  cells::Clip<V> clip(V beyond = V{}) const {
    return {clips(), V{} + C(given_.options.clip), beyond};
  }

  // One part of the gates: as it comes from a product, normalised, or with a bias.
  struct Part {
    const C *raw, *scale, *bias;
    Moments<C> of[G];

    Part(const C* row, const C* scale, const C* bias, int64_t H, double eps)
        : raw(row), scale(scale), bias(bias) {
      for (int g = 0; scale && g < G; ++g) of[g] = moments(row + g * H, H, eps);
    }
    V at(int g, int64_t place, int64_t lanes) const {
      V v = scale ? of[g].normal(raw + place, lanes) * load_n<C>(scale + place, lanes)
                  : load_n<C>(raw + place, lanes);
      return bias ? v + load_n<C>(bias + place, lanes) : v;
    }
  };
  Part input_part(int64_t row) const {
    return Part(step_row(given_.x, row, gates_), of_units(given_.x_scale, gates_),
                of_units(given_.x_bias, gates_), s_.H, given_.options.eps);
  }
  Part recurrent_part(const C* raw) const {
    return Part(raw, of_units(given_.h_scale, gates_), of_units(given_.b_hh, gates_), s_.H,
                given_.options.eps);
  }

  const VariedLayer& given_;
  const Shape& s_;
  const Split split_;
  const Place place_;
  RowGroup rows_;
  Arena arena_;
  const int64_t gates_, ld_, slots_, ld_bits_;
  const Chance<C> hold_, hold_cell_, keep_;
  const C kept_;
  bool drops_state_ = false;
  int64_t n_ = 0;

 private:
  int16_t* state_bits_ = nullptr;  // (B, ld_bits) by position, and the segment of each
  int64_t* segments_ = nullptr;
  int16_t* bits_[kUses] = {};  // of a row at a step, by use; null where nothing is drawn
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
