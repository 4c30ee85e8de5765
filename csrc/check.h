// SPDX-License-Identifier: MIT
// Checks of what would be unsafe to run with: name, expected, got.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fused_rnn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

template <class... Parts>
std::string joined(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// RuntimeError, with the parts for its message, unless the condition holds. PyTorch's own check
// would begin the message with a function and a file of the machine that built this.
#define FUSED_RNN_CHECK(condition, ...)                           \
  do {                                                            \
    if (!(condition)) [[unlikely]] {                              \
      throw std::runtime_error(::fused_rnn::joined(__VA_ARGS__)); \
    }                                                             \
  } while (false)

inline std::string shape_text(Sizes sizes) {
  std::string text = "(";
  for (const int64_t size : sizes) text += std::to_string(size) + ", ";
  if (text.size() > 1) text.resize(text.size() - 2);
  return text + ")";
}

// Everything but the device.
inline void check_form(const char* name, const Tensor& tensor, ScalarType dtype, Sizes shape) {
  FUSED_RNN_CHECK(tensor.scalar_type() == dtype, name, ": expected dtype ",
                  torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  const Sizes sizes = tensor.sizes();
  FUSED_RNN_CHECK(sizes.equals(shape), name, ": expected shape ", shape_text(shape), ", got ",
                  shape_text(sizes));
  FUSED_RNN_CHECK(tensor.is_contiguous(), name, ": expected a contiguous tensor, got strides ",
                  shape_text(tensor.strides()));
}

inline void check_tensor(const char* name, const Tensor& tensor, ScalarType dtype, Sizes shape) {
  FUSED_RNN_CHECK(tensor.is_cpu(), name, ": expected a CPU tensor");
  check_form(name, tensor, dtype, shape);
}

inline void check_optional(const char* name, const std::optional<Tensor>& tensor, ScalarType dtype,
                           Sizes shape) {
  if (tensor) check_tensor(name, *tensor, dtype, shape);
}

}  // namespace fused_rnn
