// SPDX-License-Identifier: MIT
#include "ops.h"

#include <torch/csrc/stable/ops.h>

#include "arguments.h"
#include "passes.h"
#include "runtime.h"
#include "stuck.h"

namespace fused_rnn {
namespace cuda {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, std::string cell,
    std::vector<int64_t> reverse, bool keep_tape, int64_t) {
  check_stuck();
  const CurrentDevice guard(x.get_device_index());
  Layer layer(x, h0, c0, weights, lengths, resets, cell, reverse);
  const Sizes& s = layer.sizes;
  const bool lstm = s.cell == Cell::kLstm, tape_kept = keep_tape && layer.S > 0;
  Tensor y = layer.make({s.T, s.B, s.N, s.H});
  Tensor hn = layer.make({s.N, s.B, s.H});
  Tensor cn = lstm ? layer.make({s.N, s.B, s.H}) : layer.make({0});
  Tensor tape = tape_kept ? layer.make({s.T, s.B, s.N, layer.S, s.H}) : layer.make({0});
  if (s.B == 0) return {y, hn, cn, tape, keep_tape ? torch::stable::clone(y) : layer.make({0})};

  const int64_t columns = s.N * layer.G * s.H;
  const Tensor xg = layer.make({layer.rows(), columns});
  multiply(xg, view(x, {layer.rows(), layer.I}, {layer.I, 1}),
           transposed(layer.w_ih, columns, layer.I, layer.I));

  Forward p{};
  static_cast<Recurrence&>(p) = layer.recurrence;
  p.xg = xg.const_data_ptr();
  p.b_ih = data(layer.b_ih);
  p.b_hh = data(layer.b_hh);
  p.y = y.mutable_data_ptr();
  p.hn = hn.mutable_data_ptr();
  p.cn = lstm ? cn.mutable_data_ptr() : nullptr;
  p.tape = tape_kept ? tape.mutable_data_ptr() : nullptr;
  run_forward(layer, p);
  return {y, hn, cn, tape, keep_tape ? torch::stable::clone(y) : layer.make({0})};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(
    std::optional<Tensor> dy, std::optional<Tensor> dhn, std::optional<Tensor> dcn, Tensor x,
    std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, Tensor y, Tensor tape,
    std::string cell, std::vector<int64_t> reverse, bool need_dx, bool need_dstate,
    bool need_dweights, int64_t) {
  check_stuck();
  const CurrentDevice guard(x.get_device_index());
  Layer layer(x, h0, c0, weights, lengths, resets, cell, reverse);
  const Sizes& s = layer.sizes;
  const bool lstm = s.cell == Cell::kLstm;
  layer.check("y", y, {s.T, s.B, s.N, s.H});
  if (layer.S > 0) layer.check("tape", tape, {s.T, s.B, s.N, layer.S, s.H});
  layer.check("dy", dy, {s.T, s.B, s.N, s.H});
  layer.check("dhn", dhn, {s.N, s.B, s.H});
  if (lstm) layer.check("dcn", dcn, {s.N, s.B, s.H});

  Tensor dh0 = need_dstate ? layer.make({s.N, s.B, s.H}) : layer.make({0});
  Tensor dc0 = need_dstate && lstm ? layer.make({s.N, s.B, s.H}) : layer.make({0});
  const Tensor dg = layer.make({layer.rows(), s.N * layer.D * s.H});
  Backward p{};
  static_cast<Recurrence&>(p) = layer.recurrence;
  p.y = y.const_data_ptr();
  p.tape = tape.const_data_ptr();
  p.dy = data(dy);
  p.dhn = data(dhn);
  p.dcn = lstm ? data(dcn) : nullptr;
  p.dg = dg.mutable_data_ptr();
  p.dh0 = need_dstate ? dh0.mutable_data_ptr() : nullptr;
  p.dc0 = need_dstate && lstm ? dc0.mutable_data_ptr() : nullptr;
  for (const void* pointer : {p.y, p.tape, p.dy, p.dhn, p.dcn}) layer.align(pointer);
  p.paired = layer.recurrence.paired;
  if (s.B > 0) run_backward(layer, p);
  Tensor dx = need_dx ? input_grads(layer, dg) : layer.make({0});
  std::vector<Tensor> dweights;
  if (need_dweights) dweights = weight_grads(layer, x, p, dg);
  return {dx, dh0, dc0, dweights};
}

}  // namespace cuda
}  // namespace fused_rnn
