// SPDX-License-Identifier: MIT
// The forward pass of one layer: projection and recurrence inside one parallel region.
//
// A thread projects a few steps of its rows at a time into a buffer of its own, then walks
// through them, so that the gates never leave the cache.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

// Rows that a thread projects at once, at least.
constexpr int64_t kProjectRows = 128;

template <class IO, class Op, Cell cell>
class ForwardPass {
  typedef typename Tile<Op, 1, 1>::C C;
  typedef Vec<C> V;
  typedef Math<C> M;
  static constexpr int L = kLanes<C>;
  static constexpr int G = gate_count(cell);
  static constexpr int S = tape_slots(cell);
  // Vectors of units in a panel, so that a panel has enough vectors to hide latencies.
  static constexpr int kUnitVecs = G == 1 ? 4 : cell == Cell::kGruResetBefore ? 2 : 1;
  static constexpr bool kSplitGates = cell == Cell::kGruResetBefore;
  static constexpr bool kIsGru = cell == Cell::kGru || cell == Cell::kGruResetBefore;
  // The GRU mixes the previous state in; where products take a narrower copy it keeps its own.
  static constexpr bool kOwnState = kIsGru && sizeof(Op) != sizeof(C);
  static constexpr int kPanelColumns = G * kUnitVecs * L;

 public:
  static size_t workspace(const Forward& args, int threads) {
    size_t most = 0;
    for (int size = 1; size <= threads; ++size) {
      ForwardPass pass(args, nullptr, size, 0);
      if (pass.arena_.used() > most) most = pass.arena_.used();
    }
    return most;
  }

  static void run(const Forward& args, char* workspace, Team& team, int rank) {
    ForwardPass pass(args, workspace, team.size, rank);
    const int groups = pass.place_.split.recurrence_groups;
    for (int64_t n = 0; n < args.shape.N; n += groups) {
      if (!pass.place_.idle) pass.prepare(n + pass.place_.recurrence_group);
      team.wait_all();
      if (!pass.place_.idle) pass.walk(team);
      team.wait_all();
    }
  }

 private:
  // Shared by the threads of one recurrence.
  struct Shared {
    Op *w_ih, *w_ih_n, *w_hh, *w_hh_n, *w_hr;  // packed; _n: the textbook GRU's second product
    C* bias;                                    // (panels, panel columns)
    Op *h[2], *inner;  // (B, ld): state before and after a step; r * h, or h before projection
    C *state, *c, *z;  // (B, ld)
  };

  ForwardPass(const Forward& args, char* workspace, int threads, int rank)
      : args_(args),
        s_(args.shape),
        gates_{kSplitGates ? 2 : G, kUnitVecs, 0, s_.H},
        gate_n_{1, kUnitVecs, 2, s_.H},
        outputs_(plain_map<C>(s_.P)),
        split_(plan_split(s_.N, s_.B, gates_.panels(), s_.P, G * kUnitVecs, threads)),
        place_(split_, rank),
        rows_{args.rows, s_.T, s_.B, place_.row_group, split_.row_groups, false},
        panels_(gates_.panels(), place_.unit_group, split_.unit_groups),
        arena_(workspace) {
    ld_p_ = round_up(s_.P, 16);
    ld_h_ = round_up(s_.H, 16);
    ld_x_ = round_up(s_.I, kPair<Op>);
    const int64_t group_rows = (s_.B + split_.row_groups - 1) / split_.row_groups;
    steps_ = min(s_.T, max(1, kProjectRows / max(group_rows, 1)));
    capacity_ = steps_ * group_rows;
    lay_out();
  }

