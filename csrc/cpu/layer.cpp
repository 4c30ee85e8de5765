// SPDX-License-Identifier: MIT
#include "layer.h"

#include <algorithm>
#include <array>

#include "../check.h"
#include "../names.h"
#include "dispatch.h"
#include "memory.h"
#include "prepacked.h"

namespace fused_rnn {
namespace {

// State, sums and tape: float32, or float64 for float64.
ScalarType tape_type(const Shape& shape) {
  return shape.dtype == Dtype::kDouble ? ScalarType::Double : ScalarType::Float;
}

const void* data(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

// The tensors of a layer with one recurrence's weights behind another's, checked.
struct Layer {
  Shape shape;
  int per_recurrence;
  bool bias;
  ScalarType dtype;
  std::vector<Weights> weights;
  std::vector<int64_t> row_memory;
  Rows rows;

  Layer(const Tensor& x, const std::vector<Tensor>& tensors, const std::vector<int64_t>& reverse,
        const std::string& cell_name, const std::optional<Tensor>& lengths,
        const std::optional<Tensor>& resets) {
    const Cell cell = cell_of(cell_name);
    const int64_t N = int64_t(reverse.size());
    STD_TORCH_CHECK(N > 0 && !tensors.empty() && tensors.size() % reverse.size() == 0,
                    "weights: expected the same number for each of ", N, " recurrences, got ",
                    tensors.size());
    per_recurrence = int(tensors.size() / reverse.size());
    bias = per_recurrence >= 4;
    const bool projected = per_recurrence % 2 == 1;
    STD_TORCH_CHECK(per_recurrence == 2 || per_recurrence == 4 ||
                        (cell == Cell::kLstm && (per_recurrence == 3 || per_recurrence == 5)),
                    "weights: expected 2 or 4 a recurrence, 3 or 5 with a projection, got ",
                    per_recurrence);
    STD_TORCH_CHECK(x.dim() == 3, "x: expected 3 dimensions, got ", x.dim());
    STD_TORCH_CHECK(tensors[0].dim() == 2 && tensors[1].dim() == 2,
                    "weights: expected matrices first");
    const int64_t G = gate_count(cell);
    shape = Shape{x.size(0),          x.size(1), x.size(2), tensors[0].size(0) / G,
                  tensors[1].size(1), N,         cell,      dtype_of_type(x.scalar_type()),
                  projected};
    dtype = x.scalar_type();
    check_tensor("x", x, dtype, {shape.T, shape.B, shape.I});
    STD_TORCH_CHECK(shape.T > 0, "x: expected at least one step, got shape ",
                    shape_text(x.sizes()));
    STD_TORCH_CHECK(projected || shape.P == shape.H, "weights: expected w_hh of shape ",
                    shape_text(std::array<int64_t, 2>{G * shape.H, shape.H}), ", got ",
                    shape_text(tensors[1].sizes()));
    for (int64_t n = 0; n < N; ++n) {
      add_weights(tensors.data() + n * per_recurrence, G * shape.H);
    }
    check_optional("lengths", lengths, ScalarType::Long, {shape.B});
    check_optional("resets", resets, ScalarType::Bool, {shape.T, shape.B});
    order_rows(lengths ? static_cast<const int64_t*>(lengths->const_data_ptr()) : nullptr);
    rows.resets = static_cast<const uint8_t*>(data(resets));
  }

  void add_weights(const Tensor* w, int64_t gates) {
    check_tensor("w_ih", w[0], dtype, {gates, shape.I});
    check_tensor("w_hh", w[1], dtype, {gates, shape.P});
    Weights pointers{w[0].const_data_ptr(), w[1].const_data_ptr(), nullptr, nullptr, nullptr};
    if (bias) {
      check_tensor("b_ih", w[2], dtype, {gates});
      check_tensor("b_hh", w[3], dtype, {gates});
      pointers.b_ih = w[2].const_data_ptr();
      pointers.b_hh = w[3].const_data_ptr();
    }
    if (shape.projected) {
      check_tensor("w_hr", w[per_recurrence - 1], dtype, {shape.P, shape.H});
      pointers.w_hr = w[per_recurrence - 1].const_data_ptr();
    }
    weights.push_back(pointers);
  }

  // Longest rows first, so that the rows still active at a step are the first ones.
  void order_rows(const int64_t* given) {
    const int64_t T = shape.T, B = shape.B;
    row_memory.assign(size_t(3 * B + T), 0);
    int64_t *order = row_memory.data(), *length = order + B, *by_row = length + B;
    int64_t* active = by_row + B;
    for (int64_t b = 0; b < B; ++b) {
      order[b] = b;
      by_row[b] = given ? std::clamp<int64_t>(given[b], 0, T) : T;
    }
    if (given) {
      std::stable_sort(order, order + B,
                       [&](int64_t a, int64_t b) { return by_row[a] > by_row[b]; });
    }
    for (int64_t p = 0; p < B; ++p) length[p] = by_row[order[p]];
    for (int64_t t = 0, p = B; t < T; ++t) {
      while (p > 0 && length[p - 1] <= t) --p;
      active[t] = p;
    }
    rows = Rows{order, length, active, by_row, nullptr};
  }

  double multiply_adds() const {
    double steps = 0;
    for (int64_t b = 0; b < shape.B; ++b) steps += double(rows.length[b]);
    return steps * double(shape.N * gate_count(shape.cell) * shape.H * (shape.I + shape.P));
  }
};

// The forward pass; `prepacked`, if not null, in the place of the weights.
std::tuple<Tensor, Tensor, Tensor, Tensor> run_forward(const Layer& layer, const Tensor& x,
                                                       const std::optional<Tensor>& h0,
                                                       const std::optional<Tensor>& c0,
                                                       const std::vector<int64_t>& reverse,
                                                       bool keep_tape, const Tensor* prepacked) {
  const Shape& s = layer.shape;
  const bool lstm = s.cell == Cell::kLstm;
  const int64_t slots = tape_slots(s.cell, is_half(s.dtype));
  check_optional("h0", h0, layer.dtype, {s.N, s.B, s.P});
  check_optional("c0", c0, layer.dtype, {s.N, s.B, s.H});

  Tensor y = make({s.T, s.B, s.N, s.P}, layer.dtype);
  Tensor hn = make({s.N, s.B, s.P}, layer.dtype);
  Tensor cn = lstm ? make({s.N, s.B, s.H}, layer.dtype) : make({0}, layer.dtype);
  const bool tape_kept = keep_tape && slots > 0;
  Tensor tape = tape_kept ? make_recycled({s.T, s.B, s.N, slots, s.H}, tape_type(s))
                          : make({0}, tape_type(s));
  if (s.B == 0) return {y, hn, cn, tape};

  Forward args{s,
               layer.rows,
               layer.weights.data(),
               reverse.data(),
               x.const_data_ptr(),
               data(h0),
               data(c0),
               y.mutable_data_ptr(),
               hn.mutable_data_ptr(),
               lstm ? cn.mutable_data_ptr() : nullptr,
               tape_kept ? tape.mutable_data_ptr() : nullptr,
               nullptr,
               0};
  const Kernels& k = kernels();
  if (prepacked) {
    args.prepacked_bytes = int64_t(k.prepacked_bytes(args));
    args.prepacked = prepacked_memory(*prepacked, s.N * args.prepacked_bytes);
  }
  const int threads = team_size(layer.multiply_adds());
  const Workspace workspace(k.forward_workspace(args, threads));
  run_team(threads, [&](Team& team, int rank) { k.forward(args, workspace.memory(), team, rank); });
  return {y, hn, cn, tape};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(Tensor x, std::optional<Tensor> h0,
                                                   std::optional<Tensor> c0,
                                                   std::vector<Tensor> weights,
                                                   std::optional<Tensor> lengths,
                                                   std::optional<Tensor> resets, std::string cell,
                                                   std::vector<int64_t> reverse, bool keep_tape) {
  return run_forward({x, weights, reverse, cell, lengths, resets}, x, h0, c0, reverse, keep_tape,
                     nullptr);
}

Tensor prepack(std::vector<Tensor> weights, std::string cell, int64_t recurrences) {
  STD_TORCH_CHECK(recurrences > 0 && !weights.empty() && weights[0].dim() == 2,
                  "weights: expected matrices first, of at least one recurrence");
  // No steps of no rows.
  const Tensor x = make({1, 0, weights[0].size(1)}, weights[0].scalar_type());
  const Layer layer(x, weights, std::vector<int64_t>(size_t(recurrences)), cell, {}, {});
  Forward args{};
  args.shape = layer.shape;
  args.weights = layer.weights.data();
  args.prepacked_bytes = int64_t(kernels().prepacked_bytes(args));
  Tensor packed = make_prepacked(layer.shape.N * args.prepacked_bytes);
  kernels().prepack(args, prepacked_memory(packed));
  return packed;
}

std::tuple<Tensor, Tensor, Tensor> prepacked_forward(Tensor x, std::optional<Tensor> h0,
                                                     std::optional<Tensor> c0, Tensor prepacked,
                                                     std::vector<Tensor> weights,
                                                     std::optional<Tensor> lengths,
                                                     std::optional<Tensor> resets, std::string cell,
                                                     std::vector<int64_t> reverse) {
  auto [y, hn, cn, tape] = run_forward({x, weights, reverse, cell, lengths, resets}, x, h0, c0,
                                       reverse, false, &prepacked);
  return {y, hn, cn};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(
    std::optional<Tensor> dy, std::optional<Tensor> dhn, std::optional<Tensor> dcn, Tensor x,
    std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, Tensor y, Tensor tape,
    std::string cell, std::vector<int64_t> reverse, bool need_dx, bool need_dstate,
    bool need_dweights) {
  const Layer layer(x, weights, reverse, cell, lengths, resets);
  const Shape& s = layer.shape;
  const bool lstm = s.cell == Cell::kLstm;
  const int64_t slots = tape_slots(s.cell, is_half(s.dtype));
  check_optional("h0", h0, layer.dtype, {s.N, s.B, s.P});
  check_optional("c0", c0, layer.dtype, {s.N, s.B, s.H});
  check_tensor("y", y, layer.dtype, {s.T, s.B, s.N, s.P});
  if (slots > 0) check_tensor("tape", tape, tape_type(s), {s.T, s.B, s.N, slots, s.H});
  check_optional("dy", dy, layer.dtype, {s.T, s.B, s.N, s.P});
  check_optional("dhn", dhn, layer.dtype, {s.N, s.B, s.P});
  if (lstm) check_optional("dcn", dcn, layer.dtype, {s.N, s.B, s.H});

  Tensor dx = need_dx ? make({s.T, s.B, s.I}, layer.dtype) : make({0}, layer.dtype);
  Tensor dh0 = need_dstate ? make({s.N, s.B, s.P}, layer.dtype) : make({0}, layer.dtype);
  Tensor dc0 = need_dstate && lstm ? make({s.N, s.B, s.H}, layer.dtype) : make({0}, layer.dtype);
  std::vector<Tensor> dweights;
  std::vector<WeightGrads> grads;
  for (int64_t n = 0; need_dweights && n < s.N; ++n) {
    const Tensor* w = weights.data() + n * layer.per_recurrence;
    void* pointers[5] = {};
    for (int i = 0; i < layer.per_recurrence; ++i) {
      dweights.push_back(make(w[i].sizes().data(), size_t(w[i].dim()), layer.dtype));
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
                      need_dx ? dx.mutable_data_ptr() : nullptr,
                      need_dstate ? dh0.mutable_data_ptr() : nullptr,
                      need_dstate && lstm ? dc0.mutable_data_ptr() : nullptr,
                      need_dweights ? grads.data() : nullptr};
  const Kernels& k = kernels();
  const int threads = team_size(3 * layer.multiply_adds());
  const Workspace workspace(k.backward_workspace(args, threads));
  run_team(threads,
           [&](Team& team, int rank) { k.backward(args, workspace.memory(), team, rank); });
  return {dx, dh0, dc0, dweights};
}

}  // namespace fused_rnn
