// SPDX-License-Identifier: MIT
// The backward pass of cells with options, but for the gradients of the matrices, which are
// products over all steps and the caller's.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class C, Cell cell>
class VariedBackwardPass : VariedPass<C, cell> {
  typedef VariedPass<C, cell> Base;
  typedef Math<C> M;
  using Base::arena_, Base::gates_, Base::given_, Base::ld_, Base::n_, Base::place_, Base::rows_;
  using Base::G, Base::kCells, Base::L;
  using Base::s_, Base::slots_, Base::split_;
  using typename Base::Part;
  using typename Base::V;

 public:
  static size_t workspace(const VariedBackward& args, int threads) {
    return most_used(threads, [&](int size) {
      return VariedBackwardPass(args, nullptr, size, 0).arena_.used();
    });
  }

  static void run(const VariedBackward& args, char* workspace, Team& team, int rank) {
    VariedBackwardPass pass(args, workspace, team.size, rank);
    pass.for_recurrences(team, [&] {
      if (!pass.place_.idle) pass.prepare();
      team.wait_all();
      for (int64_t k = args.shape.T - 1; k >= 0 && !pass.place_.idle; --k) pass.step(team, k);
      if (!pass.place_.idle) pass.finish();
      team.wait_all();
      if (!pass.place_.idle) pass.write_sums();
    });
  }

 private:
  // Sums over all rows, of H each: gate by gate of the first four, then of the cell.
  enum Sum { kHBias, kXBias = G, kXScale = 2 * G, kHScale = 3 * G, kCScale = 4 * G };
  static constexpr int kCBias = kCScale + 1, kPeephole = kCScale + 2, kSums = kCScale + 5;
  // Rows that are added up by themselves: of many, one chain would lose digits.
  static constexpr int kRowsOfSum = 64;

  // Shared by the threads of one recurrence, (B, .) by position.
  struct Shared {
    C* weights;
    C *passed, *product, *dc;  // what reaches h past the cell, and through it; what reaches c
    C* sums;                   // of each thread, (kSums, ld)
  };

  // One row at one step.
  struct Step {
    int64_t p, row, after;
    bool cut;  // nothing comes back from the step after
    const C *h_prev, *c_prev, *n_prev, *dy;
    C *dx, *dparts;
  };

  VariedBackwardPass(const VariedBackward& args, char* workspace, int threads, int rank)
      : Base(args, plain_map<C>(args.shape.H), G * args.shape.H, workspace, threads, rank),
        args_(args),
        map_(plain_map<C>(s_.H)),
        panels_(map_.panels(), place_.unit_group, split_.unit_groups),
        ld_product_(round_up(map_.columns(), 16)) {
    for (int g = 0; g < split_.recurrence_groups; ++g) {
      Shared shared;
      shared.weights = arena_.template take<C>(packed_size<C>(map_, gates_));
      shared.passed = arena_.template take<C>(s_.B * ld_);
      shared.product = arena_.template take<C>(s_.B * ld_product_);
      shared.dc = arena_.template take<C>(s_.B * kCells * ld_);
      shared.sums = arena_.template take<C>(place_.recurrence_size() * kSums * ld_);
      if (g == place_.recurrence_group) shared_ = shared;
    }
    const int ranks = split_.recurrence_groups * place_.recurrence_size();
    for (int i = 0; i < ranks; ++i) {
      C* part = arena_.template take<C>(kSums * ld_);
      C* cells = arena_.template take<C>(ld_);
      C* grads = arena_.template take<C>(ld_);
      if (i == place_.rank()) {
        part_ = part;
        cells_ = cells;
        grads_ = grads;
      }
    }
  }

  static const C* nothing() { return nullptr; }

  void prepare() {
    const C* weights = Base::of_units(given_.w_hh, gates_ * s_.H);
    Base::pack(panels_, map_, {weights, 1, s_.H}, gates_, shared_.weights);
    convert(part_, nothing(), 0, kSums * ld_);
    convert(own_sums(), nothing(), 0, kSums * ld_);
    summed_ = 0;
    Base::for_rows_of(rows_.all(), [&](int64_t p) { start_row(p); });
  }

  C* own_sums() const { return shared_.sums + place_.recurrence_rank() * kSums * ld_; }

