// SPDX-License-Identifier: MIT
// Tier G, backward: the gradients of a block's own units, and what each step makes of them. How the
// products of dG come to be is left to the kernels.
#pragma once

#include "grid.cuh"
#include "inputs.cuh"

namespace fused_rnn {
namespace cuda {

// The blocks are dealt out to `kColumns` columns.
template <Cell cell, class IO, int kColumns>
struct GridGradients {
  using Inputs = BackwardInputs<cell, IO>;
  static constexpr int G = gate_count(cell), D = grad_count(cell);

  const Backward& p;
  const GridPlace<G, kColumns> at;
  const Walk walk;
  const int H, passes;
  GridMemory& memory;

  DEVICE_FN GridGradients(const Backward& p, const Exchange& x, GridMemory& memory)
      : p(p), at(p, x), walk(at.walk), H(at.H), passes(at.passes()), memory(memory) {
    static_assert(sizeof(GridMemory) == kGridStateBytes);
    at.load_lengths(memory);
    __syncthreads();
    for (int pass = 0; pass < passes; ++pass) {
      const GridRow own = row(pass);
      const int64_t state = walk.state(own.b) + at.unit;
      dh(own) = own.there && p.dhn ? widen(static_cast<const IO*>(p.dhn)[state]) : 0;
      dc(own) = own.there && p.dcn ? widen(static_cast<const IO*>(p.dcn)[state]) : 0;
    }
  }

  DEVICE_FN GridRow row(int pass) const { return {at, memory, pass}; }
  DEVICE_FN float& dh(const GridRow& own) const { return memory.states[0][own.index]; }
  DEVICE_FN float& dc(const GridRow& own) const { return memory.states[1][own.index]; }
  DEVICE_FN bool active(int t, const GridRow& own) const { return at.unit < H && t < own.length; }
  // Stages are counted from the last step.
  DEVICE_FN int time(int stage) const { return walk.time(walk.T - 1 - stage); }

  // Of the stage of step t, if there is one.
  DEVICE_FN Inputs load_inputs(int stage, int t, const GridRow& own) const {
    Inputs in = {};
    if (stage < walk.T && active(t, own)) in.load(p, walk, t, own.b, at.unit, own.length);
    return in;
  }

  DEVICE_FN void prefetch_inputs(int stage, int t, const GridRow& own) const {
    if (stage >= walk.T || at.first_unit >= H || t >= own.length) return;
    Inputs::fetch(p, walk, t, own.b, at.first_unit, at.own);
  }

  // Gives the gates' gradients of one unit and row; dh keeps the path past the products.
  DEVICE_FN void differentiate(int stage, int t, const GridRow& own, const Inputs& in) const {
    if (stage >= walk.T) return;
    float dg[D] = {};
    if (active(t, own)) {
      float saved[Inputs::kSaved];
      in.widened(saved);
      float d = dh(own) + widen(in.dy);
      backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, saved, widen(in.before), d, dc(own),
                              dg);
      dh(own) = d;
    }
    uint32_t* word = at.word_of(stage, own.b);
#pragma unroll
    for (int g = 0; g < G; ++g, word += at.words_apart()) {
      at.template give<IO>(word, own.b, dg[recurrent_column(cell, g)]);
    }
    if (!own.there) return;
    IO* column = static_cast<IO*>(p.dg) + walk.offset(walk.number(t, own.b), D) + at.unit;
#pragma unroll
    for (int d = 0; d < D; ++d, column += H) *column = narrow<IO>(dg[d]);
  }

  // dh of the step before, where the rows are not cut off from it.
  DEVICE_FN void collect(int t, const GridRow& own, float sum) const {
    if (!active(t, own)) return;
    const bool cut = walk.cut(t, own.b, own.length);
    dh(own) = cut ? 0 : dh(own) + sum;
    if (cut) dc(own) = 0;
  }

  DEVICE_FN void start() const {
    const int t = time(0);
    for (int pass = 0; pass < passes; ++pass) {
      differentiate(0, t, row(pass), load_inputs(0, t, row(pass)));
    }
  }

  // Where a stage's products do not come.
  DEVICE_FN void give_up(int stage) const { spoil_backward<cell, IO>(p, walk, at.share(), stage); }

  DEVICE_FN void finish() const {
    for (int pass = 0; pass < passes; ++pass) {
      const GridRow own = row(pass);
      if (!own.there) continue;
      const int64_t state = walk.state(own.b) + at.unit;
      if (p.dh0) static_cast<IO*>(p.dh0)[state] = narrow<IO>(dh(own));
      if (p.dc0) static_cast<IO*>(p.dc0)[state] = narrow<IO>(dc(own));
    }
  }
};

}  // namespace cuda
}  // namespace fused_rnn
