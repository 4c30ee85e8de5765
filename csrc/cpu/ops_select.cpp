// SPDX-License-Identifier: MIT
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <span>

#include "../check.h"
#include "launch.h"
#include "memory.h"
#include "ops.h"

namespace fused_rnn::cpu {
namespace {

// Rows that are worth waking another thread for.
constexpr int64_t kRowsAtOnce = 16;

void check_rows(const Tensor& x) {
  FUSED_RNN_CHECK(x.dim() == 2, "x: expected 2 dimensions, got ", x.dim());
  check_tensor("x", x, ScalarType::Float, {x.size(0), x.size(1)});
}

// The columns that nothing is chosen from.
std::span<const int64_t> excluded_columns(const std::optional<Tensor>& excluded, int64_t columns) {
  if (!excluded) return {};
  check_tensor("excluded", *excluded, ScalarType::Long, {excluded->numel()});
  const std::span found(static_cast<const int64_t*>(excluded->const_data_ptr()),
                        size_t(excluded->numel()));
  for (const int64_t c : found) {
    FUSED_RNN_CHECK(0 <= c && c < columns, "excluded: expected columns from 0 to ", columns - 1,
                    ", got ", c);
  }
  return found;
}

}  // namespace

std::tuple<Tensor, Tensor> log_softmax(Tensor x) {
  check_rows(x);
  const int64_t rows = x.size(0), columns = x.size(1);
  Tensor y = make_recycled({rows, columns}, ScalarType::Float);
  Tensor peaks = make({rows}, ScalarType::Float);
  const LogSoftmax args{columns, static_cast<const float*>(x.const_data_ptr()),
                        static_cast<float*>(y.mutable_data_ptr()),
                        static_cast<float*>(peaks.mutable_data_ptr())};
  torch::stable::parallel_for(0, rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    kernels().log_softmax(args, begin, end);
  });
  return {y, peaks};
}

std::tuple<Tensor, Tensor> top(Tensor x, int64_t k) {
  check_rows(x);
  const int64_t rows = x.size(0), columns = x.size(1);
  FUSED_RNN_CHECK(0 < k && k <= columns, "k: expected 1 to ", columns, ", got ", k);
  Tensor values = make({rows, k}, ScalarType::Float), places = make({rows, k}, ScalarType::Long);
  const Top args{columns, k, static_cast<const float*>(x.const_data_ptr()),
                 static_cast<float*>(values.mutable_data_ptr()),
                 static_cast<int64_t*>(places.mutable_data_ptr())};
  torch::stable::parallel_for(0, rows, kRowsAtOnce,
                              [&](int64_t begin, int64_t end) { kernels().top(args, begin, end); });
  return {values, places};
}

std::tuple<Tensor, Tensor, Tensor> best(Tensor logits, int64_t k, std::optional<Tensor> excluded) {
  check_rows(logits);
  const int64_t rows = logits.size(0), columns = logits.size(1);
  FUSED_RNN_CHECK(0 < k && k <= columns, "k: expected 1 to ", columns, ", got ", k);
  const auto without = excluded_columns(excluded, columns);
  Tensor values = make({rows, k}, ScalarType::Float), places = make({rows, k}, ScalarType::Long);
  Tensor peaks = make({rows}, ScalarType::Float);
  const float* x = static_cast<const float*>(logits.const_data_ptr());
  float* peak = static_cast<float*>(peaks.mutable_data_ptr());
  float* value = static_cast<float*>(values.mutable_data_ptr());
  int64_t* place = static_cast<int64_t*>(places.mutable_data_ptr());
  const Kernels& own = kernels();
  torch::stable::parallel_for(0, rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    // One row of log-probabilities, which stays in the first cache level.
    const Workspace workspace(size_t(columns) * sizeof(float));
    float* row = reinterpret_cast<float*>(workspace.memory());
    for (int64_t r = begin; r < end; ++r) {
      own.log_softmax({columns, x + r * columns, row, peak + r}, 0, 1);
      for (const int64_t c : without) row[c] = -INFINITY;
      own.top({columns, k, row, value + r * k, place + r * k}, 0, 1);
    }
  });
  return {values, places, peaks};
}

}  // namespace fused_rnn::cpu