  void lay_out() {
    for (int g = 0; g < split_.recurrence_groups; ++g) {
      Shared shared{};
      shared.w_ih = arena_.take<Op>(packed_size<Op>(gates_, s_.I));
      shared.w_hh = arena_.take<Op>(packed_size<Op>(gates_, s_.P));
      if (kSplitGates) {
        shared.w_ih_n = arena_.take<Op>(packed_size<Op>(gate_n_, s_.I));
        shared.w_hh_n = arena_.take<Op>(packed_size<Op>(gate_n_, s_.P));
        shared.z = arena_.take<C>(s_.B * ld_h_);
      }
      if (s_.projected) shared.w_hr = arena_.take<Op>(packed_size<Op>(outputs_, s_.H));
      shared.bias = arena_.take<C>(gates_.panels() * kPanelColumns);
      for (Op*& h : shared.h) h = arena_.take<Op>(s_.B * ld_p_);
      if (kSplitGates || s_.projected) shared.inner = arena_.take<Op>(s_.B * ld_h_);
      if (kOwnState) shared.state = arena_.take<C>(s_.B * ld_p_);
      if (cell == Cell::kLstm) shared.c = arena_.take<C>(s_.B * ld_h_);
      if (g == place_.recurrence_group) shared_ = shared;
    }
    // This thread's own buffers lie behind those of the ranks before it.
    const int64_t most_panels = (gates_.panels() + split_.unit_groups - 1) / split_.unit_groups;
    const int threads = split_.recurrence_groups * place_.recurrence_size();
    const bool direct = std::is_same<IO, Op>::value && s_.I == ld_x_;
    for (int rank = 0; rank < threads; ++rank) {
      C* xg = arena_.take<C>(most_panels * capacity_ * kPanelColumns);
      Op* converted = arena_.take<Op>(direct ? 0 : capacity_ * ld_x_);
      const Op** x_rows = arena_.take<const Op*>(capacity_);
      if (rank == place_.rank()) {
        xg_ = xg;
        converted_ = converted;
        x_rows_ = x_rows;
      }
    }
  }

  // ---- packing and initial state

  void prepare(int64_t n) {
    n_ = n;
    rows_.reverse = args_.reverse[n] != 0;
    const Weights& w = args_.weights[n];
    const Matrix<IO> w_ih{static_cast<const IO*>(w.w_ih), s_.I, 1};
    const Matrix<IO> w_hh{static_cast<const IO*>(w.w_hh), s_.P, 1};
    // The row groups of a thread's panels share the packing of those.
    for (int64_t p = panels_.begin; p < panels_.end; ++p) {
      if (p % split_.row_groups != place_.row_group) continue;
      pack<Op>(shared_.w_ih, gates_, p, w_ih, s_.I);
      pack<Op>(shared_.w_hh, gates_, p, w_hh, s_.P);
      if (kSplitGates) {
        pack<Op>(shared_.w_ih_n, gate_n_, p, w_ih, s_.I);
        pack<Op>(shared_.w_hh_n, gate_n_, p, w_hh, s_.P);
      }
      pack_bias(w, p);
    }
    if (s_.projected) {
      const Matrix<IO> w_hr{static_cast<const IO*>(w.w_hr), s_.H, 1};
      const Range mine(outputs_.panels(), place_.recurrence_rank(), place_.recurrence_size());
      for (int64_t p = mine.begin; p < mine.end; ++p) pack<Op>(shared_.w_hr, outputs_, p, w_hr, s_.H);
    }
    for (int64_t j = place_.unit_group; j < rows_.all(); j += split_.unit_groups) start_row(j);
  }

  template <class O>
  static void pack(O* to, const PanelMap<C>& map, int64_t panel, const Matrix<IO>& from,
                   int64_t K) {
    pack_panel(to + panel * map.panel_columns() * round_up(K, kPair<O>), map, panel, from, K);
  }

  // b_ih + b_hh, but for the reset-after GRU's n, where b_hh stays inside r * (...).
  void pack_bias(const Weights& w, int64_t panel) {
    const IO* b_ih = static_cast<const IO*>(w.b_ih);
    const IO* b_hh = static_cast<const IO*>(w.b_hh);
    for (int column = 0; column < kPanelColumns; ++column) {
      const int gate = column / (kUnitVecs * L);
      const int64_t unit = panel * kUnitVecs * L + column % (kUnitVecs * L);
      C value = 0;
      if (b_ih && unit < s_.H) {
        value = to_float(b_ih[gate * s_.H + unit]);
        if (!(cell == Cell::kGru && gate == 2)) value += to_float(b_hh[gate * s_.H + unit]);
      }
      shared_.bias[panel * kPanelColumns + column] = value;
    }
  }

