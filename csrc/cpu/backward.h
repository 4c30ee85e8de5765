// SPDX-License-Identifier: MIT
// The backward pass of one layer: the walk back through time, and after every few steps the
// gradients of input and weights from those steps' gate gradients, while they are in the cache.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

// Rows whose gate gradients are kept before they go into the weights' gradients.
constexpr int64_t kGradRows = 512;

template <class IO, class Op, Cell cell>
class BackwardPass {
  typedef typename Tile<Op, 1, 1>::C C;
  typedef Vec<C> V;
  typedef Math<C> M;
  static constexpr int L = kLanes<C>;
  static constexpr int G = gate_count(cell);
  static constexpr int S = tape_slots(cell);
  static constexpr bool kGru = cell == Cell::kGru;
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  static constexpr bool kCopy = sizeof(Op) != sizeof(C);
  // Order of the gates in a row of gate gradients: n, r, z, q for the GRUs, so that what the
  // input and what the hidden state need each lie together. Entry s: the gate in slot s.
  static constexpr int gate_in(int slot) { return kGru || kBefore ? (slot + 2) % 3 : slot; }
  // First slot, number of slots and first gate of the recurrent product.
  static constexpr int kHiddenSlot = kGru || kBefore ? 1 : 0;
  static constexpr int kHiddenSlots = kBefore ? 2 : G;

 public:
  static size_t workspace(const Backward& args, int threads) {
    size_t most = 0;
    for (int size = 1; size <= threads; ++size) {
      BackwardPass pass(args, nullptr, size, 0);
      if (pass.arena_.used() > most) most = pass.arena_.used();
    }
    return most;
  }

  static void run(const Backward& args, char* workspace, Team& team, int rank) {
    BackwardPass pass(args, workspace, team.size, rank);
    const int groups = pass.place_.split.recurrence_groups;
    for (int64_t n = 0; n < args.shape.N; n += groups) {
      if (!pass.place_.idle) pass.prepare(n + pass.place_.recurrence_group);
      team.wait_all();
      if (!pass.place_.idle) pass.walk(team, n == 0);
      team.wait_all();
    }
    if (args.dx && args.shape.N > 1) pass.sum_dx(rank, team.size);
  }

 private:
  // Shared by the threads of one recurrence.
  struct Shared {
    Op *w_ih, *w_hh, *w_hn, *w_hr;  // packed; w_hn: the textbook GRU's second product
    C *dh, *dc;                     // (B, ld): what reaches the states from later steps
    C *dg, *dout;                   // (capacity, ld): gradients of gates; of projected outputs
    Op *dg_op, *dout_op;            // the same as operands
    C* bias;                        // (ld_g,)
    C* dx;                          // (T, B, ld_x) where several recurrences share x
    GradSum<IO, C> dw_ih, dw_hh, dw_hr;
  };

  // A row at one step; m is its place in the chunk.
  struct At {
    int64_t p, t, b, m;
    bool first, cut;
  };

  BackwardPass(const Backward& args, char* workspace, int threads, int rank)
      : args_(args),
        s_(args.shape),
        inputs_(plain_map<C>(s_.I)),
        outputs_(plain_map<C>(s_.P)),
        hidden_(plain_map<C>(s_.H)),
        split_(plan_split(s_.N, s_.B, outputs_.panels(), G * s_.H, kMaxVecs, threads)),
        place_(split_, rank),
        rows_{args.rows, s_.T, s_.B, place_.row_group, split_.row_groups, false},
        units_(hidden_.panels(), place_.unit_group, split_.unit_groups),
        columns_(outputs_.panels(), place_.unit_group, split_.unit_groups),
        arena_(workspace) {
    gate_ = round_up(s_.H, kPair<Op>);
    ld_p_ = round_up(s_.P, 16);
    ld_h_ = round_up(s_.H, 16);
    ld_x_ = round_up(s_.I, 16);
    // Not a power of two: rows must not all fall into the same sets of the cache.
    ld_g_ = round_up(grad_count(cell) * gate_, 16) + 16;
    steps_ = min(s_.T, max(1, kGradRows / max(s_.B, 1)));
    capacity_ = steps_ * s_.B;
    lay_out();
  }

