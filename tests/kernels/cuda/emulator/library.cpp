// SPDX-License-Identifier: MIT
// What test_emulator.py loads: the CUDA backend's own host code and kernels as a backend of CPU
// tensors, and the emulator's switches.
#include <torch/csrc/stable/library.h>

#include "../../../../csrc/cuda/ops.h"
#include "../../../../csrc/cuda/record.h"
#include "../../../../csrc/cuda/stuck.h"
#include "machine.h"
#include "settings.h"

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("emulated_forward", TORCH_BOX(&fused_rnn::cuda::forward));
  m.impl("emulated_backward", TORCH_BOX(&fused_rnn::cuda::backward));
}

namespace emulator {

fused_rnn::cuda::Device emulated_device{132, 227 * 1024, 1};

extern "C" {
#define EXPORTED __attribute__((visibility("default")))

// `resident` of the processors are free; clusters have `cluster` blocks at most.
EXPORTED void emulator_set_device(int processors, int shared_bytes, int resident, int cluster) {
  emulated_device = {processors, shared_bytes, cluster};
  machine.options.resident = resident;
}

EXPORTED void emulator_set_schedule(uint64_t seed) { machine.options.seed = seed; }

EXPORTED void emulator_plant(int fault, int site) {
  machine.options.fault = Fault(fault);
  machine.options.fault_site = site;
}

// The text lives until the next call.
EXPORTED const char* emulator_last_plan(int backward) {
  static std::string text;
  text = fused_rnn::cuda::last_plan(backward != 0);
  return text.c_str();
}
EXPORTED int64_t emulator_fallbacks(const char* tier) { return fused_rnn::cuda::fallbacks()[tier]; }

// Sets the word of a kind of launch, as a kernel does whose wait ran out.
EXPORTED void emulator_strand(int steps, int batch, int recurrences, int hidden, int backward) {
  fused_rnn::cuda::Sizes sizes{steps, batch, recurrences, hidden};
  *fused_rnn::cuda::stuck_word(sizes, fused_rnn::cuda::Tier::kGrid, backward != 0, 0) = 1;
}

// Of the last launch.
EXPORTED uint64_t emulator_bank_conflicts() { return machine.statistics.bank_conflicts; }
// Of the last launch that met any.
EXPORTED int emulator_barriers() { return int(machine.barriers.size()); }
}

}  // namespace emulator
