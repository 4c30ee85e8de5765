// SPDX-License-Identifier: MIT
// What Python sees: the ops, registered with PyTorch, and a module of build information.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include <map>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/layer.h"
#include "cuda/planner.h"
#include "names.h"

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("native_forward", TORCH_BOX(&fused_rnn::forward));
  m.impl("native_backward", TORCH_BOX(&fused_rnn::backward));
  m.impl("native_prepack", TORCH_BOX(&fused_rnn::prepack));
  m.impl("native_prepacked_forward", TORCH_BOX(&fused_rnn::prepacked_forward));
  m.impl("native_prepacked_step", TORCH_BOX(&fused_rnn::prepacked_step));
  m.impl("native_stored_forward", TORCH_BOX(&fused_rnn::stored_forward));
  m.impl("native_prepack_linear", TORCH_BOX(&fused_rnn::prepack_linear));
  m.impl("native_prepacked_linear", TORCH_BOX(&fused_rnn::prepacked_linear));
  m.impl("native_log_softmax", TORCH_BOX(&fused_rnn::log_softmax));
  m.impl("native_top", TORCH_BOX(&fused_rnn::top));
  m.impl("native_best", TORCH_BOX(&fused_rnn::best));
  m.impl("native_advance", TORCH_BOX(&fused_rnn::advance));
  m.impl("native_outlive", TORCH_BOX(&fused_rnn::outlive));
}

namespace {

std::map<std::string, std::string> build_info() {
  return {{"compiler", __VERSION__},
          {"torch ABI", std::to_string(TORCH_FEATURE_VERSION >> 56) + "." +
                            std::to_string((TORCH_FEATURE_VERSION >> 48) & 0xFF)},
          {"kernels", "cpu"}};
}

// Works without a GPU and without the CUDA extension.
std::string cuda_plan(const std::string& cell, const std::string& dtype, int steps, int batch,
                      int recurrences, int hidden, int processors, int shared_bytes, int cluster,
                      bool backward) {
  using namespace fused_rnn;
  const cuda::Sizes sizes{steps, batch, recurrences, hidden, cell_of(cell), dtype_named(dtype)};
  return cuda::describe(cuda::make_plan(sizes, {processors, shared_bytes, cluster}, backward));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information, the CPU kernels' instruction set, plans of the CUDA kernels.";
  m.def("build_info", &build_info, "How this extension was built.");
  m.def("instruction_sets", &fused_rnn::instruction_sets,
        "Instruction sets that this machine runs, the fastest first.");
  m.def("stored_instruction_sets", &fused_rnn::stored_instruction_sets,
        "Those with kernels for weights of fewer bits, the fastest first.");
  m.def(
      "stored_instruction_set", [] { return fused_rnn::stored_kernels().name; },
      "The one of these in use.");
  m.def("set_stored_instruction_set", &fused_rnn::set_stored_instruction_set, pybind11::arg("name"),
        "Uses one of these from now on; ValueError if this machine does not run it.");
  m.def("instruction_set", &fused_rnn::instruction_set, "The instruction set in use.");
  m.def("set_instruction_set", &fused_rnn::set_instruction_set, pybind11::arg("name"),
        "Uses one instruction set from now on; ValueError if this machine does not run it.");
  m.def("why_not_amx", &fused_rnn::why_not_amx, "Why there are no tiles; empty where there are.");
  m.def(
      "serving",
      [](const std::string& dtype) {
        const auto found = fused_rnn::serving(dtype);
        return std::pair(found.small, found.large);
      },
      pybind11::arg("dtype"), "Instruction sets for small layers of a dtype, and for large ones.");
  m.def("product_rate", &fused_rnn::product_rate, pybind11::arg("instruction_set"),
        pybind11::arg("dtype"), "FLOP/s of one thread whose operands lie near; 0 if not served.");
  m.def("set_concurrent_regions", &fused_rnn::set_concurrent_regions, pybind11::arg("concurrent"),
        "Whether PyTorch's parallel regions run all their parts at once.");
  using pybind11::arg;
  m.def("cuda_plan", &cuda_plan, pybind11::kw_only(), arg("cell"), arg("dtype"), arg("steps"),
        arg("batch"), arg("recurrences"), arg("hidden"), arg("processors"), arg("shared_bytes"),
        arg("cluster"), arg("backward"),
        "Which CUDA kernels run a recurrence on a device of these sizes, and why.");
}
