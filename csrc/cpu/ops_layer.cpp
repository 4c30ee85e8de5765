// SPDX-License-Identifier: MIT
#include "arguments.h"
#include "ops.h"

namespace fused_rnn::cpu {
namespace {

// State, sums and tape: float32, or float64 for float64.
ScalarType tape_type(const Shape& shape) {
  return shape.dtype == Dtype::kDouble ? ScalarType::Double : ScalarType::Float;
}

Precision precision_of(int64_t products) {
  FUSED_RNN_CHECK(products == 6 || products == 3 || products == 1,
                  "products: expected 6, 3 or 1, got ", products);
  return products == 6   ? Precision::kHighest
         : products == 3 ? Precision::kHigh
                         : Precision::kMedium;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, std::string cell,
    std::vector<int64_t> reverse, bool keep_tape, int64_t products) {
  WeightedLayer layer(x, weights, reverse, cell, lengths, resets);
  layer.shape.precision = precision_of(products);
  const Shape& s = layer.shape;
  const int64_t slots = tape_slots(s.cell, is_half(s.dtype));
  check_optional("h0", h0, layer.dtype, {s.N, s.B, s.P});
  check_optional("c0", c0, layer.dtype, {s.N, s.B, s.H});

  Tensor y = make(layer.over_rows({s.N, s.P}), layer.dtype);
  Tensor hn = make({s.N, s.B, s.P}, layer.dtype);
  std::optional<Tensor> cn;
  if (s.cell == Cell::kLstm) cn = make({s.N, s.B, s.H}, layer.dtype);
  const bool tape_kept = keep_tape && slots > 0;
  Tensor tape = tape_kept ? make_recycled(layer.over_rows({s.N, slots, s.H}), tape_type(s))
                          : make({0}, tape_type(s));
  if (s.B > 0) {
    Forward args = layer.forward(x, h0, c0, y, hn, cn);
    args.weights = layer.weights.data();
    args.reverse = reverse.data();
    args.tape = tape_kept ? tape.mutable_data_ptr() : nullptr;
    run_forward(layer, layer_kernels(s), args);
  }
  const auto none = [&] { return make({0}, layer.dtype); };
  return {y, hn, cn ? *cn : none(), tape, keep_tape ? copy_on_write(y) : none()};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> cells_backward(
    std::optional<Tensor> dcells, std::optional<Tensor> dy, std::optional<Tensor> dhn,
    std::optional<Tensor> dcn, Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0,
    std::vector<Tensor> weights, std::optional<Tensor> lengths, std::optional<Tensor> resets,
    Tensor y, Tensor tape, std::string cell, std::vector<int64_t> reverse, bool need_dx,
    bool need_dstate, bool need_dweights, int64_t products) {
  WeightedLayer layer(x, weights, reverse, cell, lengths, resets);
  layer.shape.precision = precision_of(products);
  const Shape& s = layer.shape;
  const bool lstm = s.cell == Cell::kLstm;
  const int64_t slots = tape_slots(s.cell, is_half(s.dtype));
  check_optional("h0", h0, layer.dtype, {s.N, s.B, s.P});
  check_optional("c0", c0, layer.dtype, {s.N, s.B, s.H});
  check_tensor("y", y, layer.dtype, layer.over_rows({s.N, s.P}));
  if (slots > 0) check_tensor("tape", tape, tape_type(s), layer.over_rows({s.N, slots, s.H}));
  check_optional("dy", dy, layer.dtype, layer.over_rows({s.N, s.P}));
  check_optional("dhn", dhn, layer.dtype, {s.N, s.B, s.P});
  if (lstm) check_optional("dcn", dcn, layer.dtype, {s.N, s.B, s.H});
  FUSED_RNN_CHECK(lstm || !dcells, "dcells: expected it of an LSTM, got ", cell);
  check_optional("dcells", dcells, tape_type(s), layer.over_rows({s.N, s.H}));

  Tensor dx = need_dx ? make(x.sizes(), layer.dtype) : make({0}, layer.dtype);
  Tensor dh0 = need_dstate ? make({s.N, s.B, s.P}, layer.dtype) : make({0}, layer.dtype);
  Tensor dc0 = need_dstate && lstm ? make({s.N, s.B, s.H}, layer.dtype) : make({0}, layer.dtype);
  std::vector<Tensor> dweights;
  std::vector<WeightGrads> grads;
  for (int64_t n = 0; need_dweights && n < s.N; ++n) {
    const Tensor* w = weights.data() + n * layer.per_recurrence;
    void* pointers[5] = {};
    for (int i = 0; i < layer.per_recurrence; ++i) {
      dweights.push_back(make(w[i].sizes(), layer.dtype));
      pointers[i] = dweights.back().mutable_data_ptr();
    }
    grads.push_back(WeightGrads{pointers[0], pointers[1], layer.bias ? pointers[2] : nullptr,
                                layer.bias ? pointers[3] : nullptr,
                                s.projected ? pointers[layer.per_recurrence - 1] : nullptr});
  }

  const Backward args{s,
                      layer.rows,
                      layer.weights.data(),
                      reverse.data(),
                      x.const_data_ptr(),
                      data(h0),
                      data(c0),
                      y.const_data_ptr(),
                      tape.const_data_ptr(),
                      data(dy),
                      data(dhn),
                      lstm ? data(dcn) : nullptr,
                      data(dcells),
                      need_dx ? dx.mutable_data_ptr() : nullptr,
                      need_dstate ? dh0.mutable_data_ptr() : nullptr,
                      need_dstate && lstm ? dc0.mutable_data_ptr() : nullptr,
                      need_dweights ? grads.data() : nullptr};
  const Kernels& k = layer_kernels(s);
  const int threads = team_size(3 * layer.multiply_adds());
  const Workspace workspace(k.backward_workspace(args, threads));
  run_team(threads,
           [&](Team& team, int rank) { k.backward(args, workspace.memory(), team, rank); });
  return {dx, dh0, dc0, dweights};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(
    std::optional<Tensor> dy, std::optional<Tensor> dhn, std::optional<Tensor> dcn, Tensor x,
    std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, Tensor y, Tensor tape,
    std::string cell, std::vector<int64_t> reverse, bool need_dx, bool need_dstate,
    bool need_dweights, int64_t products) {
  return cells_backward(std::nullopt, dy, dhn, dcn, x, h0, c0, weights, lengths, resets, y, tape,
                        cell, reverse, need_dx, need_dstate, need_dweights, products);
}

}  // namespace fused_rnn::cpu
