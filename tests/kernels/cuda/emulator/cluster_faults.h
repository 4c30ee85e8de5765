// SPDX-License-Identifier: MIT
// The kinds of faults that only clusters have, as faults.cpp has the others.
#pragma once

#include "faults.h"

namespace fused_rnn {
namespace {

void wait_for_pushes(uint64_t* barrier, uint32_t parity) {
  while (!landed(barrier, parity)) {
  }
}

// Two blocks of a cluster push numbers to each other, round after round.
struct Knobs {
  bool meet = true, wait = true, flip = true;
  int buffers = 2, bytes = 16 * kThreads, away = 0;
};
template <Knobs knobs>
void exchange(Memory* m) {
  SHARED_MEMORY(shared);
  auto* barriers = reinterpret_cast<uint64_t*>(shared);
  auto* numbers = reinterpret_cast<Vector*>(shared + 64);
  const int i = threadIdx.x, other = 1 - int(blockIdx.x);
  float sum = 0;
  if (i < 2) init_transactions(barriers + i);
  if (knobs.meet) cluster_sync();
  for (int round = 0; round < kRounds; ++round) {
    uint64_t* barrier = barriers + round % 2;
    Vector* buffer = numbers + round % knobs.buffers * kThreads;
    const Vector value = {uint32_t(round), 0, 0, uint32_t(i)};
    if (i == 0) expect_bytes(barrier, knobs.bytes);
    push(buffer + i + knobs.away, other, value, barrier);
    if (knobs.wait) wait_for_pushes(barrier, knobs.flip ? round / 2 % 2 : 0);
    sum += float(buffer[(i + 1) % kThreads].words[0]);
  }
  m->sums[blockIdx.x * kThreads + i] = sum;
}
template <bool faulty>
void no_meeting_before_pushes(Memory* m) {
  exchange<Knobs{.meet = !faulty}>(m);
}
template <bool faulty>
void missing_push_wait(Memory* m) {
  exchange<Knobs{.wait = !faulty}>(m);
}
template <bool faulty>
void parity_that_stays(Memory* m) {
  exchange<Knobs{.flip = !faulty}>(m);
}
template <bool faulty>
void one_buffer_for_two(Memory* m) {
  exchange<Knobs{.buffers = faulty ? 1 : 2}>(m);
}
template <bool faulty>
void more_bytes_expected(Memory* m) {
  exchange<Knobs{.bytes = 16 * (kThreads + faulty)}>(m);
}
template <bool faulty>
void fewer_bytes_expected(Memory* m) {
  exchange<Knobs{.bytes = 16 * (kThreads - faulty)}>(m);
}
template <bool faulty>
void push_out_of_bounds(Memory* m) {
  exchange<Knobs{.away = faulty ? 256 : 0}>(m);
}
template <bool faulty>
void push_into_exited_block(Memory*) {
  SHARED_MEMORY(shared);
  auto* barrier = reinterpret_cast<uint64_t*>(shared);
  if (threadIdx.x == 0) init_transactions(barrier);
  cluster_sync();
  if (blockIdx.x == 0) {
    push(shared + 64 + 16 * threadIdx.x, 1, Vector{}, barrier);
  } else if (!faulty) {
    if (threadIdx.x == 0) expect_bytes(barrier, 16 * kThreads);
    wait_for_pushes(barrier, 0);
  }
}

}  // namespace
}  // namespace fused_rnn
