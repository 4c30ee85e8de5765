// SPDX-License-Identifier: MIT
// The backward pass of one layer: the walk back through time, and after every few steps the
// gradients of input and weights from those steps' gate gradients, while they are in the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../../problem.h"
#include "../../team.h"
#include "../arena.h"
#include "../integers.h"
#include "../operand.h"
#include "../pack.h"
#include "../place.h"
#include "../plan.h"
#include "../product.h"
#include "../rows.h"
#include "../vec.h"
#include "outer.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Rows whose gate gradients are kept before they go into the weights' gradients.
constexpr int64_t kGradRows = 512;
// On tiles: rows whose input gradients, and gates whose weight gradients are computed at once.
constexpr int64_t kInputGradRows = 128;
constexpr int64_t kOuterRows = 256;

template <class IO, class Op, Cell cell>
class BackwardPass {
  typedef SumOf<Op> C;
  typedef Vec<C> V;
  typedef Math<C> M;
  static constexpr int L = kLanes<C>;
  static constexpr int G = gate_count(cell);
  static constexpr bool kKeepState = keeps_state(cell, sizeof(IO) == 2);
  static constexpr int S = tape_slots(cell, sizeof(IO) == 2);
  static constexpr bool kGru = cell == Cell::kGru;
  static constexpr bool kBefore = cell == Cell::kGruResetBefore;
  static constexpr bool kCopy = !std::is_same<Op, C>::value;
  // Order of the gates in a row of gate gradients: n, r, z, q for the GRUs, so that what the
  // input and what the hidden state need each lie together. Entry s: the gate in slot s.
  static constexpr int gate_in(int slot) { return kGru || kBefore ? (slot + 2) % 3 : slot; }
  // First slot, number of slots and first gate of the recurrent product.
  static constexpr int kHiddenSlot = kGru || kBefore ? 1 : 0;
  static constexpr int kHiddenSlots = kBefore ? 2 : G;

