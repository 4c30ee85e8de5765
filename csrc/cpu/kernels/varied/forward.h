// SPDX-License-Identifier: MIT
// The forward pass of cells with options: one recurrence's steps in one parallel region.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class C, Cell cell>
class VariedForwardPass : VariedPass<C, cell> {
  typedef VariedPass<C, cell> Base;
  typedef Math<C> M;
  using Base::arena_, Base::gates_, Base::given_, Base::ld_, Base::n_, Base::place_, Base::rows_;
  using Base::G, Base::kCells, Base::L;
  using Base::s_, Base::slots_, Base::split_;
  using typename Base::Part;
  using typename Base::V;

 public:
  static size_t workspace(const VariedForward& args, int threads) {
    return most_used(
        threads, [&](int size) { return VariedForwardPass(args, nullptr, size, 0).arena_.used(); });
  }

  static void run(const VariedForward& args, char* workspace, Team& team, int rank) {
    VariedForwardPass pass(args, workspace, team.size, rank);
    pass.for_recurrences(team, [&] {
      if (!pass.place_.idle) pass.prepare();
      team.wait_all();
      for (int64_t k = 0; k < args.shape.T && !pass.place_.idle; ++k) pass.step(team, k);
    });
  }

 private:
  // Shared by the threads of one recurrence, (B, .) by position.
  struct Shared {
    C *weights, *parts, *state, *operand, *c;
  };

  VariedForwardPass(const VariedForward& args, char* workspace, int threads, int rank)
      : Base(args, plain_map<C>(G * args.shape.H), args.shape.H, workspace, threads, rank),
        args_(args),
        map_(plain_map<C>(gates_)),
        panels_(map_.panels(), place_.unit_group, split_.unit_groups),
        packs_(s_.T > kUnpackedSteps || s_.T * s_.B >= kUnpackedRows),
        ld_parts_(map_.columns()) {
    for (int g = 0; g < split_.recurrence_groups; ++g) {
      Shared shared;
      shared.weights = packs_ ? arena_.template take<C>(packed_size<C>(map_, s_.H)) : nullptr;
      shared.parts = arena_.template take<C>(s_.B * ld_parts_);
      shared.state = arena_.template take<C>(s_.B * ld_);
      shared.operand = Base::drops_state_ ? arena_.template take<C>(s_.B * ld_) : shared.state;
      shared.c = arena_.template take<C>(s_.B * kCells * ld_);
      if (g == place_.recurrence_group) shared_ = shared;
    }
    const int ranks = split_.recurrence_groups * place_.recurrence_size();
    for (int i = 0; i < ranks; ++i) {
      C* cells = arena_.template take<C>(cell == Cell::kLstm ? ld_ : 0);
      C* exits = arena_.template take<C>(cell == Cell::kLstm ? ld_ : 0);
      C* beyond = arena_.template take<C>(cell == Cell::kLstm ? ld_ : 0);
      if (i == place_.rank()) {
        cells_ = cells;
        exits_ = exits;
        beyond_ = beyond;
      }
    }
  }

  const C* weights() const { return Base::of_units(given_.w_hh, gates_ * s_.H); }

  void prepare() {
    if (packs_) Base::pack(panels_, map_, {weights(), s_.H, 1}, s_.H, shared_.weights);
    Base::for_rows_of(rows_.all(), [&](int64_t p) { start_row(p); });
  }

  void start_row(int64_t p) {
    const int64_t b = given_.rows.order[p], length = given_.rows.length_at[p];
    const int64_t first = rows_.reverse ? length - 1 : 0;
    const bool cut = length > 0 && rows_.cut_before(first, b, length);
    const C* h0 = cut ? nullptr : Base::state_row(given_.h0, b);
    convert(shared_.state + p * ld_, h0, s_.H, ld_);
    for (int i = 0; i < kCells; ++i) {
      convert(cell_at(p, i), cut ? nullptr : Base::cell_row(given_.c0, b, i), s_.H, ld_);
    }
    if (length == 0) write_last(p, b);
    if (length > 0) {
      Base::begin_segment(p, first);
      drop_state(p);
    }
    for (int64_t t = length; t < s_.T; ++t) {
      const C* none = nullptr;
      convert(Base::step_row(args_.y, rows_.row(t, b), s_.H), none, 0, s_.H);
      if (args_.cells) {
        convert(Base::step_row(args_.cells, rows_.row(t, b), kCells * s_.H), none, 0,
                kCells * s_.H);
      }
    }
  }

  C* cell_at(int64_t p, int which) const { return shared_.c + (p * kCells + which) * ld_; }