  void start_row(int64_t p) {
    const int64_t b = given_.rows.order[p];
    convert(shared_.passed + p * ld_, Base::state_row(args_.dhn, b), s_.H, ld_);
    convert(shared_.product + p * ld_product_, nothing(), 0, ld_product_);
    for (int i = 0; i < kCells; ++i) {
      convert(dcell_at(p, i), Base::cell_row(args_.dcn, b, i), s_.H, ld_);
    }
    const int64_t length = given_.rows.length_at[p];
    if (length > 0) Base::begin_segment(p, rows_.reverse ? 0 : length - 1);
    for (int64_t t = length; t < s_.T; ++t) {
      const int64_t row = rows_.row(t, b);
      for (void* to : {args_.dx, args_.dparts}) {
        if (to) convert(Base::step_row(to, row, gates_), nothing(), 0, gates_);
      }
      convert(Base::step_row(args_.factors, row, s_.H), nothing(), 0, s_.H);
    }
  }

  C* dcell_at(int64_t p, int which) const { return shared_.dc + (p * kCells + which) * ld_; }

  void step(Team& team, int64_t k) {
    const int64_t t = rows_.time(k), active = rows_.active(t);
    Base::for_rows_of(active, [&](int64_t p) { row(p, t); });
    place_.wait_units(team);
    panels_.at_step(k, [&](int64_t panel) {
      for_tiles(active, map_.used_vecs(panel),
                [&](int64_t first, int64_t count) { multiply(panel, t, first, count); });
    });
    place_.wait_units(team);
  }

  C* dparts_row(int64_t row) const {
    return Base::step_row(args_.dparts ? args_.dparts : args_.dx, row, gates_);
  }

  void multiply(int64_t panel, int64_t t, int64_t first, int64_t count) const {
    const C* a[kMaxRows];
    for (int64_t r = 0; r < count; ++r) {
      a[r] = dparts_row(rows_.row(t, given_.rows.order[rows_.position(first + r)]));
    }
    C* to = shared_.product + rows_.position(first) * ld_product_ + panel * map_.width();
    multiply_panel<C>(
        map_, panel, shared_.weights + panel * panel_size<C>(map_, gates_), gates_,
        [&](int64_t r) { return a[r]; }, gates_, count, nullptr, to,
        split_.row_groups * ld_product_);
  }

  // ---- a row at a step, before its product

  void row(int64_t p, int64_t t) {
    const int64_t b = given_.rows.order[p], length = given_.rows.length_at[p];
    Step at{};
    at.p = p;
    at.row = rows_.row(t, b);
    const bool last = rows_.last(t, length);
    at.after = last ? -1 : rows_.row(rows_.reverse ? t - 1 : t + 1, b);
    at.cut = rows_.cut_after(t, b, length);
    if (!rows_.cut_before(t, b, length)) {
      if (rows_.first(t, length)) {
        at.h_prev = Base::state_row(given_.h0, b);
        if (kCells > 0) at.c_prev = Base::cell_row(given_.c0, b, 0);
        if (kCells > 1) at.n_prev = Base::cell_row(given_.c0, b, 1);
      } else {
        const int64_t before = rows_.row(rows_.reverse ? t + 1 : t - 1, b);
        at.h_prev = Base::step_row(args_.y, before, s_.H);
        if (kCells > 0) at.c_prev = Base::tape_row(args_.tape, before, 4);
        if (kCells > 1) at.n_prev = Base::tape_row(args_.tape, before, 5);
      }
    }
    at.dy = Base::step_row(args_.dy, at.row, s_.H);
    at.dx = Base::step_row(args_.dx, at.row, gates_);
    at.dparts = dparts_row(at.row);
    if (at.cut) Base::next_segment(p, rows_.reverse ? 1 : -1);
    Base::draw_step(b, t);
    write_factors(at);
    if constexpr (cell == Cell::kLstm) {
      lstm(at);
    } else if constexpr (cell == Cell::kSlstm) {
      slstm(at);
    } else {
      others(at);
    }
    add_bias(at);
    if (given_.x_scale) {
      if (cell != Cell::kGru) convert(at.dparts, at.dx, gates_, gates_);
      through_norm(Base::input_part(at.row), at.dx, kXScale);
      through_norm(Base::recurrent_part(Base::tape_row(args_.tape, at.row, varied_slots(cell))),
                   at.dparts, kHScale);
    }
    if (++summed_ == kRowsOfSum) add_up();
  }

  static V value(const C* row, int64_t u, int64_t n) { return row ? load_n<C>(row + u, n) : V{}; }
  V saved(const Step& at, int64_t slot, int64_t u, int64_t n) const {
    return load_n<C>(Base::tape_row(args_.tape, at.row, slot) + u, n);
  }

  V beyond(const Step& at, int64_t u, int64_t n) const {
    return Base::clips() ? saved(at, slots_ - 1, u, n) : V{};
  }

  void write_factors(const Step& at) const {
    C* to = Base::step_row(args_.factors, at.row, s_.H);
    for (int64_t u = 0; u < s_.H; u += L) {
      const int64_t n = min(s_.H - u, L);
      store_n<C>(to + u, value(at.h_prev, u, n) * Base::kept_state(at.p, u), n);
    }
  }