  void start_row(int64_t j) {
    const int64_t p = rows_.position(j), b = args_.rows.order[p], length = args_.rows.length[p];
    const IO* h0 = row_of(args_.h0, b, s_.P);
    const IO* c0 = row_of(args_.c0, b, s_.H);
    if (length == 0) {
      convert(row_of(args_.hn, b, s_.P), h0, s_.P, s_.P);
      if (cell == Cell::kLstm) convert(row_of(args_.cn, b, s_.H), c0, s_.H, s_.H);
    } else if (rows_.cut_before(rows_.reverse ? length - 1 : 0, b, length)) {
      h0 = c0 = nullptr;
    }
    for (Op* h : shared_.h) convert(h + p * ld_p_, h0, s_.P, ld_p_);
    if (kOwnState) convert(shared_.state + p * ld_p_, h0, s_.P, ld_p_);
    if (cell == Cell::kLstm) convert(shared_.c + p * ld_h_, c0, s_.H, ld_h_);
    if (shared_.inner) convert(shared_.inner + p * ld_h_, static_cast<const IO*>(nullptr), 0, ld_h_);
    for (int64_t t = length; t < s_.T; ++t) {
      convert(y_row(t, b), static_cast<const IO*>(nullptr), 0, s_.P);
    }
  }

  // Row b of this recurrence in an (N, B, width) array; null where there is no array.
  const IO* row_of(const void* base, int64_t b, int64_t width) const {
    return base ? static_cast<const IO*>(base) + (n_ * s_.B + b) * width : nullptr;
  }
  IO* row_of(void* base, int64_t b, int64_t width) const {
    return static_cast<IO*>(base) + (n_ * s_.B + b) * width;
  }

  IO* y_row(int64_t t, int64_t b) const {
    return static_cast<IO*>(args_.y) + ((t * s_.B + b) * s_.N + n_) * s_.P;
  }

  // ---- the walk through time

  void walk(Team& team) {
    for (int64_t k = 0; k < s_.T; k += steps_) {
      const int64_t steps = min(steps_, s_.T - k);
      project(k, steps);
      int64_t offset = 0;
      for (int64_t i = k; i < k + steps; ++i) {
        step(team, i, offset);
        offset += rows_.active(rows_.time(i));
      }
    }
  }

  // The input's part of the gates for the active rows of a few steps.
  void project(int64_t k, int64_t steps) {
    int64_t count = 0;
    for (int64_t i = k; i < k + steps; ++i) {
      const int64_t t = rows_.time(i), active = rows_.active(t);
      for (int64_t j = 0; j < active; ++j) {
        const int64_t b = args_.rows.order[rows_.position(j)];
        const IO* x = static_cast<const IO*>(args_.x) + (t * s_.B + b) * s_.I;
        x_rows_[count] = operand(x, count);
        ++count;
      }
    }
    for (int64_t p = panels_.begin; p < panels_.end; ++p) {
      multiply(gates_, shared_.w_ih, p, s_.I, count, 0);
      if (kSplitGates) multiply(gate_n_, shared_.w_ih_n, p, s_.I, count, 2 * kUnitVecs * L);
    }
  }

  const Op* operand(const IO* x, int64_t index) {
    if constexpr (std::is_same<IO, Op>::value) {
      if (s_.I == ld_x_) return x;
    }
    Op* to = converted_ + index * ld_x_;
    convert(to, x, s_.I, ld_x_);
    return to;
  }

  C* xg_row(int64_t panel, int64_t index) const {
    return xg_ + ((panel - panels_.begin) * capacity_ + index) * kPanelColumns;
  }

  void multiply(const PanelMap<C>& map, const Op* w, int64_t panel, int64_t K, int64_t count,
                int64_t column) {
    const int vecs = map.used_vecs(panel);
    TileArgs<C> tile = panel_tile<Op>(map, w, panel, K);
    tile.init = shared_.bias + panel * kPanelColumns + column;
    tile.init_stride = 0;
    tile.c_stride = kPanelColumns;
    for_tiles(count, vecs, [&](int64_t first, int64_t rows) {
      for (int64_t r = 0; r < rows; ++r) tile.a[r] = x_rows_[first + r];
      tile.c = xg_row(panel, first) + column;
      run_tile<Op>(int(rows), vecs, tile);
    });
  }

