// SPDX-License-Identifier: MIT
// The forward pass of one layer: projection and recurrence inside one parallel region.
//
// A thread projects a few steps of its rows at a time into a buffer of its own, then walks
// through them, so that the gates never leave the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../../problem.h"
#include "../../team.h"
#include "../arena.h"
#include "../dot.h"
#include "../integers.h"
#include "../operand.h"
#include "../pack.h"
#include "../place.h"
#include "../plan.h"
#include "../product.h"
#include "../rows.h"
#include "../vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Rows that a thread projects at once, at least.
constexpr int64_t kProjectRows = 128;

template <class IO, class Op, Cell cell>
class ForwardPass {
  typedef SumOf<Op> C;
  typedef Vec<C> V;
  typedef Math<C> M;
  typedef typename Kept<Op>::Row Row;
  typedef typename Kept<Op>::Factor Factor;
  static constexpr int L = kLanes<C>;
  static constexpr int G = gate_count(cell);
  static constexpr bool kKeepState = keeps_state(cell, sizeof(IO) == 2);
  static constexpr int S = tape_slots(cell, sizeof(IO) == 2);
  // Vectors of units in a panel, so that a panel has enough vectors to hide latencies.
  static constexpr int kUnitVecs = kStored<Op>                        ? stored_units(cell) / L
                                   : G == 1                           ? kMaxVecs
                                   : cell == Cell::kGruResetBefore    ? 2
                                   : cell == Cell::kGru && kTiled<Op> ? 2
                                                                      : 1;
  static constexpr bool kSplitGates = cell == Cell::kGruResetBefore;
  static constexpr bool kIsGru = cell == Cell::kGru || cell == Cell::kGruResetBefore;
  // The GRU mixes the previous state in; where products take a narrower copy it keeps its own.
  static constexpr bool kOwnState = kIsGru && !std::is_same<Row, C>::value;
  static constexpr int kPanelColumns = G * kUnitVecs * L;
  static constexpr int kOutputVecs = kStored<Op> ? kStoredOutputs / L : kPlainVecs;
  static constexpr int kMostVecs = G * kUnitVecs > kOutputVecs ? G * kUnitVecs : kOutputVecs;

 public:
  static size_t workspace(const Forward& args, int threads) {
    return most_used(threads,
                     [&](int size) { return ForwardPass(args, nullptr, size, 0).arena_.used(); });
  }

  // Bytes of one recurrence's weights as `prepack` leaves them.
  static size_t prepacked_bytes(const Forward& args) {
    Arena arena(nullptr);
    ForwardPass(args, nullptr, 1, 0).lay_out_weights(arena, true, false);
    return arena.used();
  }

  // Packs the weights of all recurrences for calls to come, args.prepacked_bytes of each.
  static void prepack(const Forward& args, char* to);

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
  // A matrix of weights and what it is multiplied with: rows of K elements.
  struct Product {
    PanelMap<C> map;
    int64_t K;
    const IO* matrix;
    Op* packed;   // null: taken as it lies
    bool at_use;  // packed a panel at a time, into the place of one
    StoredMatrix stored;

    Op* panel(int64_t index) const {
      return packed + (at_use ? 0 : index) * panel_size<Op>(map, K);
    }
  };

  // What weights become: of one recurrence, in one piece of memory.
  struct Prepared {
    Product input, hidden, output;
    Product input_n, hidden_n;  // the textbook GRU's n, whose product comes second
    C* bias;                    // (panels, panel columns)
    C* bias_q;                  // (panels, units): b_hh of the reset-after GRU's n
  };

  // Shared by the threads of one recurrence.
  struct Shared : Prepared {
    Row *h[2], *inner;  // (B, ld): state before and after a step; r * h, or h before projection
    C *state, *c, *z;   // (B, ld)
  };

  ForwardPass(const Forward& args, char* workspace, int threads, int rank);

  void lay_out();
  Prepared lay_out_weights(Arena& arena, bool packed, bool input_at_use) const;

  bool packs() const { return kTiled<Op> || s_.T > kUnpackedSteps || s_.T * s_.B >= kUnpackedRows; }

  // Whether this thread alone multiplies with its panels of the input's weights, and once.
  bool projects_once() const {
    return !args_.prepacked && !kStored<Op> && packs() && steps_ == s_.T && split_.row_groups == 1;
  }

  // ---- packing and initial state

  void prepare(int64_t n);
  void pack_weights(const Weights& w);
  // Weights that are stored are read where they lie; only biases are added up.
  void take_stored(const StoredWeights& w);
  static void pack(const Product& product, int64_t panel);
  // b_ih + b_hh, but for the reset-after GRU's n, where b_hh stays inside r * (...).
  void pack_bias(const Weights& w, int64_t panel);
  void start_row(int64_t j);

