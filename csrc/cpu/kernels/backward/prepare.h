// SPDX-License-Identifier: MIT
// Before the walk back: the workspace, packed weights, gradients of the final states.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
BackwardPass<IO, Op, cell>::BackwardPass(const Backward& args, char* workspace, int threads,
                                         int rank)
    : args_(args),
      s_(args.shape),
      inputs_(plain_map<C>(s_.I)),
      outputs_(plain_map<C>(s_.P)),
      hidden_(plain_map<C>(s_.H)),
      split_(plan_split<Op>(s_.N, s_.B, outputs_.panels(), G * s_.H, kPlainVecs, threads)),
      place_(split_, rank),
      rows_{args.rows, s_.T, s_.B, place_.row_group, split_.row_groups, false},
      units_(hidden_.panels(), place_.unit_group, split_.unit_groups),
      columns_(outputs_.panels(), place_.unit_group, split_.unit_groups),
      arena_(workspace) {
  gate_ = round_up(s_.H, kDepth<Op>);
  ld_p_ = round_up(s_.P, max(16, kDepth<Op>));
  ld_h_ = round_up(s_.H, 16);
  ld_x_ = round_up(s_.I, 16);
  // Not a power of two: rows must not all fall into the same sets of the cache.
  ld_g_ = round_up(grad_count(cell) * gate_, 16) + 16;
  ld_op_ = kTiled<Op> ? grad_count(cell) * gate_ : ld_g_;
  group_rows_ = round_up((s_.B + split_.row_groups - 1) / split_.row_groups, kRowsTogether<Op>);
  steps_ = min(s_.T, max(1, kGradRows / max(s_.B, 1)));
  capacity_ = steps_ * s_.B;
  lay_out();
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::lay_out() {
  for (int g = 0; g < split_.recurrence_groups; ++g) {
    Shared shared{};
    if (args_.dx) shared.input = product(inputs_, G * gate_);
    shared.hidden = product(outputs_, kHiddenSlots * gate_);
    if (kBefore) shared.hidden_n = product(hidden_, gate_);
    shared.dh = arena_.take<C>(s_.B * ld_p_);
    if (cell == Cell::kLstm) shared.dc = arena_.take<C>(s_.B * ld_h_);
    shared.dg = arena_.take<C>(capacity_ * ld_g_);
    shared.dg_op = reinterpret_cast<Op*>(shared.dg);
    if (kCopy) shared.dg_op = arena_.take<Op>((kTiled<Op> ? 2 : 1) * operand_rows() * ld_op_);
    if (s_.projected) {
      shared.output = product(hidden_, round_up(s_.P, kDepth<Op>));
      shared.dout = arena_.take<C>(capacity_ * ld_p_);
      shared.dout_op = reinterpret_cast<Op*>(shared.dout);
      if (kCopy) shared.dout_op = arena_.take<Op>(operand_rows() * ld_p_);
    }
    if (args_.dx && s_.N > 1) {
      shared.dx = arena_.take<C>(args_.rows.count * ld_x_);
      if (g == 0) dx_parts_ = shared.dx;
      if (g == 1) dx_stride_ = shared.dx - dx_parts_;
    }
    shared.bias = arena_.take<C>(ld_g_);
    if (args_.dweights) {
      if (kTiled<Op>) {
        shared.x = factor(s_.I);
        shared.h = factor(s_.P);
        if (kBefore) shared.reset_h = factor(s_.H);
        if (s_.projected) shared.unprojected = factor(s_.H);
      } else if (kCopy) {
        shared.dg_pairs = arena_.take<Op>(round_up(capacity_, 2) * ld_g_);
      }
      shared.dw_ih = GradSum<IO, C>::reserve(arena_, G * s_.H, s_.I);
      shared.dw_hh = GradSum<IO, C>::reserve(arena_, G * s_.H, s_.P);
      if (s_.projected) shared.dw_hr = GradSum<IO, C>::reserve(arena_, s_.P, s_.H);
    }
    if (g == place_.recurrence_group) shared_ = shared;
  }
  const int threads = split_.recurrence_groups * place_.recurrence_size();
  for (int rank = 0; rank < threads; ++rank) {
    C* panel = arena_.take<C>(kTiled<Op> ? 0 : capacity_ * kPlainVecs * L);
    Visit* chunk = arena_.take<Visit>(capacity_);
    Op* own_rows = arena_.take<Op>(kTiled<Op> ? own_rows_size() : 0);
    if (rank == place_.rank()) {
      panel_ = panel;
      chunk_ = chunk;
      own_rows_ = own_rows;
    }
  }
}

template <class IO, class Op, Cell cell>
typename BackwardPass<IO, Op, cell>::Factor BackwardPass<IO, Op, cell>::factor(int64_t columns) {
  const PanelMap<C> map = plain_map<C>(columns);
  return Factor{map, arena_.take<Op>(packed_size<Op>(map, capacity_))};
}

// For few steps the weights are taken as they lie, where that is in whole vectors.
template <class IO, class Op, Cell cell>
typename BackwardPass<IO, Op, cell>::Product BackwardPass<IO, Op, cell>::product(
    const PanelMap<C>& map, int64_t depth) {
  const bool in_place =
      !kTiled<Op> && std::is_same<IO, C>::value && s_.T <= kUnpackedSteps && map.units % L == 0;
  return Product{map, depth, nullptr,
                 in_place ? nullptr : arena_.take<Op>(packed_size<Op>(map, depth))};
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::prepare(int64_t n) {
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
  const Range chunk(capacity_, rank, size);
  for (int64_t m = chunk.begin; m < chunk.end; ++m) {
    clear_gaps(shared_.dg + m * ld_g_, s_.H, gate_, grad_count(cell), ld_g_);
    if (s_.projected) clear_gaps(shared_.dout + m * ld_p_, s_.P, s_.P, 1, ld_p_);
    if (!kCopy || kTiled<Op>) continue;
    clear_gaps(shared_.dg_op + m * ld_g_, s_.H, gate_, grad_count(cell), ld_g_);
    if (s_.projected) clear_gaps(shared_.dout_op + m * ld_p_, s_.P, s_.P, 1, ld_p_);
  }
  if (kTiled<Op>) {
    const Range rows(2 * operand_rows(), rank, size);
    clear(shared_.dg_op + rows.begin * ld_op_, (rows.end - rows.begin) * ld_op_);
    if (s_.projected && rank == 0) clear(shared_.dout_op, operand_rows() * ld_p_);
  }
  if (args_.dweights) bind_sums(args_.dweights[n], rank);
  if (args_.dx && s_.N == 1 && rows_.padded()) clear_padding(rank, size);
}

// Rows past their length have no part in the walk.
template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::clear_padding(int rank, int size) {
  const Range mine(s_.B, rank, size);
  for (int64_t b = mine.begin; b < mine.end; ++b) {
    for (int64_t t = args_.rows.length_of[b]; t < s_.T; ++t) {
      clear(static_cast<IO*>(args_.dx) + rows_.row(t, b) * s_.I, s_.I);
    }
  }
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::pack_weights(const Weights& w, int rank, int size) {
  shared_.input.matrix = static_cast<const IO*>(w.w_ih);
  shared_.hidden.matrix = static_cast<const IO*>(w.w_hh);
  if (kBefore) shared_.hidden_n.matrix = shared_.hidden.matrix + 2 * s_.H * s_.H;
  shared_.output.matrix = static_cast<const IO*>(w.w_hr);
  for (int slot = 0; args_.dx && slot < G; ++slot) {
    pack(shared_.input, gate_in(slot) * s_.H, slot * gate_, s_.H, rank, size);
  }
  for (int slot = 0; slot < kHiddenSlots; ++slot) {
    pack(shared_.hidden, slot * s_.H, slot * gate_, s_.H, rank, size);
  }
  if (kBefore) pack(shared_.hidden_n, 0, 0, s_.H, rank, size);
  if (s_.projected) pack(shared_.output, 0, 0, s_.P, rank, size);
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::bind_sums(const WeightGrads& d, int rank) {
  shared_.dw_ih.bind(d.w_ih);
  shared_.dw_hh.bind(d.w_hh);
  if (s_.projected) shared_.dw_hr.bind(d.w_hr);
  if (rank == 0) clear(shared_.bias, ld_g_);
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