  // Where a row stands at the present step.
  struct At {
    int64_t p, t, b, xg;
    bool last, keep;
  };

  At at(int64_t j, int64_t t, int64_t offset) const {
    const int64_t p = rows_.position(j), b = args_.rows.order[p], length = args_.rows.length[p];
    return At{p, t, b, offset + j, rows_.last(t, length), !rows_.cut_after(t, b, length)};
  }

  void step(Team& team, int64_t k, int64_t offset) {
    const int64_t t = rows_.time(k), active = rows_.active(t);
    now_ = shared_.h[k & 1];
    next_ = shared_.h[(k & 1) ^ 1];
    for (int64_t p = panels_.begin; p < panels_.end; ++p) {
      for_products(gates_, shared_.w_hh, p, s_.P, now_, ld_p_, active,
                   [&](int64_t j, const C* sum) { finish_gates(at(j, t, offset), p, sum); });
    }
    if (kSplitGates) {
      place_.wait_units(team);
      for (int64_t p = panels_.begin; p < panels_.end; ++p) {
        for_products(gate_n_, shared_.w_hh_n, p, s_.P, shared_.inner, ld_h_, active,
                     [&](int64_t j, const C* sum) { finish_n(at(j, t, offset), p, sum); });
      }
    }
    if (s_.projected) {
      place_.wait_units(team);
      const Range mine(outputs_.panels(), place_.unit_group, split_.unit_groups);
      for (int64_t p = mine.begin; p < mine.end; ++p) {
        for_products(outputs_, shared_.w_hr, p, s_.H, shared_.inner, ld_h_, active,
                     [&](int64_t j, const C* sum) { finish_output(at(j, t, offset), p, sum); });
      }
    }
    place_.wait_units(team);
  }

  // Multiplies the active rows of an operand with one panel; f(row, sums) gets each row's.
  template <class F>
  void for_products(const PanelMap<C>& map, const Op* w, int64_t panel, int64_t K,
                           const Op* operand, int64_t ld, int64_t active, F f) {
    alignas(64) C sums[kAccumulators * L];
    const int vecs = map.used_vecs(panel);
    TileArgs<C> tile = panel_tile<Op>(map, w, panel, K);
    tile.init = nullptr;
    tile.c = sums;
    tile.c_stride = vecs * L;
    for_tiles(active, vecs, [&](int64_t first, int64_t count) {
      for (int64_t r = 0; r < count; ++r) tile.a[r] = operand + rows_.position(first + r) * ld;
      run_tile<Op>(int(count), vecs, tile);
      for (int64_t r = 0; r < count; ++r) f(first + r, sums + r * vecs * L);
    });
  }

  // ---- what follows the products, a row and vector of units at a time

  C* tape_row(const At& a, int slot) const {
    return static_cast<C*>(args_.tape) + (((a.t * s_.B + a.b) * s_.N + n_) * S + slot) * s_.H;
  }