  // Rows a[0 .. count) times one panel, added to init.
  static void multiply(const Product& product, int64_t panel, const Factor* const* a, int64_t count,
                       const C* init, C* c, int64_t c_stride) {
    if constexpr (kStored<Op>) {
      multiply_stored<Op>(product.map, panel, product.stored, product.K, a, count, init, c,
                          c_stride);
    } else {
      if constexpr (!kTiled<Op>) {
        if (!product.packed) {
          return dot_panel(product.map, panel, product.matrix, product.K, a, count, init, c,
                           c_stride);
        }
      }
      multiply_panel<Op>(
          product.map, panel, product.panel(panel), product.K, [&](int64_t r) { return a[r]; },
          round_up(product.K, kDepth<Op>), count, init, c, c_stride);
    }
  }

  // Cuts rows into what `multiply` takes at once: f(first, count).
  template <class F>
  static void cut_rows(const Product& product, int64_t panel, int64_t rows, F f) {
    if (!kStored<Op> && product.packed) {
      for_rows<Op>(rows, product.map.used_vecs(panel), f);
    } else {
      for_blocks(rows, kBlockRows<Op>, f);
    }
  }

  // Row b of this recurrence in an (N, B, width) array; null where there is no array.
  const IO* row_of(const void* base, int64_t b, int64_t width) const {
    return base ? static_cast<const IO*>(base) + (n_ * s_.B + b) * width : nullptr;
  }
  IO* row_of(void* base, int64_t b, int64_t width) const {
    return static_cast<IO*>(base) + (n_ * s_.B + b) * width;
  }

  IO* y_row(int64_t row) const { return static_cast<IO*>(args_.y) + (row * s_.N + n_) * s_.P; }

  // ---- the walk through time

  void walk(Team& team);

  // The input's part of the gates for the active rows of a few steps.
  void project(int64_t k, int64_t steps);

  void project_panel(const Product& product, int64_t panel, int64_t count, int64_t column);

  // A row of x as products take it.
  const Factor* operand(const IO* x, int64_t index);

  C* xg_row(int64_t panel, int64_t index) const {
    return xg_ + ((panel - panels_.begin) * capacity_ + index) * kPanelColumns;
  }

  // The row of operands for the thread's row j: in tiles, its group's rows lie together.
  int64_t operand_row(int64_t j) const {
    return kTiled<Op> ? place_.row_group * group_rows_ + j : rows_.position(j);
  }
  int64_t operand_rows() const { return kTiled<Op> ? split_.row_groups * group_rows_ : s_.B; }

  // Rows as products take them: those that threads share, or this thread's copy in integers.
  struct Factors {
    const Factor* rows;
    int64_t ld;
  };

  Factors factors(const Row* rows, int64_t ld, int64_t K, int64_t active) const;

  const Factor* factor_row(const Factors& factors, int64_t j) const {
    return factors.rows + (std::is_same<Row, Factor>::value ? operand_row(j) : j) * factors.ld;
  }

  Visit visit(int64_t j, int64_t t, int64_t offset) const;

  void step(Team& team, int64_t k, int64_t offset);

  // Multiplies the active rows of an operand with one panel; f(row, sums) gets each row's.
  template <class F>
  void for_products(const Product& product, int64_t panel, const Factors& factors, int64_t active,
                    F f);

  // ---- what follows the products, a row and vector of units at a time

  C* tape_row(const Visit& a, int slot) const {
    return static_cast<C*>(args_.tape) + ((a.row * s_.N + n_) * S + slot) * s_.H;
  }

  void finish_gates(const Visit& a, int64_t panel, const C* sum);
  void finish_n(const Visit& a, int64_t panel, const C* sum);
  void finish_output(const Visit& a, int64_t panel, const C* sum);

  V previous(const Visit& a, int64_t u) const {
    if constexpr (kOwnState) {
      return load(shared_.state + a.p * ld_p_ + u);
    } else {
      return load(now_ + a.p * ld_p_ + u);
    }
  }

  template <int count>
  void keep(const Visit& a, int64_t u, int64_t lanes, const V (&values)[count]) const {
    if (!args_.tape) return;
    for (int slot = 0; slot < count; ++slot) store_n<C>(tape_row(a, slot) + u, values[slot], lanes);
  }

  // A step's output: into y, the final state, and the state that the next step reads.
  void emit(const Visit& a, int64_t u, int64_t lanes, V h);

  const Forward& args_;
  const Shape& s_;
  const PanelMap<C> gates_, gate_n_, outputs_;
  const Split split_;
  const Place place_;
  RowGroup rows_;
  const Range panels_;
  Arena arena_;
  int64_t ld_p_, ld_h_, ld_x_, group_rows_, steps_, capacity_, n_ = 0;
  Shared shared_{};
  C* xg_ = nullptr;
  Factor *converted_ = nullptr, *factors_ = nullptr;
  const Factor** x_rows_ = nullptr;
  Row *now_ = nullptr, *next_ = nullptr;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
