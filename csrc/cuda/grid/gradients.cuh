// SPDX-License-Identifier: MIT
// The grid tier, backward: the gradients of a block's own units, and what each step makes of them.
// How the products of dG come to be is left to the kernels.
#pragma once

#include "../device/inputs.cuh"
#include "../device/numbers.cuh"
#include "../device/primitives.cuh"
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
  const GridPlace at;
  const Walk walk;
  const int H, rows;
  int* const lengths;          // (rows,)
  float *const dh, *const dc;  // (rows, 16)

  DEVICE_FN GridGradients(const Backward& p, const Exchange& x, int columns, void* shared)
      : p(p),
        at(p, x, G, columns),
        walk(at.walk),
        H(at.H),
        rows(at.rows),
        lengths(static_cast<int*>(shared)),
        dh(reinterpret_cast<float*>(lengths + rows)),
        dc(dh + rows * kTileUnits) {
    for (int i = threadIdx.x; i < rows; i += blockDim.x) lengths[i] = walk.length(at.first_row + i);
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      const GridSpot spot(pass);
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      dh[spot.index] = there(spot) && p.dhn ? widen(static_cast<const IO*>(p.dhn)[state]) : 0;
      dc[spot.index] = there(spot) && p.dcn ? widen(static_cast<const IO*>(p.dcn)[state]) : 0;
    }
  }

  DEVICE_FN float* end() const { return dc + rows * kTileUnits; }
  DEVICE_FN int unit(const GridSpot& spot) const { return at.first_unit + spot.unit; }
  DEVICE_FN bool there(const GridSpot& spot) const {
    return at.first_row + spot.row < walk.B && unit(spot) < H;
  }
  // Stages are counted from the last step.
  DEVICE_FN int time(int stage) const { return walk.time(walk.T - 1 - stage); }

  DEVICE_FN Inputs load_inputs(int stage, int pass) const {
    Inputs in = {};
    const GridSpot spot(pass);
    if (stage >= walk.T || !there(spot)) return in;
    const int t = time(stage), length = lengths[spot.row];
    if (t < length) in.load(p, walk, t, at.first_row + spot.row, unit(spot), length);
    return in;
  }

  DEVICE_FN void prefetch_inputs(int stage, int pass) const {
    const GridSpot spot(pass);
    if (stage >= walk.T || !there(spot)) return;
    Inputs::fetch(p, walk, time(stage), at.first_row + spot.row, unit(spot));
  }

  // Gives the gates' gradients of one unit and row; dh keeps the path past the products.
  DEVICE_FN void differentiate(int stage, int pass, const Inputs& in) const {
    const GridSpot spot(pass);
    if (stage >= walk.T) return;
    const int t = time(stage);
    float dg[D] = {};
    if (there(spot) && t < lengths[spot.row]) {
      float saved[Inputs::kSaved];
      in.widened(saved);
      float& own = dh[spot.index];
      own += widen(in.dy);
      backward_unit<cell, IO>(p.sizes.cell == Cell::kRnnRelu, saved, widen(in.before), own,
                              dc[spot.index], dg);
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      at.template give<IO>(stage, spot, g, dg[recurrent_column(cell, g)]);
    }
    if (!there(spot)) return;
    IO* columns = static_cast<IO*>(p.dg) + walk.row(t, at.first_row + spot.row, D) + unit(spot);
#pragma unroll
    for (int d = 0; d < D; ++d) columns[d * H] = narrow<IO>(dg[d]);
  }

  // dh of the step before, where the rows are not cut off from it.
  DEVICE_FN void collect(int stage, int pass, float sum) const {
    const GridSpot spot(pass);
    const int t = time(stage), length = lengths[spot.row];
    if (!there(spot) || t >= length) return;
    const bool cut = walk.cut(t, at.first_row + spot.row, length);
    dh[spot.index] = cut ? 0 : dh[spot.index] + sum;
    if (cut) dc[spot.index] = 0;
  }

  DEVICE_FN void start() const {
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      differentiate(0, pass, load_inputs(0, pass));
    }
  }

  // Where a stage's products do not come.
  DEVICE_FN void give_up(int stage) const { spoil_backward<cell, IO>(p, walk, at.share(), stage); }

  DEVICE_FN void finish() const {
    for (int pass = 0; pass * kPassRows < rows; ++pass) {
      const GridSpot spot(pass);
      if (!there(spot)) continue;
      const int64_t state = walk.state(at.first_row + spot.row) + unit(spot);
      if (p.dh0) static_cast<IO*>(p.dh0)[state] = narrow<IO>(dh[spot.index]);
      if (p.dc0) static_cast<IO*>(p.dc0)[state] = narrow<IO>(dc[spot.index]);
    }
  }
};

}  // namespace cuda
}  // namespace fused_rnn
