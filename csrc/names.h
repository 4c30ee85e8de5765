// SPDX-License-Identifier: MIT
// Cells and dtypes as the ops name them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <string>

#include "check.h"
#include "types.h"

namespace fused_rnn {

inline Cell cell_of(const std::string& name) {
  if (name == "lstm") return Cell::kLstm;
  if (name == "gru") return Cell::kGru;
  if (name == "gru_reset_before") return Cell::kGruResetBefore;
  if (name == "rnn_tanh") return Cell::kRnnTanh;
  FUSED_RNN_CHECK(name == "rnn_relu", "cell: expected rnn_tanh, rnn_relu, gru, gru_reset_before ",
                  "or lstm, got ", name);
  return Cell::kRnnRelu;
}

inline Dtype dtype_of_type(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  if (type == ScalarType::Float) return Dtype::kFloat;
  if (type == ScalarType::Double) return Dtype::kDouble;
  if (type == ScalarType::BFloat16) return Dtype::kBf16;
  FUSED_RNN_CHECK(type == ScalarType::Half,
                  "x: expected dtype float32, float64, bfloat16 or float16, got ",
                  torch::headeronly::toString(type));
  return Dtype::kHalf;
}

inline Dtype dtype_named(const std::string& name) {
  if (name == "float32") return Dtype::kFloat;
  if (name == "float64") return Dtype::kDouble;
  if (name == "bfloat16") return Dtype::kBf16;
  FUSED_RNN_CHECK(name == "float16", "dtype: expected float32, float64, bfloat16 or float16, got ",
                  name);
  return Dtype::kHalf;
}

}  // namespace fused_rnn
