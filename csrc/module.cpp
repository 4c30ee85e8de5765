// SPDX-License-Identifier: MIT
// What Python asks of the library of ops: how it was built, and what it would run.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "cpu/launch.h"
#include "cuda/planner.h"
#include "names.h"

namespace {

namespace cpu = fused_rnn::cpu;

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
  m.def("instruction_sets", &cpu::instruction_sets,
        "Instruction sets that this machine runs, the fastest first.");
  m.def("stored_instruction_sets", &cpu::stored_instruction_sets,
        "Those with kernels for weights of fewer bits, the fastest first.");
  m.def(
      "stored_instruction_set",
      [](const std::string& storage) {
        using Storage = cpu::Storage;
        const auto kind = storage == "int8"       ? Storage::kInt8
                          : storage == "bfloat16" ? Storage::kBf16
                                                  : Storage::kHalf;
        return cpu::stored_kernels(kind).name;
      },
      pybind11::arg("storage"), "The one of these in use for int8, bfloat16 or float16.");
  m.def("set_stored_instruction_set", &cpu::set_stored_instruction_set, pybind11::arg("name"),
        "Uses one of these from now on; ValueError if this machine does not run it.");
  m.def("instruction_set", &cpu::instruction_set, "The instruction set in use.");
  m.def("set_instruction_set", &cpu::set_instruction_set, pybind11::arg("name"),
        "Uses one instruction set from now on; ValueError if this machine does not run it.");
  m.def("why_not_amx", &cpu::why_not_amx, "Why there are no tiles; empty where there are.");
  m.def(
      "serving",
      [](const std::string& dtype) {
        const auto found = cpu::serving(dtype);
        return std::pair(found.small, found.large);
      },
      pybind11::arg("dtype"), "Instruction sets for small layers of a dtype, and for large ones.");
  m.def("product_rate", &cpu::product_rate, pybind11::arg("instruction_set"),
        pybind11::arg("dtype"), "FLOP/s of one thread whose operands lie near; 0 if not served.");
  using pybind11::arg;
  m.def("cuda_plan", &cuda_plan, pybind11::kw_only(), arg("cell"), arg("dtype"), arg("steps"),
        arg("batch"), arg("recurrences"), arg("hidden"), arg("processors"), arg("shared_bytes"),
        arg("cluster"), arg("backward"),
        "Which CUDA kernels run a recurrence on a device of these sizes, and why.");
}