  void write_last(int64_t p, int64_t b) const {
    convert(const_cast<C*>(Base::state_row(args_.hn, b)), shared_.state + p * ld_, s_.H, s_.H);
    for (int i = 0; i < kCells; ++i) {
      convert(const_cast<C*>(Base::cell_row(args_.cn, b, i)), cell_at(p, i), s_.H, s_.H);
    }
  }

  // What the product at a row's next step takes of its state.
  void drop_state(int64_t p) const {
    if (!Base::drops_state_) return;
    for (int64_t u = 0; u < s_.H; u += L) {
      const V h = load(shared_.state + p * ld_ + u);
      store(shared_.operand + p * ld_ + u, h * Base::kept_state(p, u));
    }
  }

  void step(Team& team, int64_t k) {
    const int64_t t = rows_.time(k), active = rows_.active(t);
    panels_.at_step(k, [&](int64_t p) {
      for_tiles(active, map_.used_vecs(p),
                [&](int64_t first, int64_t count) { multiply(p, first, count); });
    });
    place_.wait_units(team);
    Base::for_rows_of(active, [&](int64_t p) { finish_row(p, t); });
    place_.wait_units(team);
  }

  // The product of some of the group's rows with one panel.
  void multiply(int64_t panel, int64_t first, int64_t count) const {
    const C* a[kMaxRows];
    for (int64_t r = 0; r < count; ++r) {
      a[r] = shared_.operand + rows_.position(first + r) * ld_;
    }
    C* to = shared_.parts + rows_.position(first) * ld_parts_ + panel * map_.width();
    const int64_t stride = split_.row_groups * ld_parts_;
    const C* none = nullptr;
    if (!packs_) return dot_panel(map_, panel, weights(), s_.H, a, count, none, to, stride);
    multiply_panel<C>(
        map_, panel, shared_.weights + panel * panel_size<C>(map_, s_.H), s_.H,
        [&](int64_t r) { return a[r]; }, s_.H, count, none, to, stride);
  }

  // ---- what follows the products of a row

  void finish_row(int64_t p, int64_t t) {
    const int64_t b = given_.rows.order[p], length = given_.rows.length_at[p];
    const int64_t row = rows_.row(t, b);
    const bool last = rows_.last(t, length), cut = rows_.cut_after(t, b, length);
    const C* raw = shared_.parts + p * ld_parts_;
    if (args_.tape && given_.h_scale) {
      convert(tape(row, varied_slots(cell)), raw, gates_, gates_);
    }
    Base::draw_step(b, t);
    const Part x = Base::input_part(row), r = Base::recurrent_part(raw);
    if constexpr (cell == Cell::kLstm) {
      lstm(p, row, x, r);
    } else if constexpr (cell == Cell::kSlstm) {
      slstm(p, row, x, r);
    } else {
      others(p, row, x, r);
    }
    if (last) {
      write_last(p, b);
    } else if (cut) {
      const C* none = nullptr;
      convert(shared_.state + p * ld_, none, 0, s_.H);
      for (int i = 0; i < kCells; ++i) convert(cell_at(p, i), none, 0, s_.H);
      Base::next_segment(p, rows_.reverse ? -1 : 1);
    }
    if (!last) drop_state(p);
  }

  C* tape(int64_t row, int64_t slot) const {
    return const_cast<C*>(Base::tape_row(args_.tape, row, slot));
  }
  void keep(int64_t row, int64_t slot, int64_t u, V value, int64_t lanes) const {
    if (args_.tape) store_n<C>(tape(row, slot) + u, value, lanes);
  }

  // Which gates of a vector of units lay beyond their bounds.
  void keep_beyond(int64_t row, int64_t u, const cells::Clip<V>& clip, int64_t lanes) const {
    if (clip.on) keep(row, slots_ - 1, u, clip.beyond, lanes);
  }

  // What a unit has besides h after a step, for the user.
  void show(int64_t row, int which, int64_t u, V value, int64_t lanes) const {
    if (!args_.cells) return;
    C* to = Base::step_row(args_.cells, row, kCells * s_.H) + which * s_.H;
    store_n<C>(to + u, value, lanes);
  }

  // A step's output by zoneout, into y and the state.
  void emit(int64_t p, int64_t row, int64_t u, int64_t lanes, V next) const {
    C* state = shared_.state + p * ld_ + u;
    const V h = cells::held(next, load(state), Base::hold(u));
    store_n<C>(Base::step_row(args_.y, row, s_.H) + u, h, lanes);
    store_n<C>(state, h, lanes);
  }

  // What gate g of a vector of units is activated at.
  V pre(const Part& x, const Part& r, int g, int64_t u, int64_t n) const {
    return x.at(g, g * s_.H + u, n) + r.at(g, g * s_.H + u, n);
  }

