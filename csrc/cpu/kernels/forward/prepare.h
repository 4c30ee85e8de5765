// SPDX-License-Identifier: MIT
// Before the walk: the workspace, packed weights, initial states.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
ForwardPass<IO, Op, cell>::ForwardPass(const Forward& args, char* workspace, int threads, int rank)
    : args_(args),
      s_(args.shape),
      gates_{kSplitGates ? 2 : G, kUnitVecs, 0, s_.H},
      gate_n_{1, kUnitVecs, 2, s_.H},
      outputs_{1, kOutputVecs, 0, s_.P},
      split_(plan_split<Op>(s_.N, s_.B, gates_.panels(), s_.P, G * kUnitVecs, threads)),
      place_(split_, rank),
      rows_{args.rows, s_.T, s_.B, place_.row_group, split_.row_groups, false},
      panels_(gates_.panels(), place_.unit_group, split_.unit_groups),
      arena_(workspace) {
  ld_p_ = round_up(s_.P, max(16, kDepth<Op>));
  ld_h_ = round_up(s_.H, max(16, kDepth<Op>));
  ld_x_ = factor_ld<Op>(s_.I);
  const int64_t group_rows = (s_.B + split_.row_groups - 1) / split_.row_groups;
  group_rows_ = round_up(group_rows, kRowsTogether<Op>);
  steps_ = min(s_.T, max(1, kProjectRows / max(group_rows, 1)));
  capacity_ = round_up(steps_ * group_rows, kRowsTogether<Op>);
  lay_out();
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::lay_out() {
  for (int g = 0; g < split_.recurrence_groups; ++g) {
    Shared shared{};
    if (!args_.prepacked) {
      static_cast<Prepared&>(shared) =
          lay_out_weights(arena_, !kStored<Op> && packs(), projects_once());
    }
    if (kSplitGates) shared.z = arena_.take<C>(s_.B * ld_h_);
    for (Row*& h : shared.h) h = arena_.take<Row>(operand_rows() * ld_p_);
    if (kSplitGates || s_.projected) shared.inner = arena_.take<Row>(operand_rows() * ld_h_);
    if (kOwnState) shared.state = arena_.take<C>(s_.B * ld_p_);
    if (cell == Cell::kLstm) shared.c = arena_.take<C>(s_.B * ld_h_);
    if (g == place_.recurrence_group) shared_ = shared;
  }
  // This thread's own buffers lie behind those of the ranks before it.
  const int64_t most_panels = (gates_.panels() + split_.unit_groups - 1) / split_.unit_groups;
  const int threads = split_.recurrence_groups * place_.recurrence_size();
  const bool direct = std::is_same<IO, Factor>::value && s_.I == ld_x_;
  const int64_t copies = std::is_same<Row, Factor>::value ? 0 : group_rows_;
  for (int rank = 0; rank < threads; ++rank) {
    C* xg = arena_.take<C>(most_panels * capacity_ * kPanelColumns);
    Factor* converted = arena_.take<Factor>(direct ? 0 : capacity_ * ld_x_);
    Factor* factors = arena_.take<Factor>(copies * factor_ld<Op>(max(s_.H, s_.P)));
    const Factor** x_rows = arena_.take<const Factor*>(capacity_);
    Op* panel = arena_.take<Op>(projects_once() ? panel_size<Op>(gates_, s_.I) : 0);
    if (rank == place_.rank()) {
      for (Product* product : {&shared_.input, &shared_.input_n}) {
        if (product->at_use) product->packed = panel;
      }
      xg_ = xg;
      converted_ = converted;
      factors_ = factors;
      x_rows_ = x_rows;
    }
  }
}

template <class IO, class Op, Cell cell>
typename ForwardPass<IO, Op, cell>::Prepared ForwardPass<IO, Op, cell>::lay_out_weights(
    Arena& arena, bool packed, bool input_at_use) const {
  const auto product = [&](const PanelMap<C>& map, int64_t K, bool at_use = false) {
    const int64_t size = packed && !at_use ? packed_size<Op>(map, K) : 0;
    return Product{map, K, nullptr, size ? arena.take<Op>(size) : nullptr, at_use, {}};
  };
  Prepared weights{};
  weights.input = product(gates_, s_.I, input_at_use);
  weights.hidden = product(gates_, s_.P);
  if (kSplitGates) {
    weights.input_n = product(gate_n_, s_.I, input_at_use);
    weights.hidden_n = product(gate_n_, s_.P);
  }
  if (s_.projected) weights.output = product(outputs_, s_.H);
  weights.bias = arena.take<C>(gates_.panels() * kPanelColumns);
  weights.bias_q = arena.take<C>(cell == Cell::kGru ? gates_.panels() * gates_.width() : 0);
  return weights;
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::prepack(const Forward& args, char* to) {
  ForwardPass pass(args, nullptr, 1, 0);
  for (int64_t n = 0; n < args.shape.N; ++n) {
    Arena arena(to + n * args.prepacked_bytes);
    static_cast<Prepared&>(pass.shared_) = pass.lay_out_weights(arena, true, false);
    pass.pack_weights(args.weights[n]);
  }
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::prepare(int64_t n) {
  n_ = n;
  rows_.reverse = args_.reverse[n] != 0;
  if constexpr (kStored<Op>) {
    take_stored(args_.stored[n]);
  } else if (args_.prepacked) {
    // Laid out as `prepack` did, and only read.
    Arena arena(const_cast<char*>(args_.prepacked) + n * args_.prepacked_bytes);
    static_cast<Prepared&>(shared_) = lay_out_weights(arena, true, false);
  } else {
    pack_weights(args_.weights[n]);
  }
  for (int64_t j = place_.unit_group; j < rows_.all(); j += split_.unit_groups) start_row(j);
}

// This thread's share of the panels.
template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::pack_weights(const Weights& w) {
  shared_.input.matrix = shared_.input_n.matrix = static_cast<const IO*>(w.w_ih);
  shared_.hidden.matrix = shared_.hidden_n.matrix = static_cast<const IO*>(w.w_hh);
  shared_.output.matrix = static_cast<const IO*>(w.w_hr);
  // The row groups of a thread's panels share the packing of those.
  for (int64_t p = panels_.begin; p < panels_.end; ++p) {
    if (p % split_.row_groups != place_.row_group) continue;
    for (const Product* product :
         {&shared_.input, &shared_.input_n, &shared_.hidden, &shared_.hidden_n}) {
      if (!product->at_use) pack(*product, p);
    }
    pack_bias(w, p);
  }
  if (s_.projected) {
    const Range mine(outputs_.panels(), place_.recurrence_rank(), place_.recurrence_size());
    for (int64_t p = mine.begin; p < mine.end; ++p) pack(shared_.output, p);
  }
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::take_stored(const StoredWeights& w) {
  shared_.input.stored = w.input;
  shared_.hidden.stored = w.hidden;
  shared_.output.stored = w.output;
  shared_.input_n.stored = w.input_n;
  shared_.hidden_n.stored = w.hidden_n;
  Weights biases{};
  biases.b_ih = w.b_ih;
  biases.b_hh = w.b_hh;
  for (int64_t p = panels_.begin; p < panels_.end; ++p) {
    if (p % split_.row_groups == place_.row_group) pack_bias(biases, p);
  }
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::pack(const Product& product, int64_t panel) {
  if (!product.packed) return;
  const Matrix<IO> from{product.matrix, product.K, 1};
  pack_panel(product.panel(panel), product.map, panel, from, product.K, product.K);
}

// b_ih + b_hh, but for the reset-after GRU's n, where b_hh stays inside r * (...).
template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::pack_bias(const Weights& w, int64_t panel) {
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
    if (cell == Cell::kGru && gate == 2) {
      shared_.bias_q[unit] = b_hh && unit < s_.H ? to_float(b_hh[2 * s_.H + unit]) : C(0);
    }
  }
}

template <class IO, class Op, Cell cell>
void ForwardPass<IO, Op, cell>::start_row(int64_t j) {
  const int64_t p = rows_.position(j), b = args_.rows.order[p], length = args_.rows.length_at[p];
  const IO* h0 = row_of(args_.h0, b, s_.P);
  const IO* c0 = row_of(args_.c0, b, s_.H);
  if (length == 0) {
    convert(row_of(args_.hn, b, s_.P), h0, s_.P, s_.P);
    if (cell == Cell::kLstm) convert(row_of(args_.cn, b, s_.H), c0, s_.H, s_.H);
  } else if (rows_.cut_before(rows_.reverse ? length - 1 : 0, b, length)) {
    h0 = c0 = nullptr;
  }
  const int64_t op = operand_row(j);
  for (Row* h : shared_.h) put_row(h, ld_p_, op, h0, s_.P);
  if (kOwnState) convert(shared_.state + p * ld_p_, h0, s_.P, ld_p_);
  if (cell == Cell::kLstm) convert(shared_.c + p * ld_h_, c0, s_.H, ld_h_);
  if (shared_.inner) put_row(shared_.inner, ld_h_, op, static_cast<const IO*>(nullptr), 0);
  const int64_t end = rows_.padded() ? s_.T : length;
  for (int64_t t = length; t < end; ++t) {
    convert(y_row(rows_.row(t, b)), static_cast<const IO*>(nullptr), 0, s_.P);
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