  void finish_gates(const At& a, int64_t panel, const C* sum) {
    const C* xg = xg_row(panel, a.xg);
    for (int v = 0; v < kUnitVecs; ++v) {
      const int64_t u = panel * gates_.width() + v * L, lanes = s_.H - u;
      if (lanes <= 0) break;
      const auto gate = [&](int g) {
        return load(xg + (g * kUnitVecs + v) * L) + load(sum + (g * kUnitVecs + v) * L);
      };
      if constexpr (cell == Cell::kLstm) {
        C* c = shared_.c + a.p * ld_h_ + u;
        const auto s = cells::lstm_forward<M>(gate(0), gate(1), gate(2), gate(3), load(c));
        keep(a, u, lanes, {s.i, s.f, s.g, s.o, s.c});
        if (a.last) store_n<C>(row_of(args_.cn, a.b, s_.H) + u, s.c, lanes);
        store(c, a.keep ? s.c : V{});
        if (s_.projected) {
          store_op(shared_.inner + a.p * ld_h_ + u, s.h, lanes);
        } else {
          emit(a, u, lanes, s.h);
        }
      } else if constexpr (cell == Cell::kGru) {
        V q = load(sum + 2 * L);
        if (args_.weights[n_].b_hh) q = q + hidden_bias(2 * s_.H + u, lanes);
        const auto s = cells::gru_forward<M>(gate(0), gate(1), load(xg + 2 * L), q, previous(a, u));
        keep(a, u, lanes, {s.r, s.z, s.n, q});
        emit(a, u, lanes, s.h);
      } else if constexpr (cell == Cell::kGruResetBefore) {
        const auto s = cells::gru_before_gates<M>(gate(0), gate(1), previous(a, u));
        if (args_.tape) store_n<C>(tape_row(a, 0) + u, s.r, lanes);
        store(shared_.z + a.p * ld_h_ + u, s.z);
        store_op(shared_.inner + a.p * ld_h_ + u, s.reset_h, lanes);
      } else {
        emit(a, u, lanes, cell == Cell::kRnnTanh ? M::tanh(gate(0)) : cells::relu(gate(0)));
      }
    }
  }

  void finish_n(const At& a, int64_t panel, const C* sum) {
    const C* xg = xg_row(panel, a.xg) + 2 * kUnitVecs * L;
    for (int v = 0; v < kUnitVecs; ++v) {
      const int64_t u = panel * gates_.width() + v * L, lanes = s_.H - u;
      if (lanes <= 0) break;
      const V z = load(shared_.z + a.p * ld_h_ + u);
      const auto s =
          cells::gru_before_output<M>(load(xg + v * L) + load(sum + v * L), z, previous(a, u));
      if (args_.tape) {
        store_n<C>(tape_row(a, 1) + u, z, lanes);
        store_n<C>(tape_row(a, 2) + u, s.n, lanes);
      }
      emit(a, u, lanes, s.h);
    }
  }

  void finish_output(const At& a, int64_t panel, const C* sum) {
    for (int v = 0; v < kMaxVecs; ++v) {
      const int64_t u = panel * outputs_.width() + v * L, lanes = s_.P - u;
      if (lanes <= 0) break;
      emit(a, u, lanes, load(sum + v * L));
    }
  }

  V hidden_bias(int64_t row, int64_t lanes) const {
    return load_n<C>(static_cast<const IO*>(args_.weights[n_].b_hh) + row, lanes);
  }

  V previous(const At& a, int64_t u) const {
    if constexpr (kOwnState) {
      return load(shared_.state + a.p * ld_p_ + u);
    } else {
      return load(now_ + a.p * ld_p_ + u);
    }
  }

  template <int count>
  void keep(const At& a, int64_t u, int64_t lanes, const V (&values)[count]) const {
    if (!args_.tape) return;
    for (int slot = 0; slot < count; ++slot) store_n<C>(tape_row(a, slot) + u, values[slot], lanes);
  }

  // A step's output: into y, the final state, and the state that the next step reads.
  void emit(const At& a, int64_t u, int64_t lanes, V h) {
    store_n<C>(y_row(a.t, a.b) + u, h, lanes);
    if (a.last) store_n<C>(row_of(args_.hn, a.b, s_.P) + u, h, lanes);
    const V carried = a.keep ? h : V{};
    store_op(next_ + a.p * ld_p_ + u, carried, lanes);
    if (kOwnState) store(shared_.state + a.p * ld_p_ + u, carried);
  }

  // Products read whole pairs: what lies past the last unit stays zero.
  static void store_op(Op* to, V value, int64_t lanes) { store_n<C>(to, value, lanes); }

  const Forward& args_;
  const Shape& s_;
  const PanelMap<C> gates_, gate_n_, outputs_;
  const Split split_;
  const Place place_;
  RowGroup rows_;
  const Range panels_;
  Arena arena_;
  int64_t ld_p_, ld_h_, ld_x_, steps_, capacity_, n_ = 0;
  Shared shared_{};
  C* xg_ = nullptr;
  Op* converted_ = nullptr;
  const Op** x_rows_ = nullptr;
  Op *now_ = nullptr, *next_ = nullptr;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