  void lay_out() {
    for (int g = 0; g < split_.recurrence_groups; ++g) {
      Shared shared{};
      if (args_.dx) shared.w_ih = arena_.take<Op>(packed_size<Op>(inputs_, G * gate_));
      shared.w_hh = arena_.take<Op>(packed_size<Op>(outputs_, kHiddenSlots * gate_));
      if (kBefore) shared.w_hn = arena_.take<Op>(packed_size<Op>(hidden_, s_.H));
      shared.dh = arena_.take<C>(s_.B * ld_p_);
      if (cell == Cell::kLstm) shared.dc = arena_.take<C>(s_.B * ld_h_);
      shared.dg = arena_.take<C>(capacity_ * ld_g_);
      shared.dg_op = reinterpret_cast<Op*>(shared.dg);
      if (kCopy) shared.dg_op = arena_.take<Op>(capacity_ * ld_g_);
      if (s_.projected) {
        shared.w_hr = arena_.take<Op>(packed_size<Op>(hidden_, s_.P));
        shared.dout = arena_.take<C>(capacity_ * ld_p_);
        shared.dout_op = reinterpret_cast<Op*>(shared.dout);
        if (kCopy) shared.dout_op = arena_.take<Op>(capacity_ * ld_p_);
      }
      if (args_.dx && s_.N > 1) {
        shared.dx = arena_.take<C>(s_.T * s_.B * ld_x_);
        if (g == 0) dx_parts_ = shared.dx;
        if (g == 1) dx_stride_ = shared.dx - dx_parts_;
      }
      shared.bias = arena_.take<C>(ld_g_);
      if (args_.dweights) {
        shared.dw_ih = GradSum<IO, C>::reserve(arena_, G * s_.H, s_.I);
        shared.dw_hh = GradSum<IO, C>::reserve(arena_, G * s_.H, s_.P);
        if (s_.projected) shared.dw_hr = GradSum<IO, C>::reserve(arena_, s_.P, s_.H);
      }
      if (g == place_.recurrence_group) shared_ = shared;
    }
    const int threads = split_.recurrence_groups * place_.recurrence_size();
    for (int rank = 0; rank < threads; ++rank) {
      C* panel = arena_.take<C>(capacity_ * kMaxVecs * L);
      At* chunk = arena_.take<At>(capacity_);
      if (rank == place_.rank()) {
        panel_ = panel;
        chunk_ = chunk;
      }
    }
  }

  // ---- packing and initial gradients

  void prepare(int64_t n) {
    n_ = n;
    rows_.reverse = args_.reverse[n] != 0;
    const int rank = place_.recurrence_rank(), size = place_.recurrence_size();
    pack_weights(args_.weights[n], rank, size);
    for (int64_t j = place_.unit_group; j < rows_.all(); j += split_.unit_groups) {
      const int64_t p = rows_.position(j), b = args_.rows.order[p];
      convert(shared_.dh + p * ld_p_, row_of(args_.dhn, b, s_.P), s_.P, ld_p_);
      if (cell == Cell::kLstm) {
        convert(shared_.dc + p * ld_h_, row_of(args_.dcn, b, s_.H), s_.H, ld_h_);
      }
    }
    // What lies past the gates of a row is read by whole vectors and pairs.
    const Range chunk(capacity_, rank, size);
    for (int64_t m = chunk.begin; m < chunk.end; ++m) {
      clear(shared_.dg + m * ld_g_, ld_g_);
      if (kCopy) clear(shared_.dg_op + m * ld_g_, ld_g_);
      if (s_.projected) clear(shared_.dout + m * ld_p_, ld_p_);
      if (s_.projected && kCopy) clear(shared_.dout_op + m * ld_p_, ld_p_);
    }
    if (args_.dweights) bind_sums(args_.dweights[n], rank, size);
    if (args_.dx && s_.N == 1) clear_padding(rank, size);
  }

