// SPDX-License-Identifier: MIT
// One small kernel for each kind of fault that the emulator claims to find, sound and faulty. The
// sound one must pass on every schedule, the faulty one must be found within the first twelve.
#include "faults.h"

#include <cstdio>
#include <string>
#include <vector>

#include "cluster_faults.h"

namespace fused_rnn {
namespace {

constexpr int kSeeds = 12;

// Neighbours pass a number on through shared memory.
template <bool faulty>
void missing_barrier(Memory* m) {
  SHARED_MEMORY(shared);
  auto* numbers = reinterpret_cast<float*>(shared);
  const int i = threadIdx.x;
  numbers[i] = m->in[i];
  if (!faulty) __syncthreads();
  m->out[i] = numbers[(i + 1) % kThreads];
}

template <bool faulty>
void barrier_in_divergent_code(Memory* m) {
  if (!faulty || threadIdx.x % 2) __syncthreads();
  m->out[threadIdx.x] = 1;
}

// Neighbours within a warp do.
template <bool faulty>
void missing_warp_barrier(Memory* m) {
  SHARED_MEMORY(shared);
  auto* numbers = reinterpret_cast<float*>(shared);
  const int i = threadIdx.x;
  numbers[i] = m->in[i];
  if (!faulty) __syncwarp();
  m->out[i] = numbers[i ^ 1];
}

template <bool faulty>
void missing_copy_wait(Memory* m) {
  SHARED_MEMORY(shared);
  auto* numbers = reinterpret_cast<float*>(shared);
  const int i = threadIdx.x;
  cp_async4(numbers + i, m->in + i);
  cp_async_commit();
  cp_async_wait<faulty ? 1 : 0>();
  m->out[i] = numbers[i];
  cp_async_wait<0>();
}

// A ring of stages that each thread fills ahead of its use.
template <bool faulty>
void ring_one_stage_short(Memory* m) {
  SHARED_MEMORY(shared);
  auto* numbers = reinterpret_cast<float*>(shared);
  constexpr int kStages = faulty ? 1 : 2;
  const int i = threadIdx.x;
  float sum = 0;
  cp_async4(numbers + i, m->in + i);
  cp_async_commit();
  for (int k = 0; k < 3; ++k) {
    cp_async4(numbers + (k + 1) % kStages * kThreads + i, m->in + (k + 1) * kThreads + i);
    cp_async_commit();
    cp_async_wait<1>();
    sum += numbers[k % kStages * kThreads + i];
  }
  cp_async_wait<0>();
  m->out[i] = sum;
}

// Blocks take turns at reading what all wrote, with a counter between them.
template <bool release, bool acquire, int target>
void rounds(Memory* m) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  float sum = 0;
  for (int round = 1; round <= kRounds; ++round) {
    m->out[i] = float(round);
    for (int half = 2 * round - 1; half <= 2 * round; ++half) {
      __syncthreads();
      if (threadIdx.x == 0) {
        emulator::add(&m->counter, 1,
                      release ? emulator::Order::kRelease : emulator::Order::kRelaxed);
        while (int((acquire ? load_acquire(&m->counter) : load_relaxed(&m->counter))) <
               half * kBlocks + target) {
        }
      }
      __syncthreads();
      if (half % 2) sum += m->out[(i + kThreads) % (kBlocks * kThreads)];
    }
  }
  m->sums[i] = sum;
}
template <bool faulty>
void counter_without_release(Memory* m) {
  rounds<!faulty, true, 0>(m);
}
template <bool faulty>
void counter_without_acquire(Memory* m) {
  rounds<true, !faulty, 0>(m);
}
template <bool faulty>
void counter_target_too_low(Memory* m) {
  rounds<true, true, faulty ? -1 : 0>(m);
}
template <bool faulty>
void counter_target_too_high(Memory* m) {
  rounds<true, true, faulty ? 1 : 0>(m);
}

Vector wait_for(const Vector* from) {
  Vector found;
  bool absent;
  do {
    found = load_relaxed(from);
    absent = false;
    for (const uint32_t word : found.words) absent |= word == 0;
  } while (absent);
  return found;
}

// Each block but the first waits for four words of the one before, which bring a number, or only
// tell that it is there.
template <bool faulty>
void number_beside_its_word(Memory* m) {
  const int i = threadIdx.x, block = blockIdx.x;
  float* own = m->out + block * kThreads + i;
  if (block > 0) {
    const Vector found = wait_for(m->words + (block - 1) * kThreads + i);
    m->sums[block * kThreads + i] = faulty ? own[-kThreads] : float(found.words[3]);
  }
  if (faulty) *own = float(i);
  for (uint32_t& word : m->words[block * kThreads + i].words) store_relaxed(&word, i + 1);
}

// Blocks read each other's words, clear their own, count, and use them again.
template <bool faulty>
void words_cleared_unheard(Memory* m) {
  const int i = threadIdx.x, block = blockIdx.x;
  uint32_t* own = m->words[block].words;
  for (int round = 1; round <= kRounds; ++round) {
    if (i < 4) store_relaxed(own + i, round);
    const Vector found = wait_for(m->words + (block + 1) % kBlocks);
    for (const uint32_t word : found.words) {
      if (int(word) != round) emulator::fail("a word of another round");
    }
    for (const bool cleared : {false, true}) {
      if (cleared && i < 4) store_relaxed(own + i, 0);
      __syncthreads();
      if (i == 0) add_release(&m->counter, 1);
      const bool acquire = !(faulty && cleared);
      if (i == 0) {
        while (int(acquire ? load_acquire(&m->counter) : load_relaxed(&m->counter)) <
               (2 * round - 1 + cleared) * kBlocks) {
        }
      }
      __syncthreads();
    }
  }
}

template <bool faulty>
void shuffle_in_divergent_code(Memory* m) {
  float x = m->in[threadIdx.x];
  if (!faulty || threadIdx.x % 32 != 3) x = __shfl_xor_sync(0xFFFFFFFF, x, 1);
  m->out[threadIdx.x] = x;
}

template <bool faulty>
void misaligned_matrix(Memory* m) {
  SHARED_MEMORY(shared);
  auto* tile = reinterpret_cast<uint16_t*>(shared);
  for (int i = threadIdx.x; i < 32 * 16; i += kThreads) tile[i] = 0;
  __syncthreads();
  uint32_t d[4];
  ldmatrix_x4(d, tile + threadIdx.x % 32 * 8 + (faulty ? 1 : 0));
  m->out[threadIdx.x] = float(d[0]);
}

template <bool faulty>
void address_out_of_bounds(Memory* m) {
  SHARED_MEMORY(shared);
  cp_async16(shared + 16 * threadIdx.x + (faulty ? 4096 : 0), m->in);
  cp_async_commit();
  cp_async_wait<0>();
}

template <bool faulty>
void plain_address_out_of_bounds(Memory* m) {
  SHARED_MEMORY(shared);
  reinterpret_cast<uint32_t*>(shared)[threadIdx.x + (faulty ? 4096 / 4 : 0)] = m->in[0];
}

// The product of two matrices that tell their elements apart, one fragment read amiss.
template <bool faulty>
void wrong_fragment(Memory* m) {
  const int r = threadIdx.x % 32 / 4, q = threadIdx.x % 4 * 2;
  const auto a = [](int row, int k) { return float(row - 2 * k); };
  const auto b = [](int k, int column) { return float(k + 3 * column); };
  uint32_t left[4], right[2];
  for (int i = 0; i < 4; ++i) {
    const int row = r + 8 * (i % 2), k = q + 8 * (i / 2);
    left[i] = pair_bf16(a(row, k), a(row, k + 1));
  }
  for (int i = 0; i < 2; ++i) right[i] = pair_bf16(b(q + 8 * i, r), b(q + 8 * i + 1, r));
  float d[4] = {};
  mma<Bf16>(d, left, right[faulty], right[!faulty]);
  for (int e = 0; e < 4; ++e) {
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += a(r + 8 * (e / 2), k) * b(k, q + e % 2);
    if (d[e] != sum) emulator::fail("wrong product");
  }
}

struct Kind {
  const char* name;
  void (*sound)(Memory*);
  void (*faulty)(Memory*);
  const char* found;  // part of the message
  int blocks;
  bool cluster = false;
};
#define KIND(name, found, ...) {#name, &name<false>, &name<true>, found, __VA_ARGS__}

const Kind kKinds[] = {
    KIND(missing_barrier, "race: read of shared memory", 1),
    KIND(barrier_in_divergent_code, "barrier", 1),
    KIND(missing_warp_barrier, "race", 1),
    KIND(missing_copy_wait, "unfinished copy", 1),
    KIND(ring_one_stage_short, "race", 1),
    KIND(counter_without_release, "race", kBlocks),
    KIND(counter_without_acquire, "race", kBlocks),
    KIND(counter_target_too_low, "race", kBlocks),
    KIND(counter_target_too_high, "deadlock", kBlocks),
    KIND(number_beside_its_word, "race", kBlocks),
    KIND(words_cleared_unheard, "another round", kBlocks),
    KIND(shuffle_in_divergent_code, "deadlock", 1),
    KIND(misaligned_matrix, "not aligned", 1),
    KIND(address_out_of_bounds, "out of bounds", 1),
    KIND(plain_address_out_of_bounds, "out of bounds", 1),
    KIND(wrong_fragment, "wrong product", 1),
    KIND(no_meeting_before_pushes, "not initialised", kPair, true),
    KIND(missing_push_wait, "unfinished copy", kPair, true),
    KIND(parity_that_stays, "unfinished copy", kPair, true),
    KIND(one_buffer_for_two, "race", kPair, true),
    KIND(more_bytes_expected, "deadlock", kPair, true),
    KIND(fewer_bytes_expected, "unfinished copy", kPair, true),
    KIND(push_out_of_bounds, "out of bounds", kPair, true),
    KIND(push_into_exited_block, "has exited", kPair, true),
};

std::string run(void (*kernel)(Memory*), int blocks, bool cluster, uint64_t seed) {
  static Memory memory;
  memory = Memory();
  emulator::machine.options.seed = seed;
  Launch how;
  how.grid = dim3(blocks);
  how.block = dim3(kThreads);
  how.shared_bytes = 4096;
  how.cooperative = blocks > 1 && !cluster;
  how.cluster = cluster ? blocks : 1;
  const char* error = launch(kernel, how, nullptr, &memory);
  return error ? error : "";
}

bool check(const Kind& kind) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const std::string error = run(kind.sound, kind.blocks, kind.cluster, seed);
    if (error.empty()) continue;
    std::printf("%s: false alarm: %s\n", kind.name, error.c_str());
    return false;
  }
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const std::string error = run(kind.faulty, kind.blocks, kind.cluster, seed);
    if (error.find(kind.found) == error.npos) continue;
    std::printf("%s: found: %s\n", kind.name, error.c_str());
    return true;
  }
  std::printf("%s: not found\n", kind.name);
  return false;
}

}  // namespace
}  // namespace fused_rnn

int main() {
  using namespace fused_rnn;
  bool all = true;
  for (const Kind& kind : kKinds) all &= check(kind);
  emulator::machine.options.resident = kBlocks - 1;
  const std::string error = run(&counter_without_release<false>, kBlocks, false, 1);
  all &= error == cuda::kTooLarge;
  std::printf("grid_too_large: %s\n", error.c_str());
  emulator::machine.options.resident = kPair - 1;
  const std::string clusters = run(&missing_push_wait<false>, kPair, true, 1);
  all &= clusters == cuda::kTooLarge;
  std::printf("cluster_too_large: %s\n", clusters.c_str());
  return all ? 0 : 1;
}
