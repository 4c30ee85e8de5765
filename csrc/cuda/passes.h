// SPDX-License-Identifier: MIT
// The recurrence by the tier that the planner picks, and the products behind the reverse loop.
#pragma once

#include <vector>

#include "arguments.h"
#include "problem.h"

namespace fused_rnn {
namespace cuda {

void run_forward(const Layer& layer, const Forward& p);
void run_backward(const Layer& layer, const Backward& p);

// Both read dG, (T*B, N*D*H). dx is (T, B, I); the weights' gradients stand in the order given.
Tensor input_grads(const Layer& layer, const Tensor& dg);
std::vector<Tensor> weight_grads(const Layer& layer, const Tensor& x, const Backward& p,
                                 const Tensor& dg);

}  // namespace cuda
}  // namespace fused_rnn
