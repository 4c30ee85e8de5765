// SPDX-License-Identifier: MIT
// The instruction set in use, and teams of threads that run its kernels.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "../exported.h"
#include "problem.h"
#include "team.h"

namespace fused_rnn::cpu {

// Instruction sets that this machine runs, the fastest first.
FUSED_RNN_EXPORTED std::vector<std::string> instruction_sets();

// The one asked for, else the most capable: it serves the calls that it is the fastest for.
FUSED_RNN_EXPORTED std::string instruction_set();

// Why tiles are not among them; empty where they are.
FUSED_RNN_EXPORTED std::string why_not_amx();

// What serves the layers of a dtype, and of them large ones with many rows.
struct Serving {
  std::string small, large;
};
FUSED_RNN_EXPORTED Serving serving(const std::string& dtype);

// Multiply-adds and additions a second, 2 for each product, of one thread whose operands lie near.
FUSED_RNN_EXPORTED double product_rate(const std::string& instruction_set,
                                       const std::string& dtype);

// Makes every later call use one set for all that it serves, or with "auto" the fastest for each
// call again; throws std::invalid_argument for one not available. "amx_twin", which is not listed,
// runs the kernels of amx anywhere, slowly.
FUSED_RNN_EXPORTED void set_instruction_set(const std::string& name);

// For kernels of rows, which are the same for all dtypes.
const Kernels& kernels();

// For weights packed beforehand: one set for any number of rows, so that a row's results do not
// depend on what others are searched or served beside it.
const Kernels& packed_kernels(Dtype dtype, int64_t inputs, int64_t units);

// For layers of cells with options.
const Kernels& varied_kernels(Dtype dtype);

// For one call of a layer that packs its weights itself.
const Kernels& layer_kernels(const Shape& shape);

// Sets with kernels for weights of fewer bits, the fastest first. In use is what was asked for, if
// it serves a storage, else the first that does; "auto" asks for none. "amx_int8_twin", which is
// not listed, runs the kernels of amx_int8 anywhere, slowly.
FUSED_RNN_EXPORTED std::vector<std::string> stored_instruction_sets();
FUSED_RNN_EXPORTED void set_stored_instruction_set(const std::string& name);
FUSED_RNN_EXPORTED const StoredKernels& stored_kernels(Storage storage);

// Threads that are worth waking for so many multiply-adds.
int team_size(double multiply_adds);

// Calls f(team, rank) on up to `threads` threads of PyTorch's pool, all at once.
void run_team(int threads, const std::function<void(Team&, int)>& f);

}  // namespace fused_rnn::cpu
