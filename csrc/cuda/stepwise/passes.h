// SPDX-License-Identifier: MIT
// The stepwise tier on the host: a batched product and a pointwise launch each step.
#pragma once

#include "../arguments.h"
#include "../kernels.h"
#include "../problem.h"

namespace fused_rnn {
namespace cuda {

void stepwise_forward(const Layer& layer, const Forward& p, StreamHandle stream);
void stepwise_backward(const Layer& layer, const Backward& p, StreamHandle stream);

}  // namespace cuda
}  // namespace fused_rnn