  void lstm(int64_t p, int64_t row, const Part& x, const Part& r) {
    const int64_t H = s_.H;
    const auto act = given_.options.activations;
    for (int64_t u = 0; u < H; u += L) {
      const int64_t n = min(H - u, L);
      const auto pre = [&](int g) { return this->pre(x, r, g, u, n); };
      C* c = cell_at(p, 0) + u;
      const V c_prev = load(c);
      auto clip = Base::clip();
      const auto s = cells::varied_lstm_cell<M>(act, pre(0), pre(1), pre(2), c_prev,
                                                Base::peephole(u, n), Base::kept(u), clip);
      store(cells_ + u, s.c);
      store(exits_ + u, pre(3));
      store(beyond_ + u, clip.beyond);
      const V held = cells::held(s.c, c_prev, Base::hold_cell(u));
      store_n<C>(c, held, n);
      keep(row, 0, u, s.i, n);
      keep(row, 1, u, s.f, n);
      keep(row, 2, u, s.g, n);
      keep(row, 4, u, held, n);
      show(row, 0, u, held, n);
    }
    const C *scale = Base::of_units(given_.c_scale, H), *bias = Base::of_units(given_.c_bias, H);
    Moments<C> of{};
    if (scale) of = moments(cells_, H, given_.options.eps);
    for (int64_t u = 0; u < H; u += L) {
      const int64_t n = min(H - u, L);
      const V c = load_n<C>(cells_ + u, n);
      V shown = c;
      if (scale) {
        const V w = load_n<C>(scale + u, n), b = load_n<C>(bias + u, n);
        shown = of.normal(cells_ + u, n) * w + b;
      }
      auto clip = Base::clip(load(beyond_ + u));
      const auto s =
          cells::varied_lstm_exit<M>(act, load(exits_ + u), c, shown, Base::peephole(u, n), clip);
      keep(row, 3, u, s.o, n);
      keep_beyond(row, u, clip, n);
      emit(p, row, u, n, s.h);
    }
  }

  void slstm(int64_t p, int64_t row, const Part& x, const Part& r) {
    const int64_t H = s_.H;
    for (int64_t u = 0; u < H; u += L) {
      const int64_t lanes = min(H - u, L);
      const auto pre = [&](int g) { return this->pre(x, r, g, u, lanes); };
      C *c = cell_at(p, 0) + u, *n = cell_at(p, 1) + u, *m = cell_at(p, 2) + u;
      const auto s =
          cells::slstm_forward<M>(pre(0), pre(1), pre(2), pre(3), load(c), load(n), load(m));
      store_n<C>(c, s.c, lanes);
      store_n<C>(n, s.n, lanes);
      store_n<C>(m, s.m, lanes);
      show(row, 0, u, s.c, lanes);
      show(row, 1, u, s.n, lanes);
      show(row, 2, u, s.m, lanes);
      const V kept[] = {s.i, s.f, s.z, s.o, s.c, s.n, s.open};
      for (int slot = 0; slot < 7; ++slot) keep(row, slot, u, kept[slot], lanes);
      emit(p, row, u, lanes, s.h);
    }
  }

  void others(int64_t p, int64_t row, const Part& x, const Part& r) {
    const int64_t H = s_.H;
    const auto act = given_.options.activations;
    for (int64_t u = 0; u < H; u += L) {
      const int64_t n = min(H - u, L);
      const auto pre = [&](int g) { return this->pre(x, r, g, u, n); };
      auto clip = Base::clip();
      if constexpr (cell == Cell::kGru) {
        const V q = r.at(2, 2 * H + u, n);
        const auto s = cells::varied_gru<M>(act, pre(0), pre(1), x.at(2, 2 * H + u, n), q,
                                            load(shared_.state + p * ld_ + u), Base::kept(u), clip);
        keep(row, 0, u, s.r, n);
        keep(row, 1, u, s.z, n);
        keep(row, 2, u, s.n, n);
        keep(row, 3, u, q, n);
        emit(p, row, u, n, s.h);
      } else {
        const V h = cells::varied_rnn<M>(act.other, pre(0), clip);
        keep(row, 0, u, h, n);
        emit(p, row, u, n, h);
      }
      keep_beyond(row, u, clip, n);
    }
  }

  const VariedForward& args_;
  const PanelMap<C> map_;
  const Range panels_;
  const bool packs_;
  const int64_t ld_parts_;
  Shared shared_{};
  C *cells_ = nullptr, *exits_ = nullptr, *beyond_ = nullptr;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
