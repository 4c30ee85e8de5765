// SPDX-License-Identifier: MIT
// The tensors of a call, checked, as sizes and pointers for the kernels.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../check.h"
#include "../names.h"
#include "launch.h"
#include "memory.h"

namespace fused_rnn::cpu {

inline const void* data(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

// T and B of an x (T, B, I), or of one of compact rows.
struct Extent {
  int64_t T, B;
  bool compact;  // x is (rows, I), and lengths fall
};

inline Extent extent_of(const Tensor& x, const std::optional<Tensor>& lengths) {
  if (x.dim() == 3) return {x.size(0), x.size(1), false};
  FUSED_RNN_CHECK(x.dim() == 2 && lengths,
                  "x: expected 3 dimensions, or 2 of packed rows with lengths, got ", x.dim());
  FUSED_RNN_CHECK(lengths->dim() == 1, "lengths: expected 1 dimension, got ", lengths->dim());
  const int64_t B = lengths->size(0);
  check_tensor("lengths", *lengths, ScalarType::Long, {B});
  const int64_t* steps = static_cast<const int64_t*>(lengths->const_data_ptr());
  FUSED_RNN_CHECK(
      std::is_sorted(steps, steps + B, std::greater<>()) && (B == 0 || steps[B - 1] > 0),
      "lengths: expected falling ones, the last at least 1, of packed rows");
  // A row's steps are rows of x: more would be memory for nothing.
  FUSED_RNN_CHECK(B == 0 || steps[0] <= x.size(0), "lengths: expected at most ", x.size(0),
                  " steps, the rows of x, got ", steps[0]);
  return {B > 0 ? steps[0] : 1, B, true};
}

// A layer's sizes, and the rows of one call.
struct Layer {
  Shape shape;
  ScalarType dtype;
  bool compact;
  std::vector<int64_t> row_memory;
  Rows rows;

  // The rows of x, of a layer of these sizes, checked.
  void take_rows(const Shape& sizes, bool compact_rows, const Tensor& x,
                 const std::optional<Tensor>& lengths, const std::optional<Tensor>& resets) {
    shape = sizes;
    dtype = x.scalar_type();
    compact = compact_rows;
    FUSED_RNN_CHECK(shape.T > 0, "x: expected at least one step, got none");
    check_optional("lengths", lengths, ScalarType::Long, {shape.B});
    order_rows(lengths ? static_cast<const int64_t*>(lengths->const_data_ptr()) : nullptr);
    if (resets) check_tensor("resets", *resets, ScalarType::Bool, over_rows({}));
    rows.resets = static_cast<const uint8_t*>(data(resets));
  }

  // The shape of what every row of x has so many of.
  std::vector<int64_t> over_rows(std::initializer_list<int64_t> each) const {
    std::vector<int64_t> result{shape.T, shape.B};
    if (compact) result = {rows.count};
    result.insert(result.end(), each);
    return result;
  }

  // Longest rows first, so that the rows still active at a step are the first ones.
  void order_rows(const int64_t* given) {
    const int64_t T = shape.T, B = shape.B;
    row_memory.assign(size_t(3 * B + 2 * T), 0);
    int64_t *order = row_memory.data(), *length_at = order + B, *length_of = length_at + B;
    int64_t *active = length_of + B, *begin = active + T;
    for (int64_t b = 0; b < B; ++b) {
      order[b] = b;
      length_of[b] = given ? std::clamp<int64_t>(given[b], 0, T) : T;
    }
    if (given) {
      // Of equal lengths the first row first. (clang 19 warns of std::stable_sort, of gcc 12's.)
      std::sort(order, order + B, [&](int64_t a, int64_t b) {
        return std::pair(length_of[a], b) > std::pair(length_of[b], a);
      });
    }
    for (int64_t p = 0; p < B; ++p) length_at[p] = length_of[order[p]];
    int64_t count = 0;
    for (int64_t t = 0, p = B; t < T; ++t) {
      while (p > 0 && length_at[p - 1] <= t) --p;
      active[t] = p;
      begin[t] = count;
      count += compact ? p : B;
    }
    rows = Rows{order, length_at, active, length_of, begin, count, nullptr};
  }

  double multiply_adds() const {
    double steps = 0;
    for (int64_t b = 0; b < shape.B; ++b) steps += double(rows.length_of[b]);
    return steps * double(shape.N * gate_count(shape.cell) * shape.H * (shape.I + shape.P));
  }

  // Sizes, rows and tensors of a forward pass; the weights are the caller's to add.
  Forward forward(const Tensor& x, const std::optional<Tensor>& h0, const std::optional<Tensor>& c0,
                  Tensor& y, Tensor& hn, std::optional<Tensor>& cn) const {
    Forward args{};
    args.shape = shape;
    args.rows = rows;
    args.x = x.const_data_ptr();
    args.h0 = data(h0);
    args.c0 = data(c0);
    args.y = y.mutable_data_ptr();
    args.hn = hn.mutable_data_ptr();
    args.cn = cn ? cn->mutable_data_ptr() : nullptr;
    return args;
  }
};

// One with its weights, one recurrence's behind another's, checked.
struct WeightedLayer : Layer {
  int per_recurrence;
  bool bias;
  std::vector<Weights> weights;

  WeightedLayer(const Tensor& x, const std::vector<Tensor>& tensors,
                const std::vector<int64_t>& reverse, const std::string& cell_name,
                const std::optional<Tensor>& lengths, const std::optional<Tensor>& resets) {
    const Cell cell = cell_of(cell_name);
    const int64_t N = int64_t(reverse.size());
    FUSED_RNN_CHECK(N > 0 && !tensors.empty() && tensors.size() % reverse.size() == 0,
                    "weights: expected the same number for each of ", N, " recurrences, got ",
                    tensors.size());
    per_recurrence = int(tensors.size() / reverse.size());
    bias = per_recurrence >= 4;
    const bool projected = per_recurrence % 2 == 1;
    FUSED_RNN_CHECK(per_recurrence == 2 || per_recurrence == 4 ||
                        (cell == Cell::kLstm && (per_recurrence == 3 || per_recurrence == 5)),
                    "weights: expected 2 or 4 a recurrence, 3 or 5 with a projection, got ",
                    per_recurrence);
    FUSED_RNN_CHECK(tensors[0].dim() == 2 && tensors[1].dim() == 2,
                    "weights: expected matrices first");
    const int64_t G = gate_count(cell);
    const Extent extent = extent_of(x, lengths);
    const int64_t I = x.size(x.dim() - 1), H = tensors[0].size(0) / G, P = tensors[1].size(1);
    const Dtype kind = dtype_of_type(x.scalar_type());
    const Shape sizes{extent.T, extent.B, I, H, P, N, cell, kind, projected};
    FUSED_RNN_CHECK(projected || sizes.P == sizes.H, "weights: expected w_hh of shape ",
                    shape_text(std::array<int64_t, 2>{G * sizes.H, sizes.H}), ", got ",
                    shape_text(tensors[1].sizes()));
    take_rows(sizes, extent.compact, x, lengths, resets);
    check_tensor("x", x, dtype, over_rows({shape.I}));
    for (int64_t n = 0; n < N; ++n) {
      add_weights(tensors.data() + n * per_recurrence, G * shape.H);
    }
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
};

inline void run_forward(const Layer& layer, const Kernels& k, const Forward& args) {
  const int threads = team_size(layer.multiply_adds());
  const Workspace workspace(k.forward_workspace(args, threads));
  run_team(threads, [&](Team& team, int rank) { k.forward(args, workspace.memory(), team, rank); });
}

}  // namespace fused_rnn::cpu
