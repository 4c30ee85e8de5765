// SPDX-License-Identifier: MIT
// The library of ops, registered with PyTorch for Python and for programs without it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/ops.h"
// kSchemas, which setup.py makes of fused_rnn/ops/schemas.py.
#include "schemas.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  for (const char* schema : fused_rnn::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CompositeExplicitAutograd, m) {
  m.impl("copy", TORCH_BOX(&torch::stable::clone));
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("native_forward", TORCH_BOX(&fused_rnn::cpu::forward));
  m.impl("native_backward", TORCH_BOX(&fused_rnn::cpu::backward));
  m.impl("native_cells_backward", TORCH_BOX(&fused_rnn::cpu::cells_backward));
  m.impl("native_varied_forward", TORCH_BOX(&fused_rnn::cpu::varied_forward));
  m.impl("native_varied_backward", TORCH_BOX(&fused_rnn::cpu::varied_backward));
  m.impl("native_prepack", TORCH_BOX(&fused_rnn::cpu::prepack));
  m.impl("native_prepacked_forward", TORCH_BOX(&fused_rnn::cpu::prepacked_forward));
  m.impl("native_prepacked_step", TORCH_BOX(&fused_rnn::cpu::prepacked_step));
  m.impl("native_stored_forward", TORCH_BOX(&fused_rnn::cpu::stored_forward));
  m.impl("native_prepack_linear", TORCH_BOX(&fused_rnn::cpu::prepack_linear));
  m.impl("native_prepacked_linear", TORCH_BOX(&fused_rnn::cpu::prepacked_linear));
  m.impl("native_linear", TORCH_BOX(&fused_rnn::cpu::linear));
  m.impl("native_outer", TORCH_BOX(&fused_rnn::cpu::outer));
  m.impl("native_log_softmax", TORCH_BOX(&fused_rnn::cpu::log_softmax));
  m.impl("native_top", TORCH_BOX(&fused_rnn::cpu::top));
  m.impl("native_best", TORCH_BOX(&fused_rnn::cpu::best));
  m.impl("native_advance", TORCH_BOX(&fused_rnn::cpu::advance));
  m.impl("native_outlive", TORCH_BOX(&fused_rnn::cpu::outlive));
}
