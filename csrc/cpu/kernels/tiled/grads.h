// SPDX-License-Identifier: MIT
// Gradients of input and weights by products on tiles.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "../backward/pass.h"
#include "pack.h"
#include "product.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Rows k of a sum of outer products as its second operand, some panels of it: load(k, u, lanes)
// gives row k's columns from u on.
template <int parts, class Load>
void pack_factor(Parts<parts>* to, const PanelMap<float>& map, const Range& panels, int64_t K,
                 Load load_row) {
  constexpr int L = kLanes<float>;
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const int vecs = map.used_vecs(p);
    Parts<parts>* panel = to + p * panel_size<Parts<parts>>(map, K);
    for (int64_t k = 0; k < round_up(K, kTileDepth); k += 2) {
      for (int v = 0; v < vecs; ++v) {
        const int64_t u = p * map.width() + v * L, lanes = map.units - u;
        Parts<parts>* tile = tiles_at(panel, round_up(K, kTileDepth), map.panel_vecs(), v, k);
        put_pair(tile, k % kTileDepth / 2, k < K ? load_row(k, u, lanes) : FloatV{},
                 k + 1 < K ? load_row(k + 1, u, lanes) : FloatV{});
      }
    }
  }
}

// Columns of `a` as rows of a first operand: up to 16 from `a` on, K deep, whose rows are ld apart.
template <int parts>
void pack_columns(Parts<parts>* to, const float* a, int64_t ld, int64_t columns, int64_t K) {
  alignas(64) Parts<parts> pairs[kTileElements];
  for (int64_t k = 0; k < K; k += kTileDepth) {
    for (int64_t i = k; i < k + kTileDepth; i += 2) {
      const float* at = a + i * ld;
      put_pair(pairs, (i - k) / 2, i < K ? load_n<float>(at, columns) : FloatV{},
               i + 1 < K ? load_n<float>(at + ld, columns) : FloatV{});
    }
    for (int j = 0; j < parts; ++j) {
      transpose_pairs(words(to) + j * kTileElements, words(pairs) + j * kTileElements, kTileDepth);
    }
    to += kTileElements;
  }
}

// A gradient that some columns of gate gradients are a factor of: its rows from `first` on.
template <class IO, int parts>
struct OuterTarget {
  const GradSum<IO, float>& grad;
  int64_t first;
  PanelMap<float> map;
  const Parts<parts>* factor;
};

// Adds to each target the products of its factor and a thread's share of columns a[:, 0 .. rows);
// `operand` is the thread's own, for kOuterRows rows.
template <int parts, class IO>
void add_tiled_outer(const float* a, int64_t ld, int64_t K, const Range& rows,
                     Parts<parts>* operand, std::initializer_list<OuterTarget<IO, parts>> targets,
                     bool first_time) {
  constexpr int L = kLanes<float>;
  alignas(64) float sums[kBlockRows<Parts<parts>> * kPlainVecs * L];
  const int64_t depth = round_up(K, kTileDepth);
  for_blocks(rows.end - rows.begin, kOuterRows, [&](int64_t begin, int64_t count) {
    begin += rows.begin;
    for (int64_t r = 0; r < count; r += kTileRows) {
      pack_columns(operand + r * depth, a + begin + r, ld, min(kTileRows, count - r), K);
    }
    for (const auto& target : targets) {
      for (int64_t p = 0; p < target.map.panels(); ++p) {
        const Parts<parts>* panel = target.factor + p * panel_size<Parts<parts>>(target.map, K);
        const int vecs = target.map.used_vecs(p);
        for_rows<Parts<parts>>(count, vecs, [&](int64_t first, int64_t n) {
          const auto row = [&](int64_t r) { return operand + (first + r) * depth; };
          multiply_panel<Parts<parts>>(target.map, p, panel, K, row, depth, n, nullptr, sums,
                                       vecs * L);
          float* sum = target.grad.sum + (target.first + begin + first) * target.grad.ld +
                       p * target.map.width();
          add_rows(sum, target.grad.ld, sums, vecs * L, n, vecs, first_time);
        });
      }
    }
  });
}

// dx of a thread's share of the chunk.
template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::tiled_input_grads(int64_t count, bool first_recurrence) {
  const Range mine(count, place_.recurrence_rank(), place_.recurrence_size());
  alignas(64) C sums[kBlockRows<Op> * kPlainVecs * L];
  const int64_t K = G * gate_;
  for_blocks(mine.end - mine.begin, kInputGradRows, [&](int64_t begin, int64_t rows) {
    begin += mine.begin;
    for (int64_t r = 0; r < rows; ++r) {
      put_row(own_rows_, K, r, shared_.dg + (begin + r) * ld_g_, K);
    }
    for (int64_t p = 0; p < inputs_.panels(); ++p) {
      for_rows<Op>(rows, inputs_.used_vecs(p), [&](int64_t first, int64_t n) {
        const auto row = [&](int64_t r) { return own_rows_ + (first + r) * K; };
        multiply(shared_.input, p, row, K, n, sums);
        put_sums(p, begin + first, n, sums, first_recurrence);
      });
    }
  });
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::tiled_weight_grads(Team& team, int64_t count, bool first_chunk) {
  const int rank = place_.recurrence_rank(), size = place_.recurrence_size();
  const auto pack_rows = [&](const Factor& factor, auto load_row) {
    pack_factor(factor.tiles, factor.map, Range(factor.map.panels(), rank, size), count, load_row);
  };
  pack_rows(shared_.x, [&](auto... at) { return input(at...); });
  pack_rows(shared_.h, [&](auto... at) { return hidden(at...); });
  if constexpr (kBefore) {
    pack_rows(shared_.reset_h, [&](auto... at) { return reset_hidden(at...); });
  }
  if constexpr (cell == Cell::kLstm) {
    if (s_.projected) {
      pack_rows(shared_.unprojected, [&](auto... at) { return unprojected(at...); });
    }
  }
  place_.wait_recurrence(team);

  typedef OuterTarget<IO, kParts<Op>> Target;
  const Range units(s_.H, rank, size);
  const auto add = [&](int slot, std::initializer_list<Target> targets) {
    add_tiled_outer(shared_.dg + slot * gate_, ld_g_, count, units, own_rows_, targets,
                    first_chunk);
  };
  const auto of_input = [&](int64_t gate) {
    return Target{shared_.dw_ih, gate * s_.H, shared_.x.map, shared_.x.tiles};
  };
  const auto of_hidden = [&](int64_t gate, const Factor& factor) {
    return Target{shared_.dw_hh, gate * s_.H, factor.map, factor.tiles};
  };
  // Slots and gates as BackwardPass orders them.
  for (int slot = 0; slot < grad_count(cell); ++slot) {
    if (kGru && slot == 0) {
      add(slot, {of_input(2)});
    } else if (kGru && slot == 3) {
      add(slot, {of_hidden(2, shared_.h)});
    } else if (kBefore && slot == 0) {
      add(slot, {of_input(2), of_hidden(2, shared_.reset_h)});
    } else {
      add(slot, {of_input(gate_in(slot)), of_hidden(gate_in(slot), shared_.h)});
    }
  }
  if (s_.projected) {
    add_tiled_outer(shared_.dout, ld_p_, count, Range(s_.P, rank, size), own_rows_,
                    {Target{shared_.dw_hr, 0, shared_.unprojected.map, shared_.unprojected.tiles}},
                    first_chunk);
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
