// SPDX-License-Identifier: MIT
// The grid tier, backward: the gradients of a block's own units, and what each step makes of them.
// How the products of dG come to be is left to the kernels.
#pragma once

#include "../device/inputs.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
#include "../device/records.cuh"
#include "../device/units.cuh"
#include "../device/waits.cuh"
#include "../device/walk.cuh"
#include "../problem.h"
#include "../shapes.h"
#include "exchange.cuh"

namespace fused_rnn {
namespace cuda {

template <Cell cell, class IO>
struct GridGradients {
  using Inputs = BackwardInputs<cell, IO>;
  static constexpr int G = gate_count(cell), D = grad_count(cell);

  const Backward& p;
  const GridPlace<G> at;
  const Walk walk;
  const int H, passes;
  const BackwardSource<cell, IO> source;
  const Rows<IO> gates;  // dG
  const Records records;
  Inputs inputs;  // of the pass that comes next

  DEVICE_FN GridGradients(const Backward& p, const Exchange& x, int columns, void* shared)
      : p(p),
        at(p, x, columns),
        walk(at.walk),
        H(at.H),
        passes(at.passes()),
        source(p, walk, at.unit()),
        gates(walk, static_cast<IO*>(p.dg), D, at.unit()),
        records{static_cast<float*>(shared)} {
    for (int i = threadIdx.x; i < at.rows; i += kGridThreads) {
      records.length(at, i) = walk.length(at.first_row + i);
    }
    // From here on a row's own threads alone read and write its states.
    for (int pass = 0; pass < passes; ++pass) {
      const int place = at.row + pass * kPassRows;
      source.start(at, walk, records, place, at.first_row + place);
    }
  }

  DEVICE_FN OwnRow row(int pass) const { return at.own_row(records, pass); }
  // Stages are counted from the last step.
  DEVICE_FN int time(int stage) const { return walk.stage_time(stage); }

  // Gives the gates' gradients of a pass; dh keeps the path past the products.
  DEVICE_FN void differentiate(int stage, int pass, const OwnRow& own) {
    const int t = time(stage);
    float dg[D] = {}, given[G];
    if (t < own.length) {
      float saved[Inputs::kSaved];
      inputs.widened(saved);
      float dh = own.h + widen(inputs.dy), dc = own.c;
      backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, saved, widen(inputs.before), dh, dc,
                              dg);
      own.h = dh, own.c = dc;
    }
#pragma unroll
    for (int g = 0; g < G; ++g) given[g] = dg[recurrent_column(cell, g)];
    at.template give<IO>(stage, pass, given);
    const bool last = pass + 1 == passes;
    const int next = last ? stage + 1 : stage;
    if (next < walk.T) source.take(inputs, walk, next, row(last ? 0 : pass + 1));
    if (!own.there) return;
    IO* columns = gates[walk.number(t, own.b)];
#pragma unroll
    for (int d = 0; d < D; ++d) columns[d * H] = narrow<IO>(dg[d]);
  }

  // dh of the step before a stage's, where the rows are not cut off from it, and the gradients that
  // the next stage gives.
  DEVICE_FN void go_on(int stage, int pass, float sum) {
    const OwnRow own = row(pass);
    const int t = time(stage);
    if (t < own.length) {
      const bool cut = walk.cut(t, own.b, own.length);
      own.h = cut ? 0 : own.h + sum;
      if (cut) own.c = 0;
    }
    if (stage + 1 < walk.T) differentiate(stage + 1, pass, own);
  }

  DEVICE_FN void start() {
    source.take(inputs, walk, 0, row(0));
    for (int pass = 0; pass < passes; ++pass) differentiate(0, pass, row(pass));
  }

  // Where a stage's products do not come.
  DEVICE_FN void give_up(int stage) const { spoil_backward<cell, IO>(p, walk, at.share(), stage); }

  DEVICE_FN void finish() const {
    for (int pass = 0; pass < passes; ++pass) source.finish(walk, row(pass));
  }
};

}  // namespace cuda
}  // namespace fused_rnn