  // Rows past their length have no part in the walk.
  void clear_padding(int rank, int size) {
    const Range mine(s_.B, rank, size);
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      for (int64_t t = args_.rows.lengths[b]; t < s_.T; ++t) {
        clear(static_cast<IO*>(args_.dx) + (t * s_.B + b) * s_.I, s_.I);
      }
    }
  }

  void pack_weights(const Weights& w, int rank, int size) {
    const IO* w_ih = static_cast<const IO*>(w.w_ih);
    const IO* w_hh = static_cast<const IO*>(w.w_hh);
    for (int slot = 0; args_.dx && slot < G; ++slot) {
      const Matrix<IO> gate{w_ih + gate_in(slot) * s_.H * s_.I, 1, s_.I};
      pack(shared_.w_ih, inputs_, gate, slot * gate_, G * gate_, s_.H, rank, size);
    }
    for (int slot = 0; slot < kHiddenSlots; ++slot) {
      const int64_t depth = kHiddenSlots * gate_;
      const Matrix<IO> gate{w_hh + slot * s_.H * s_.P, 1, s_.P};
      pack(shared_.w_hh, outputs_, gate, slot * gate_, depth, s_.H, rank, size);
    }
    if (kBefore) {
      const Matrix<IO> gate{w_hh + 2 * s_.H * s_.H, 1, s_.H};
      pack(shared_.w_hn, hidden_, gate, 0, gate_, s_.H, rank, size);
    }
    if (s_.projected) {
      const Matrix<IO> matrix{static_cast<const IO*>(w.w_hr), 1, s_.H};
      pack(shared_.w_hr, hidden_, matrix, 0, round_up(s_.P, kPair<Op>), s_.P, rank, size);
    }
  }

  // Packs K rows of a matrix at depth k of panels that are `depth` deep.
  static void pack(Op* to, const PanelMap<C>& map, const Matrix<IO>& from, int64_t k, int64_t depth,
                   int64_t K, int rank, int size) {
    const Range mine(map.panels(), rank, size);
    for (int64_t p = mine.begin; p < mine.end; ++p) {
      pack_panel(to + (p * depth + k) * map.panel_columns(), map, p, from, K);
    }
  }

  void bind_sums(const WeightGrads& d, int rank, int size) {
    shared_.dw_ih.bind(d.w_ih);
    shared_.dw_hh.bind(d.w_hh);
    shared_.dw_ih.clear(Range(G * s_.H, rank, size));
    shared_.dw_hh.clear(Range(G * s_.H, rank, size));
    if (s_.projected) {
      shared_.dw_hr.bind(d.w_hr);
      shared_.dw_hr.clear(Range(s_.P, rank, size));
    }
    if (rank == 0) clear(shared_.bias, ld_g_);
  }

  template <class T>
  static void clear(T* to, int64_t count) {
    __builtin_memset(static_cast<void*>(to), 0, size_t(count) * sizeof(T));
  }

  // Row b of this recurrence in an (N, B, width) array; null where there is no array.
  const IO* row_of(const void* base, int64_t b, int64_t width) const {
    return base ? static_cast<const IO*>(base) + (n_ * s_.B + b) * width : nullptr;
  }

  // ---- the walk back through time

  void walk(Team& team, bool first_recurrence) {
    for (int64_t end = s_.T; end > 0; end -= steps_) {
      const int64_t begin = max(0, end - steps_);
      int64_t offset = 0;
      for (int64_t k = end - 1; k >= begin; --k) {
        step(team, rows_.time(k), offset);
        offset += args_.rows.active[rows_.time(k)];
      }
      place_.wait_recurrence(team);
      finish_chunk(begin, end, offset, first_recurrence);
      place_.wait_recurrence(team);
    }
    write_states();
    if (args_.dweights) write_weights();
  }

  At at(int64_t j, int64_t t, int64_t offset) const {
    const int64_t p = rows_.position(j), b = args_.rows.order[p], length = args_.rows.length[p];
    return At{p, t, b, offset + p, rows_.first(t, length), rows_.cut_before(t, b, length)};
  }

  void step(Team& team, int64_t t, int64_t offset) {
    const int64_t active = rows_.active(t);
    if (s_.projected) {
      for (int64_t j = 0; j < active; ++j) gather_output(at(j, t, offset));
      place_.wait_units(team);
      for (int64_t p = units_.begin; p < units_.end; ++p) {
        for_products(hidden_, shared_.w_hr, p, s_.P, shared_.dout_op, ld_p_, t, offset,
                     [&](const At& a, int64_t u, int64_t lanes, V dh) { gates(a, u, lanes, dh); });
      }
    } else {
      for (int64_t j = 0; j < active; ++j) {
        const At a = at(j, t, offset);
        for (int64_t u = units_.begin * kMaxVecs * L; u < units_end(); u += L) {
          gates(a, u, s_.H - u, output_grad(a, u, s_.H - u));
        }
      }
    }
    place_.wait_units(team);
    if (kBefore) {
      for (int64_t p = units_.begin; p < units_.end; ++p) {
        for_products(hidden_, shared_.w_hn, p, gate_, shared_.dg_op, ld_g_, t, offset,
                     [&](const At& a, int64_t u, int64_t lanes, V d) { reset(a, u, lanes, d); });
      }
      place_.wait_units(team);
    }
    for (int64_t p = columns_.begin; p < columns_.end; ++p) {
      for_products(outputs_, shared_.w_hh, p, kHiddenSlots * gate_,
                   shared_.dg_op + kHiddenSlot * gate_, ld_g_, t, offset,
                   [&](const At& a, int64_t u, int64_t, V sum) {
                     C* dh = shared_.dh + a.p * ld_p_ + u;
                     if (kGru || kBefore) sum += load(dh);
                     store(dh, a.cut ? V{} : sum);
                   });
    }
  }

  int64_t units_end() const { return min(units_.end * kMaxVecs * L, s_.H); }

  // Multiplies the active rows of step t with one panel; f gets each row's vectors of sums.
  template <class F>
  void for_products(const PanelMap<C>& map, const Op* w, int64_t panel, int64_t K,
                    const Op* operand, int64_t ld, int64_t t, int64_t offset, F f) {
    alignas(64) C sums[kAccumulators * L];
    const int vecs = map.used_vecs(panel);
    TileArgs<C> tile = panel_tile<Op>(map, w, panel, K);
    tile.init = nullptr;
    tile.c = sums;
    tile.c_stride = vecs * L;
    for_tiles(rows_.active(t), vecs, [&](int64_t first, int64_t count) {
      for (int64_t r = 0; r < count; ++r) {
        tile.a[r] = operand + (offset + rows_.position(first + r)) * ld;
      }
      run_tile<Op>(int(count), vecs, tile);
      for (int64_t r = 0; r < count; ++r) {
        const At a = at(first + r, t, offset);
        for (int v = 0; v < vecs; ++v) {
          const int64_t u = panel * map.width() + v * L;
          f(a, u, map.units - u, load(sums + (r * vecs + v) * L));
        }
      }
    });
  }

  // ---- pointwise parts, a row and vector of units at a time

  const C* tape_row(int64_t t, int64_t b, int slot) const {
    return static_cast<const C*>(args_.tape) + (((t * s_.B + b) * s_.N + n_) * S + slot) * s_.H;
  }

  V saved(const At& a, int slot, int64_t u, int64_t lanes) const {
    return load_n<C>(tape_row(a.t, a.b, slot) + u, lanes);
  }

  int64_t before(int64_t t) const { return rows_.reverse ? t + 1 : t - 1; }

  const IO* y_row(const void* base, int64_t t, int64_t b) const {
    return static_cast<const IO*>(base) + ((t * s_.B + b) * s_.N + n_) * s_.P;
  }

  // The state that entered a step; null: zero.
  const IO* previous_h(const At& a) const {
    if (a.cut) return nullptr;
    return a.first ? row_of(args_.h0, a.b, s_.P) : y_row(args_.y, before(a.t), a.b);
  }

  V previous_c(const At& a, int64_t u, int64_t lanes) const {
    if (a.cut) return V{};
    if (!a.first) return load_n<C>(tape_row(before(a.t), a.b, 4) + u, lanes);
    const IO* c0 = row_of(args_.c0, a.b, s_.H);
    return c0 ? load_n<C>(c0 + u, lanes) : V{};
  }

  V read(const IO* row, int64_t u, int64_t lanes) const {
    return row ? load_n<C>(row + u, lanes) : V{};
  }

  // The whole gradient of a step's output: dy, and what comes from later steps.
  V output_grad(const At& a, int64_t u, int64_t lanes) const {
    V dh = load(shared_.dh + a.p * ld_p_ + u);
    if (args_.dy) dh += load_n<C>(y_row(args_.dy, a.t, a.b) + u, lanes);
    return dh;
  }

  void gather_output(const At& a) {
    for (int64_t u = columns_.begin * kMaxVecs * L;
         u < min(columns_.end * kMaxVecs * L, s_.P); u += L) {
      const V dh = output_grad(a, u, s_.P - u);
      store_n<C>(shared_.dout + a.m * ld_p_ + u, dh, s_.P - u);
      if (kCopy) store_n<C>(shared_.dout_op + a.m * ld_p_ + u, dh, s_.P - u);
    }
  }

  void put(const At& a, int slot, int64_t u, int64_t lanes, V value) {
    const int64_t at = a.m * ld_g_ + slot * gate_ + u;
    store_n<C>(shared_.dg + at, value, lanes);
    if (kCopy) store_n<C>(shared_.dg_op + at, value, lanes);
  }

  void gates(const At& a, int64_t u, int64_t lanes, V dh) {
    C* direct = shared_.dh + a.p * ld_p_ + u;
    if constexpr (cell == Cell::kLstm) {
      C* dc = shared_.dc + a.p * ld_h_ + u;
      const auto d = cells::lstm_backward<M>(
          saved(a, 0, u, lanes), saved(a, 1, u, lanes), saved(a, 2, u, lanes),
          saved(a, 3, u, lanes), saved(a, 4, u, lanes), previous_c(a, u, lanes), dh, load(dc));
      put(a, 0, u, lanes, d.di);
      put(a, 1, u, lanes, d.df);
      put(a, 2, u, lanes, d.dg);
      put(a, 3, u, lanes, d.do_);
      store(dc, a.cut ? V{} : d.dc_prev);
    } else if constexpr (kGru) {
      const auto d = cells::gru_backward(saved(a, 0, u, lanes), saved(a, 1, u, lanes),
                                         saved(a, 2, u, lanes), saved(a, 3, u, lanes),
                                         read(previous_h(a), u, lanes), dh);
      put(a, 0, u, lanes, d.dn);
      put(a, 1, u, lanes, d.dr);
      put(a, 2, u, lanes, d.dz);
      put(a, 3, u, lanes, d.dq);
      store(direct, d.dh_prev);
    } else if constexpr (kBefore) {
      const auto d = cells::gru_before_output_backward(
          saved(a, 1, u, lanes), saved(a, 2, u, lanes), read(previous_h(a), u, lanes), dh);
      put(a, 0, u, lanes, d.dn);
      put(a, 2, u, lanes, d.dz);
      store(direct, d.dh_prev);
    } else {
      const V h = read(y_row(args_.y, a.t, a.b), u, lanes);
      put(a, 0, u, lanes,
          cell == Cell::kRnnTanh ? cells::tanh_backward(h, dh) : cells::relu_backward(h, dh));
    }
  }

  // The textbook GRU's r, once the gradient of r * h is there.
  void reset(const At& a, int64_t u, int64_t lanes, V d_reset_h) {
    const auto d = cells::gru_before_gates_backward(saved(a, 0, u, lanes),
                                                    read(previous_h(a), u, lanes), d_reset_h);
    put(a, 1, u, lanes, d.dr);
    C* direct = shared_.dh + a.p * ld_p_ + u;
    store(direct, load(direct) + d.dh_prev);
  }

  // ---- gradients of input and weights from a chunk's `count` rows

  void finish_chunk(int64_t begin, int64_t end, int64_t count, bool first_recurrence) {
    int64_t m = 0;
    for (int64_t k = end - 1; k >= begin; --k) {
      const int64_t t = rows_.time(k), offset = m;
      for (; m < offset + args_.rows.active[t]; ++m) {
        const int64_t p = m - offset, b = args_.rows.order[p], length = args_.rows.length[p];
        chunk_[m] = At{p, t, b, m, rows_.first(t, length), rows_.cut_before(t, b, length)};
      }
    }
    if (args_.dx) input_grads(count, first_recurrence);
    if (args_.dweights) weight_grads(count);
  }

  void input_grads(int64_t count, bool first_recurrence) {
    const Range mine(count, place_.recurrence_rank(), place_.recurrence_size());
    alignas(64) C sums[kAccumulators * L];
    for (int64_t p = 0; p < inputs_.panels(); ++p) {
      const int vecs = inputs_.used_vecs(p);
      TileArgs<C> tile = panel_tile<Op>(inputs_, shared_.w_ih, p, G * gate_);
      tile.init = nullptr;
      tile.c = sums;
      tile.c_stride = vecs * L;
      for_tiles(mine.end - mine.begin, vecs, [&](int64_t first, int64_t rows) {
        const int64_t m = mine.begin + first;
        for (int64_t r = 0; r < rows; ++r) tile.a[r] = shared_.dg_op + (m + r) * ld_g_;
        run_tile<Op>(int(rows), vecs, tile);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t row = chunk_[m + r].t * s_.B + chunk_[m + r].b;
          for (int v = 0; v < vecs; ++v) {
            const int64_t u = p * inputs_.width() + v * L;
            put_dx(row, u, load(sums + (r * vecs + v) * L), first_recurrence);
          }
        }
      });
    }
  }

  void put_dx(int64_t row, int64_t u, V sum, bool first_recurrence) {
    if (s_.N == 1) {
      store_n<C>(static_cast<IO*>(args_.dx) + row * s_.I + u, sum, s_.I - u);
      return;
    }
    C* part = shared_.dx + row * ld_x_ + u;
    store(part, first_recurrence ? sum : load(part) + sum);
  }

  // dx where several recurrences share x: the sum of what each group of them found.
  void sum_dx(int rank, int size) {
    const Range mine(s_.T * s_.B, rank, size);
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      IO* dx = static_cast<IO*>(args_.dx) + row * s_.I;
      if (row / s_.B >= args_.rows.lengths[row % s_.B]) {
        clear(dx, s_.I);
        continue;
      }
      for (int64_t u = 0; u < s_.I; u += L) {
        V sum{};
        for (int g = 0; g < split_.recurrence_groups; ++g) {
          sum += load(dx_parts_ + g * dx_stride_ + row * ld_x_ + u);
        }
        store_n<C>(dx + u, sum, s_.I - u);
      }
    }
  }

  void weight_grads(int64_t count) {
    const int rank = place_.recurrence_rank(), size = place_.recurrence_size();
    Segment inputs[G], hidden[kHiddenSlots];
    for (int s = 0; s < G; ++s) inputs[s] = Segment{s * gate_, gate_in(s) * s_.H, s_.H};
    for (int s = 0; s < kHiddenSlots; ++s) {
      hidden[s] = Segment{(kHiddenSlot + s) * gate_, s * s_.H, s_.H};
    }
    add_outer(shared_.dw_ih, shared_.dg, ld_g_, count, inputs, rank, size, panel_,
              [&](int64_t k, int64_t u, int64_t lanes) {
                const int64_t row = chunk_[k].t * s_.B + chunk_[k].b;
                return load_n<C>(static_cast<const IO*>(args_.x) + row * s_.I + u, lanes);
              });
    add_outer(shared_.dw_hh, shared_.dg, ld_g_, count, hidden, rank, size, panel_,
              [&](int64_t k, int64_t u, int64_t lanes) {
                return read(previous_h(chunk_[k]), u, lanes);
              });
    if constexpr (kBefore) {
      const Segment n[] = {{0, 2 * s_.H, s_.H}};
      add_outer(shared_.dw_hh, shared_.dg, ld_g_, count, n, rank, size, panel_,
                [&](int64_t k, int64_t u, int64_t lanes) {
                  const At& a = chunk_[k];
                  return saved(a, 0, u, lanes) * read(previous_h(a), u, lanes);
                });
    }
    if constexpr (cell == Cell::kLstm) {
      const Segment out[] = {{0, 0, s_.P}};
      if (s_.projected) {
        add_outer(shared_.dw_hr, shared_.dout, ld_p_, count, out, rank, size, panel_,
                  [&](int64_t k, int64_t u, int64_t lanes) {
                    const At& a = chunk_[k];
                    return saved(a, 3, u, lanes) * M::tanh(saved(a, 4, u, lanes));
                  });
      }
    }
    const int64_t vectors = (grad_count(cell) * gate_ + L - 1) / L;
    add_columns(shared_.bias, shared_.dg, ld_g_, count, Range(vectors, rank, size));
  }

  // ---- results

  void write_states() {
    for (int64_t j = place_.unit_group; j < rows_.all(); j += split_.unit_groups) {
      const int64_t p = rows_.position(j), row = n_ * s_.B + args_.rows.order[p];
      if (args_.dh0) {
        convert(static_cast<IO*>(args_.dh0) + row * s_.P, shared_.dh + p * ld_p_, s_.P, s_.P);
      }
      if (args_.dc0) {
        convert(static_cast<IO*>(args_.dc0) + row * s_.H, shared_.dc + p * ld_h_, s_.H, s_.H);
      }
    }
  }

  void write_weights() {
    const int rank = place_.recurrence_rank(), size = place_.recurrence_size();
    shared_.dw_ih.finish(Range(G * s_.H, rank, size));
    shared_.dw_hh.finish(Range(G * s_.H, rank, size));
    if (s_.projected) shared_.dw_hr.finish(Range(s_.P, rank, size));
    const WeightGrads& d = args_.dweights[n_];
    if (rank != 0 || !d.b_ih) return;
    for (int slot = 0; slot < G; ++slot) {
      const int64_t to = gate_in(slot) * s_.H;
      // The GRU's b_hn lies inside r * (...): its gradient is that of q.
      const int hidden_slot = kGru && slot == 0 ? 3 : slot;
      convert(static_cast<IO*>(d.b_ih) + to, shared_.bias + slot * gate_, s_.H, s_.H);
      convert(static_cast<IO*>(d.b_hh) + to, shared_.bias + hidden_slot * gate_, s_.H, s_.H);
    }
  }

  const Backward& args_;
  const Shape& s_;
  const PanelMap<C> inputs_, outputs_, hidden_;
  const Split split_;
  const Place place_;
  RowGroup rows_;
  const Range units_, columns_;
  Arena arena_;
  int64_t gate_, ld_p_, ld_h_, ld_x_, ld_g_, steps_, capacity_, n_ = 0;
  int64_t dx_stride_ = 0;
  Shared shared_{};
  C *dx_parts_ = nullptr, *panel_ = nullptr;
  At* chunk_ = nullptr;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
