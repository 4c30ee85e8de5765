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

Tensor linear(Tensor x, Tensor w, std::optional<Tensor> b, bool transposed) {
  FUSED_RNN_CHECK(x.dim() == 2, "x: expected 2 dimensions, got ", x.dim());
  FUSED_RNN_CHECK(w.dim() == 2, "w: expected 2 dimensions, got ", w.dim());
  const ScalarType dtype = x.scalar_type();
  Linear args{};
  args.rows = x.size(0);
  args.I = x.size(1);
  args.O = w.size(transposed ? 1 : 0);
  args.dtype = dtype_of_type(dtype);
  args.transposed = transposed;
  check_tensor("x", x, dtype, {args.rows, args.I});
  check_tensor("w", w, dtype, {transposed ? args.I : args.O, transposed ? args.O : args.I});
  check_optional("b", b, dtype, {args.O});
  // The gradient of an input may be the user's; the input's part of the gates is nobody's.
  Tensor y =
      transposed ? make({args.rows, args.O}, dtype) : make_recycled({args.rows, args.O}, dtype);
  args.x = x.const_data_ptr();
  args.w = w.const_data_ptr();
  args.b = b ? b->const_data_ptr() : nullptr;
  args.y = y.mutable_data_ptr();
  const Kernels& k = varied_kernels(args.dtype);
  const Workspace workspace(k.linear_workspace(args));
  run_team(team_size(double(args.rows) * double(args.I) * double(args.O)),
           [&](Team& team, int rank) { k.linear(args, workspace.memory(), team, rank); });
  return y;
}

Tensor outer(Tensor a, Tensor b) {
  FUSED_RNN_CHECK(a.dim() == 3, "a: expected 3 dimensions, got ", a.dim());
  FUSED_RNN_CHECK(b.dim() == 3, "b: expected 3 dimensions, got ", b.dim());
  const ScalarType dtype = a.scalar_type();
  FUSED_RNN_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "a: expected dtype float32 or float64, got ", torch::headeronly::toString(dtype));
  Outer args{a.size(0), a.size(1), a.size(2), b.size(2), dtype_of_type(dtype),
             nullptr,   nullptr,   nullptr};
  check_tensor("a", a, dtype, {args.rows, args.N, args.A});
  check_tensor("b", b, dtype, {args.rows, args.N, args.B});
  Tensor out = make({args.N, args.A, args.B}, dtype);
  args.a = a.const_data_ptr();
  args.b = b.const_data_ptr();
  args.out = out.mutable_data_ptr();
  const Kernels& k = varied_kernels(args.dtype);
  const int threads = team_size(double(args.rows) * double(args.N * args.A) * double(args.B));
  const Workspace workspace(k.outer_workspace(args, threads));
  run_team(threads, [&](Team& team, int rank) { k.outer(args, workspace.memory(), team, rank); });
  return out;
}

}  // namespace fused_rnn::cpu
