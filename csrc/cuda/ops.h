// SPDX-License-Identifier: MIT
// The ops of the CUDA backend; schemas in fused_rnn/ops/schemas.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace fused_rnn {
namespace cuda {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, std::string cell,
    std::vector<int64_t> reverse, bool keep_tape, int64_t /* products: float32 is exact */);

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(
    std::optional<Tensor> dy, std::optional<Tensor> dhn, std::optional<Tensor> dcn, Tensor x,
    std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, Tensor y, Tensor tape,
    std::string cell, std::vector<int64_t> reverse, bool need_dx, bool need_dstate,
    bool need_dweights, int64_t);

}  // namespace cuda
}  // namespace fused_rnn