  // What reaches h of a row: from outside, past the step after and through it.
  V output_grad(const Step& at, int64_t u, int64_t n) const {
    const V dy = value(at.dy, u, n);
    if (at.cut) return dy;
    const V passed = load(shared_.passed + at.p * ld_ + u);
    if (at.after < 0) return dy + passed;
    const V product = load(shared_.product + at.p * ld_product_ + u);
    return dy + passed + product * Base::kept_state(at.p, u);
  }

  void add(int sum, int64_t u, V value) const {
    C* to = part_ + sum * ld_ + u;
    store(to, load(to) + value);
  }

  // What reaches a state besides h from what the user was shown of this step.
  V shown_grad(const Step& at, int which, int64_t u, int64_t n) const {
    const C* row = Base::step_row(args_.dcells, at.row, kCells * s_.H);
    return row ? load_n<C>(row + which * s_.H + u, n) : V{};
  }

  // Of each cell, and of all: varied/gradients.h.
  void lstm(const Step& at) const;
  void slstm(const Step& at) const;
  void others(const Step& at) const;
  void add_bias(const Step& at) const;
  void through_norm(const Part& part, C* grad, int sums) const;

  // ---- after the walk

  void add_up() {
    C* total = own_sums();
    for (int64_t u = 0; u < kSums * ld_; u += L) {
      store(total + u, load(total + u) + load(part_ + u));
      store(part_ + u, V{});
    }
    summed_ = 0;
  }

  void finish() {
    add_up();
    Base::for_rows_of(rows_.all(), [&](int64_t p) { write_states(p); });
  }

  void write_states(int64_t p) const {
    const int64_t b = given_.rows.order[p], length = given_.rows.length_at[p];
    const int64_t first = rows_.reverse ? length - 1 : 0;
    const bool cut = length > 0 && rows_.cut_before(first, b, length);
    C* dh0 = const_cast<C*>(Base::state_row(args_.dh0, b));
    for (int64_t u = 0; u < s_.H; u += L) {
      const int64_t n = min(s_.H - u, L);
      V product = load(shared_.product + p * ld_product_ + u);
      if (length > 0) product *= Base::kept_state(p, u);
      store_n<C>(dh0 + u, cut ? V{} : load(shared_.passed + p * ld_ + u) + product, n);
      V d[kCells + 1] = {};
      for (int i = 0; i < kCells && !cut; ++i) d[i] = load(dcell_at(p, i) + u);
      if (cell == Cell::kSlstm && length > 0) {
        d[kCells - 1] += d[0] * value(Base::cell_row(given_.c0, b, 0), u, n) +
                         d[1] * value(Base::cell_row(given_.c0, b, 1), u, n);
      }
      for (int i = 0; i < kCells; ++i) {
        store_n<C>(const_cast<C*>(Base::cell_row(args_.dc0, b, i)) + u, d[i], n);
      }
    }
  }

  // Once all threads have come: this thread's share of the sums, over all threads.
  void write_sums() const {
    const Range mine(kSums, place_.recurrence_rank(), place_.recurrence_size());
    for (int64_t sum = mine.begin; sum < mine.end; ++sum) {
      C* to = sum_output(int(sum));
      if (!to) continue;
      for (int64_t u = 0; u < s_.H; u += L) {
        V total{};
        for (int i = 0; i < place_.recurrence_size(); ++i) {
          total += load(shared_.sums + (i * kSums + sum) * ld_ + u);
        }
        store_n<C>(to + u, total, s_.H - u);
      }
    }
  }

  C* sum_output(int sum) const {
    const auto at = [&](void* base, int first, int64_t units) {
      return base ? static_cast<C*>(base) + n_ * units + (sum - first) * s_.H : nullptr;
    };
    if (sum < kXBias) return at(args_.db_hh, kHBias, gates_);
    if (sum < kXScale) return at(args_.dx_bias, kXBias, gates_);
    if (sum < kHScale) return at(args_.dx_scale, kXScale, gates_);
    if (sum < kCScale) return at(args_.dh_scale, kHScale, gates_);
    if (sum == kCScale) return at(args_.dc_scale, kCScale, s_.H);
    if (sum == kCBias) return at(args_.dc_bias, kCBias, s_.H);
    return at(args_.dpeephole, kPeephole, 3 * s_.H);
  }

  const VariedBackward& args_;
  const PanelMap<C> map_;
  const Range panels_;
  const int64_t ld_product_;
  Shared shared_{};
  C *part_ = nullptr, *cells_ = nullptr, *grads_ = nullptr;
  int summed_ = 0;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
