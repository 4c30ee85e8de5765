// SPDX-License-Identifier: MIT
#include <torch/csrc/stable/ops.h>

#include "../check.h"
#include "dispatch.h"
#include "layer.h"
#include "memory.h"

namespace fused_rnn {
namespace {

// Rows that are worth waking another thread for.
constexpr int64_t kRowsAtOnce = 16;

void check_rows(const Tensor& x) {
  FUSED_RNN_CHECK(x.dim() == 2, "x: expected 2 dimensions, got ", x.dim());
  check_tensor("x", x, ScalarType::Float, {x.size(0), x.size(1)});
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

}  // namespace fused_rnn
