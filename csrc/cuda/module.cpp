// SPDX-License-Identifier: MIT
// What Python asks of the CUDA kernels' library: how it was built, and what of it ran.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "kernels.h"
#include "record.h"
#include "stuck.h"

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
        "How often a tier was planned, was too large for what the device had free, and the pass "
        "rewound.");
  m.def("check_waits", &check_stuck,
        "RuntimeError where a wait of a kernel ran out since the last check or call.");
}
