// SPDX-License-Identifier: MIT
// After a chunk of steps: gradients of input and weights; after all: of states.
#pragma once

#include "pass.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::finish_chunk(Team& team, int64_t begin, int64_t end, int64_t count,
                                              bool first_recurrence) {
  int64_t m = 0;
  for (int64_t k = end - 1; k >= begin; --k) {
    const int64_t t = rows_.time(k), offset = m;
    for (; m < offset + args_.rows.active[t]; ++m) {
      chunk_[m] = visit_position(m - offset, t, offset, m);
    }
  }
  if constexpr (kTiled<Op>) {
    if (args_.dx) tiled_input_grads(count, first_recurrence);
    if (args_.dweights) tiled_weight_grads(team, count, end == s_.T);
  } else {
    if (args_.dx) input_grads(count, first_recurrence);
    if (args_.dweights) weight_grads(count, end == s_.T);
  }
  if (!args_.dweights) return;
  const Range vectors((grad_count(cell) * gate_ + L - 1) / L, place_.recurrence_rank(),
                      place_.recurrence_size());
  add_columns(shared_.bias, shared_.dg, ld_g_, count, vectors);
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::input_grads(int64_t count, bool first_recurrence) {
  const Range mine(count, place_.recurrence_rank(), place_.recurrence_size());
  alignas(64) C sums[kAccumulators * L];
  // Slots whose weights lie in the same order as the slots: all of them once they are packed.
  struct Run {
    int slot, slots;
  };
  const bool parted = !shared_.input.packed && (kGru || kBefore);
  const Run whole[] = {{0, G}}, parts[] = {{1, G - 1}, {0, 1}};
  const Run* runs = parted ? parts : whole;
  for (int64_t p = 0; p < inputs_.panels(); ++p) {
    const int vecs = inputs_.used_vecs(p);
    for_tiles(mine.end - mine.begin, vecs, [&](int64_t first, int64_t rows) {
      const int64_t m = mine.begin + first;
      for (int i = 0; i <= int(parted); ++i) {
        const int64_t at = runs[i].slot * gate_;
        TileArgs<C> tile =
            tile_of(shared_.input, p, at, gate_in(runs[i].slot) * s_.H, runs[i].slots * gate_);
        for (int64_t r = 0; r < rows; ++r) tile.a[r] = shared_.dg_op + (m + r) * ld_g_ + at;
        tile.c = sums;
        tile.c_stride = tile.init_stride = vecs * L;
        if (i > 0) tile.init = sums;
        run_tile<Op>(int(rows), vecs, tile);
      }
      put_sums(p, m, rows, sums, first_recurrence);
    });
  }
}

// A panel's sums of some rows of the chunk.
template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::put_sums(int64_t panel, int64_t first, int64_t rows, const C* sums,
                                          bool first_recurrence) {
  const int vecs = inputs_.used_vecs(panel);
  for (int64_t r = 0; r < rows; ++r) {
    for (int v = 0; v < vecs; ++v) {
      const int64_t u = panel * inputs_.width() + v * L;
      put_dx(chunk_[first + r].row, u, load(sums + (r * vecs + v) * L), first_recurrence);
    }
  }
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::put_dx(int64_t row, int64_t u, V sum, bool first_recurrence) {
  if (s_.N == 1) {
    store_n<C>(static_cast<IO*>(args_.dx) + row * s_.I + u, sum, s_.I - u);
    return;
  }
  C* part = shared_.dx + row * ld_x_ + u;
  store(part, first_recurrence ? sum : load(part) + sum);
}

// dx where several recurrences share x: the sum of what each group of them found.
template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::sum_dx(int rank, int size) {
  const Range mine(args_.rows.count, rank, size);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    IO* dx = static_cast<IO*>(args_.dx) + row * s_.I;
    if (rows_.padded() && row / s_.B >= args_.rows.length_of[row % s_.B]) {
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

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::weight_grads(int64_t count, bool first_chunk) {
  const int rank = place_.recurrence_rank(), size = place_.recurrence_size();
  Segment inputs[G], hidden_rows[kHiddenSlots];
  for (int s = 0; s < G; ++s) inputs[s] = Segment{s * gate_, gate_in(s) * s_.H, s_.H};
  for (int s = 0; s < kHiddenSlots; ++s) {
    hidden_rows[s] = Segment{(kHiddenSlot + s) * gate_, s * s_.H, s_.H};
  }
  const Op* operand = shared_.dg_op;
  if constexpr (kCopy) {
    operand = shared_.dg_pairs;
    for (int d = 0; d < grad_count(cell) && count > 1; ++d) {
      pair_rows(shared_.dg_pairs, shared_.dg, ld_g_, count, Segment{d * gate_, 0, s_.H}, rank,
                size);
    }
  }
  const auto add = [&](const GradSum<IO, C>& grad, const auto& segments, auto load_row) {
    add_outer(grad, shared_.dg, operand, ld_g_, count, segments, first_chunk, rank, size, panel_,
              load_row);
  };
  add(shared_.dw_ih, inputs, [&](auto... at) { return input(at...); });
  add(shared_.dw_hh, hidden_rows, [&](auto... at) { return hidden(at...); });
  if constexpr (kBefore) {
    const Segment n[] = {{0, 2 * s_.H, s_.H}};
    add(shared_.dw_hh, n, [&](auto... at) { return reset_hidden(at...); });
  }
  if constexpr (cell == Cell::kLstm) {
    const Segment out[] = {{0, 0, s_.P}};
    if (s_.projected) {
      const C* dout = shared_.dout;
      add_outer(shared_.dw_hr, dout, dout, ld_p_, count, out, first_chunk, rank, size, panel_,
                [&](auto... at) { return unprojected(at...); });
    }
  }
}

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::write_states() {
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

template <class IO, class Op, Cell cell>
void BackwardPass<IO, Op, cell>::write_weights() {
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

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
