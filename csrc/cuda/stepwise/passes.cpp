// SPDX-License-Identifier: MIT
#include "passes.h"

#include <cstdint>

#include "../runtime.h"

namespace fused_rnn {
namespace cuda {

void stepwise_forward(const Layer& layer, const Forward& p, StreamHandle stream) {
  const Sizes& s = layer.sizes;
  const int64_t H = s.H, G = layer.G;
  const bool before = s.cell == Cell::kGruResetBefore, lstm = s.cell == Cell::kLstm;
  const int64_t gates = before ? 2 : G;
  const Tensor h = layer.make_wide({s.N, s.B, H}), operand = layer.make({s.N, s.B, H});
  const Tensor c = layer.make_wide({lstm ? s.N : 0, s.B, H});
  const Tensor sums = layer.make({s.N, s.B, gates * H});
  const Tensor sum_n = layer.make({before ? s.N : 0, s.B, H});
  const Tensor saved = layer.make_wide({before ? s.N : 0, s.B, 2, H});
  const Tensor w = view(layer.w_hh, {s.N, H, gates * H}, {G * H * H, 1, H});
  const StepForward q{p,
                      h.mutable_data_ptr(),
                      lstm ? c.mutable_data_ptr() : nullptr,
                      operand.mutable_data_ptr(),
                      sums.const_data_ptr(),
                      sum_n.const_data_ptr(),
                      saved.mutable_data_ptr()};
  check_launch(start_forward(q, stream));
  for (int k = 0; k < s.T; ++k) {
    multiply_batch(sums, operand, w);
    if (before) {
      check_launch(step_gates(q, k, stream));
      multiply_batch(sum_n, operand, view(layer.w_hh, {s.N, H, H}, {G * H * H, 1, H}, 2 * H * H));
    }
    check_launch(step_forward(q, k, stream));
  }
}

void stepwise_backward(const Layer& layer, const Backward& p, StreamHandle stream) {
  const Sizes& s = layer.sizes;
  const int64_t H = s.H, G = layer.G;
  const bool before = s.cell == Cell::kGruResetBefore, lstm = s.cell == Cell::kLstm;
  const int64_t gates = before ? 2 : G;
  const Tensor dh = layer.make_wide({s.N, s.B, H}), product = layer.make({s.N, s.B, H});
  const Tensor dc = layer.make_wide({lstm ? s.N : 0, s.B, H});
  const Tensor operand = layer.make({s.N, s.B, gates * H});
  const Tensor operand_n = layer.make({before ? s.N : 0, s.B, H});
  const Tensor d_reset_h = layer.make({before ? s.N : 0, s.B, H});
  const Tensor w = view(layer.w_hh, {s.N, gates * H, H}, {G * H * H, H, 1});
  const StepBackward q{p,
                       dh.mutable_data_ptr(),
                       lstm ? dc.mutable_data_ptr() : nullptr,
                       operand.mutable_data_ptr(),
                       operand_n.mutable_data_ptr(),
                       product.const_data_ptr(),
                       d_reset_h.const_data_ptr()};
  for (int k = s.T - 1; k >= 0; --k) {
    check_launch(step_backward(q, k, stream));
    if (before) {
      multiply_batch(d_reset_h, operand_n,
                     view(layer.w_hh, {s.N, H, H}, {G * H * H, H, 1}, 2 * H * H));
      check_launch(step_gates_backward(q, k, stream));
    }
    multiply_batch(product, operand, w);
  }
  if (p.dh0 || p.dc0) check_launch(finish_backward(q, stream));
}

}  // namespace cuda
}  // namespace fused_rnn