 public:
  static size_t workspace(const Backward& args, int threads) {
    return most_used(threads,
                     [&](int size) { return BackwardPass(args, nullptr, size, 0).arena_.used(); });
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
  // A matrix of weights that gradients are multiplied with, (K, columns of the map).
  struct Product {
    PanelMap<C> map;
    int64_t depth;     // K, padded
    const IO* matrix;  // (K, units)
    Op* packed;        // null: taken as it lies

    Op* panel(int64_t index) const { return packed + index * panel_size<Op>(map, depth); }
  };

  // The rows that a weight's gradients are summed over, as the products on tiles take them.
  struct Factor {
    PanelMap<C> map;
    Op* tiles;
  };

  // Shared by the threads of one recurrence.
  struct Shared {
    Product input, hidden, output;
    Product hidden_n;     // the textbook GRU's second
    C *dh, *dc;           // (B, ld): what reaches the states from later steps
    C *dg, *dout;         // (capacity, ld): gradients of gates; of projected outputs
    Op *dg_op, *dout_op;  // the same as operands; in tiles, of two steps and of one
    Op* dg_pairs;         // the same with rows in pairs, (capacity / 2, ld, 2)
    Factor x, h, reset_h, unprojected;
    C* bias;  // (ld_g,)
    C* dx;    // (T, B, ld_x) where several recurrences share x
    GradSum<IO, C> dw_ih, dw_hh, dw_hr;
  };

  BackwardPass(const Backward& args, char* workspace, int threads, int rank);

  void lay_out();

  // ---- packing and initial gradients

  void prepare(int64_t n);

  // Rows past their length have no part in the walk.
  void clear_padding(int rank, int size);

  Product product(const PanelMap<C>& map, int64_t depth);

  Factor factor(int64_t columns);

  // Elements of what a thread keeps in tiles for itself: rows for the input's gradients, or gates
  // for the weights'.
  int64_t own_rows_size() const {
    return max(kInputGradRows * G * gate_, kOuterRows * round_up(capacity_, kDepth<Op>));
  }

  void pack_weights(const Weights& w, int rank, int size);

  // Packs K rows, from row `row` of the matrix, at depth k of the panels.
  static void pack(const Product& product, int64_t row, int64_t k, int64_t K, int rank, int size);

  // The product of rows, to be named, with K rows of a panel: those from depth k if it is packed,
  // from row `row` of the matrix if it is not.
  static TileArgs<C> tile_of(const Product& product, int64_t panel, int64_t k, int64_t row,
                             int64_t K);

  void bind_sums(const WeightGrads& d, int rank);

  template <class T>
  static void clear(T* to, int64_t count) {
    __builtin_memset(static_cast<void*>(to), 0, size_t(count) * sizeof(T));
  }

  // A row of `slots` slots, `used` elements of each in use: what lies between and behind those is
  // read by whole vectors and pairs.
  template <class T>
  static void clear_gaps(T* row, int64_t used, int64_t slot, int64_t slots, int64_t ld) {
    for (int64_t s = 0; slot > used && s < slots; ++s) clear(row + s * slot + used, slot - used);
    clear(row + slots * slot, ld - slots * slot);
  }

  // Row b of this recurrence in an (N, B, width) array; null where there is no array.
  const IO* row_of(const void* base, int64_t b, int64_t width) const {
    return base ? static_cast<const IO*>(base) + (n_ * s_.B + b) * width : nullptr;
  }

  // ---- the walk back through time

  void walk(Team& team, bool first_recurrence);

  Visit visit(int64_t j, int64_t t, int64_t offset) const {
    return visit_position(rows_.position(j), t, offset, operand_row(j, offset));
  }

  // The row of a step's operands for the thread's row j: in tiles, its group's rows lie together.
  int64_t operand_row(int64_t j, int64_t offset) const {
    return kTiled<Op> ? place_.row_group * group_rows_ + j : offset + rows_.position(j);
  }
  int64_t operand_rows() const { return kTiled<Op> ? split_.row_groups * group_rows_ : capacity_; }

  Visit visit_position(int64_t p, int64_t t, int64_t offset, int64_t op) const;

  // `go_on`: whether anybody asks for the gradient of the state that entered the step.
  void step(Team& team, int64_t t, int64_t offset, bool go_on);

  int64_t units_end() const { return min(units_.end * kPlainVecs * L, s_.H); }

  // Multiplies the active rows of step t with one panel; f gets each row's vectors of sums.
  template <class F>
  void for_products(const Product& product, int64_t panel, const Op* operand, int64_t ld, int64_t t,
                    int64_t offset, F f);

  // `count` rows, each at row(r) and ld wide, times a panel: into rows of its vectors in use.
  template <class Row>
  static void multiply(const Product& product, int64_t panel, Row row, int64_t ld, int64_t count,
                       C* sums);

  // ---- pointwise parts, a row and vector of units at a time

  const C* tape_row(int64_t row, int slot) const {
    return static_cast<const C*>(args_.tape) + ((row * s_.N + n_) * S + slot) * s_.H;
  }

  V saved(const Visit& a, int slot, int64_t u, int64_t lanes) const {
    return load_n<C>(tape_row(a.row, slot) + u, lanes);
  }

  const IO* y_row(const void* base, int64_t row) const {
    return static_cast<const IO*>(base) + (row * s_.N + n_) * s_.P;
  }

  // The state that a step left behind, and the one that entered it.
  V state(int64_t row, int64_t u, int64_t lanes) const {
    if (kKeepState) return load_n<C>(tape_row(row, S - 1) + u, lanes);
    return load_n<C>(y_row(args_.y, row) + u, lanes);
  }

  V previous_h(const Visit& a, int64_t u, int64_t lanes) const {
    if (a.cut) return V{};
    if (a.before >= 0) return state(a.before, u, lanes);
    const IO* h0 = row_of(args_.h0, a.b, s_.P);
    return h0 ? load_n<C>(h0 + u, lanes) : V{};
  }

  V previous_c(const Visit& a, int64_t u, int64_t lanes) const {
    if (a.cut) return V{};
    if (a.before >= 0) return load_n<C>(tape_row(a.before, 4) + u, lanes);
    const IO* c0 = row_of(args_.c0, a.b, s_.H);
    return c0 ? load_n<C>(c0 + u, lanes) : V{};
  }

  // What the columns of a gradient of weights are of: row k of the chunk, from column u on.
  V input(int64_t k, int64_t u, int64_t lanes) const {
    return load_n<C>(static_cast<const IO*>(args_.x) + chunk_[k].row * s_.I + u, lanes);
  }
  V hidden(int64_t k, int64_t u, int64_t lanes) const { return previous_h(chunk_[k], u, lanes); }
  V reset_hidden(int64_t k, int64_t u, int64_t lanes) const {
    return saved(chunk_[k], 0, u, lanes) * hidden(k, u, lanes);
  }
  V unprojected(int64_t k, int64_t u, int64_t lanes) const {
    return saved(chunk_[k], 3, u, lanes) * M::tanh(saved(chunk_[k], 4, u, lanes));
  }

  // The whole gradient of a step's output: dy, and what comes from later steps.
  V output_grad(const Visit& a, int64_t u, int64_t lanes) const {
    V dh = load(shared_.dh + a.p * ld_p_ + u);
    if (args_.dy) dh += load_n<C>(y_row(args_.dy, a.row) + u, lanes);
    return dh;
  }

  // The same of an LSTM's cell.
  V cell_grad(const Visit& a, int64_t u, int64_t lanes) const {
    const V dc = load(shared_.dc + a.p * ld_h_ + u);
    if (!args_.dcells) return dc;
    const C* own = static_cast<const C*>(args_.dcells) + (a.row * s_.N + n_) * s_.H;
    return dc + load_n<C>(own + u, lanes);
  }

  void gather_output(const Visit& a);

  void put(const Visit& a, int slot, int64_t u, int64_t lanes, V value);

  void gates(const Visit& a, int64_t u, int64_t lanes, V dh);

  // The textbook GRU's r, once the gradient of r * h is there.
  void reset_gate(const Visit& a, int64_t u, int64_t lanes, V d_reset_h);

  // ---- gradients of input and weights from a chunk's `count` rows

  void finish_chunk(Team& team, int64_t begin, int64_t end, int64_t count, bool first_recurrence);

  void input_grads(int64_t count, bool first_recurrence);

  void tiled_input_grads(int64_t count, bool first_recurrence);

  void put_sums(int64_t panel, int64_t first, int64_t rows, const C* sums, bool first_recurrence);

  void put_dx(int64_t row, int64_t u, V sum, bool first_recurrence);

  // dx where several recurrences share x: the sum of what each group of them found.
  void sum_dx(int rank, int size);

  void weight_grads(int64_t count, bool first_chunk);

  void tiled_weight_grads(Team& team, int64_t count, bool first_chunk);

  // ---- results

  void write_states();

  void write_weights();

  const Backward& args_;
  const Shape& s_;
  const PanelMap<C> inputs_, outputs_, hidden_;
  const Split split_;
  const Place place_;
  RowGroup rows_;
  const Range units_, columns_;
  Arena arena_;
  int64_t gate_, ld_p_, ld_h_, ld_x_, ld_g_, ld_op_, group_rows_, steps_, capacity_, n_ = 0;
  int64_t dx_stride_ = 0;
  Shared shared_{};
  C *dx_parts_ = nullptr, *panel_ = nullptr;
  Op* dg_now_ = nullptr;    // gate gradients of the present step
  Op* own_rows_ = nullptr;  // of gate gradients, in tiles
  Visit* chunk_ = nullptr;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
