// SPDX-License-Identifier: MIT
#include "../check.h"
#include "../names.h"
#include "launch.h"
#include "memory.h"
#include "ops.h"
#include "packed_weights.h"

namespace fused_rnn::cpu {

Tensor prepack_linear(Tensor weight, std::optional<Tensor> bias) {
  FUSED_RNN_CHECK(weight.dim() == 2, "weight: expected 2 dimensions, got ", weight.dim());
  const int64_t O = weight.size(0), I = weight.size(1);
  check_tensor("weight", weight, weight.scalar_type(), {O, I});
  check_optional("bias", bias, weight.scalar_type(), {O});
  Linear args{};
  args.I = I;
  args.O = O;
  args.dtype = dtype_of_type(weight.scalar_type());
  args.w = weight.const_data_ptr();
  args.b = bias ? bias->const_data_ptr() : nullptr;
  const Kernels& k = packed_kernels(args.dtype, I, O);
  Tensor packed = make_prepacked(PackOf::kLinear, k, int64_t(k.prepacked_linear_bytes(args)));
  k.prepack_linear(args, prepacked_memory(packed));
  return packed;
}

Tensor prepacked_linear(Tensor x, Tensor prepacked, int64_t columns) {
  FUSED_RNN_CHECK(x.dim() == 2, "x: expected 2 dimensions, got ", x.dim());
  FUSED_RNN_CHECK(columns > 0, "columns: expected at least 1, got ", columns);
  const int64_t rows = x.size(0);
  check_tensor("x", x, x.scalar_type(), {rows, x.size(1)});
  Tensor y = make({rows, columns}, x.scalar_type());
  Linear args{};
  args.rows = rows;
  args.I = x.size(1);
  args.O = columns;
  args.dtype = dtype_of_type(x.scalar_type());
  args.x = x.const_data_ptr();
  args.y = y.mutable_data_ptr();
  const Kernels& k = packed_kernels(args.dtype, args.I, args.O);
  const std::string_view packed = prepacked_bytes(PackOf::kLinear, prepacked);
  check_prepacked(prepacked, k, int64_t(k.prepacked_linear_bytes(args)));
  args.prepacked = packed.data();
  const Workspace workspace(k.linear_workspace(args));
  run_team(team_size(double(rows) * double(args.I) * double(columns)),
           [&](Team& team, int rank) { k.linear(args, workspace.memory(), team, rank); });
  return y;
}

}  // namespace fused_rnn::cpu
