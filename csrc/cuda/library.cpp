// SPDX-License-Identifier: MIT
// The CUDA backend's library: the ops for CUDA tensors, and how it was built.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include <map>
#include <string>

#include "kernels.h"
#include "layer.h"
#include "record.h"
#include "stuck.h"

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CUDA, m) {
  m.impl("native_forward", TORCH_BOX(&fused_rnn::cuda::forward));
  m.impl("native_backward", TORCH_BOX(&fused_rnn::cuda::backward));
}

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "How the CUDA kernels were built, and what of them ran.";
  m.def("build_info", [] {
    return std::map<std::string, std::string>{
        {"CUDA toolkit",
         std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10)},
        {"CUDA architectures", fused_rnn::cuda::built_architectures()}};
  });
  using namespace fused_rnn::cuda;
  m.def("last_plan", &last_plan, pybind11::arg("backward"),
        "The plan of the last forward or backward pass that ran in this process, empty before it.");
  m.def("fallbacks", &fallbacks,
        "How often a tier was planned, was too large for what the device had free, and gave way.");
  m.def("check_waits", &check_stuck,
        "RuntimeError where a wait of a kernel ran out since the last check or call.");
}
