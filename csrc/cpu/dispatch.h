// SPDX-License-Identifier: MIT
// The instruction set in use, and teams of threads that run its kernels.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "problem.h"
#include "team.h"

namespace fused_rnn {

// Instruction sets that this machine runs, the fastest first.
std::vector<std::string> instruction_sets();

std::string instruction_set();

// Makes every later call use one set; throws std::invalid_argument for one not available.
void set_instruction_set(const std::string& name);

// Whether PyTorch's parallel regions give every index range a thread of its own at once (OpenMP
// does). Where they do not, threads that wait for one another could wait forever: then one runs.
void set_concurrent_regions(bool concurrent);

const Kernels& kernels();

// Threads that are worth waking for so many multiply-adds.
int team_size(double multiply_adds);

// Calls f(team, rank) on up to `threads` threads of PyTorch's pool, all at once.
void run_team(int threads, const std::function<void(Team&, int)>& f);

}  // namespace fused_rnn
