// SPDX-License-Identifier: MIT
// What Python sees: the ops, registered with PyTorch, and a module of build information.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include <map>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/layer.h"

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("native_forward", TORCH_BOX(&fused_rnn::forward));
  m.impl("native_backward", TORCH_BOX(&fused_rnn::backward));
}

namespace {

std::map<std::string, std::string> build_info() {
  return {{"compiler", __VERSION__},
          {"torch ABI", std::to_string(TORCH_FEATURE_VERSION >> 56) + "." +
                            std::to_string((TORCH_FEATURE_VERSION >> 48) & 0xFF)},
          {"kernels", "cpu"}};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information and the instruction set of the CPU kernels.";
  m.def("build_info", &build_info, "How this extension was built.");
  m.def("instruction_sets", &fused_rnn::instruction_sets,
        "Instruction sets that this machine runs, the fastest first.");
  m.def("instruction_set", &fused_rnn::instruction_set, "The instruction set in use.");
  m.def("set_instruction_set", &fused_rnn::set_instruction_set, pybind11::arg("name"),
        "Uses one instruction set from now on; ValueError if this machine does not run it.");
  m.def("set_concurrent_regions", &fused_rnn::set_concurrent_regions, pybind11::arg("concurrent"),
        "Whether PyTorch's parallel regions run all their parts at once.");
}
