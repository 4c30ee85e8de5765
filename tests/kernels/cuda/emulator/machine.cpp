// SPDX-License-Identifier: MIT
// Scheduling: which thread runs next, and when nothing can.
#include "machine.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace emulator {

Machine machine;

namespace {

constexpr uint64_t kMostSwitches = 40'000'000, kMostIdle = 4'000'000;
constexpr int kLooks = 3;

std::string read_command(const std::string& command, const char* skip) {
  std::string line;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char text[512];
    // Innermost first: the first line outside the primitives is the kernel's own.
    while (std::fgets(text, sizeof(text), pipe)) {
      line = text;
      if (line.find(skip) == line.npos && line.find("/device.h:") == line.npos) break;
    }
    pclose(pipe);
  }
  line = line.substr(0, line.find_first_of(" \n"));
  return line.substr(line.rfind('/') + 1);
}

void start_thread() {
  Machine& m = machine;
  (*m.kernel)();
  Thread* thread = m.current;
  if (!thread->copies.empty()) fail("exit with an asynchronous copy under way");
  thread->block->alive--;
  m.progress++;
  leave_cluster(*thread->block);
  suspend(State::kDone, "exit", nullptr);
  std::abort();
}

void start_block(Block& block) {
  block.started = true;
  const int first = block.id * machine.threads_per_block;
  for (int i = 0; i < machine.threads_per_block; ++i) wake(&machine.threads[first + i]);
}

void start_blocks() {
  int live = 0;
  for (const Block& block : machine.blocks) live += block.started && block.alive > 0;
  const int together = machine.shape.cluster;
  for (size_t first = 0; first < machine.blocks.size(); first += size_t(together)) {
    if (machine.blocks[first].started) continue;
    live += together;
    if (live > machine.options.resident) return;
    for (int i = 0; i < together; ++i) start_block(machine.blocks[first + size_t(i)]);
  }
}

Policy policy_of(uint64_t seed) {
  const Policy policies[] = {Policy::kPriority, Policy::kWarpRun, Policy::kPriority,
                             Policy::kUniform};
  return policies[seed % 4];
}

Warp* pick_warp(Policy policy) {
  static Warp* last = nullptr;
  auto& able = machine.runnable;
  const bool goes_on = last && std::find(able.begin(), able.end(), last) != able.end();
  if (policy == Policy::kWarpRun && goes_on && random_below(64)) return last;
  if (policy != Policy::kPriority) return last = able[random_below(able.size())];
  last = *std::max_element(able.begin(), able.end(),
                           [](Warp* a, Warp* b) { return a->priority < b->priority; });
  if (random_below(500) == 0) {
    // A whole block at once, so that one may run far ahead of the others.
    for (Warp& warp : machine.warps) {
      if (warp.block == last->block || random_below(8) == 0) warp.priority = random_below(1 << 20);
    }
  }
  return last;
}

Thread* pick(Policy policy) {
  Warp* warp = pick_warp(policy);
  int lane = __builtin_ctz(warp->runnable);
  if (policy == Policy::kUniform) {
    lane = int(random_below(32));
    while (!(warp->runnable >> lane & 1)) lane = (lane + 1) % 32;
  }
  return &machine.threads[warp->first + lane];
}

std::string deadlock() {
  std::map<std::string, int> places;
  for (const Thread& thread : machine.threads) {
    if (thread.state == State::kDone) continue;
    places[thread.block->started
               ? std::string(thread.waiting_in) + " at " + source_of(thread.waiting_at)
               : "a block that does not fit"]++;
  }
  std::string text = "deadlock:";
  for (const auto& [place, count] : places) {
    text += " " + std::to_string(count) + " threads in " + place + ";";
  }
  return text;
}

void make_threads() {
  Machine& m = machine;
  const dim3 grid = m.shape.grid, block = m.shape.block;
  const int blocks = int(grid.x * grid.y * grid.z), per = m.threads_per_block;
  const auto nothing = std::make_shared<const Clock>(size_t(blocks) * per);
  m.threads.assign(size_t(blocks) * per, Thread());
  m.warps.assign(m.threads.size() / 32, Warp());
  m.blocks.assign(blocks, Block());
  m.clusters.assign(blocks / m.shape.cluster, Cluster());
  m.runnable.clear();
  m.stacks.reserve(m.threads.size());
  for (int b = 0; b < blocks; ++b) {
    m.blocks[b].id = b;
    m.blocks[b].index = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
    m.blocks[b].shared = m.shared + b * m.shared_stride;
    m.blocks[b].alive = per;
    m.blocks[b].met.assign(m.threads.size(), 0);
  }
  for (size_t i = 0; i < m.threads.size(); ++i) {
    Thread& t = m.threads[i];
    const int j = int(i) % per;
    t.id = int(i);
    t.lane = j % 32;
    t.index = dim3(j % block.x, j / block.x % block.y, j / block.x / block.y);
    t.block = &m.blocks[i / per];
    t.warp = &m.warps[i / 32];
    t.known = nothing;
    m.stacks.prepare(t.context, i, &start_thread);
    if (t.lane == 0) {
      t.warp->block = t.block;
      t.warp->first = int(i);
      t.warp->priority = random_below(1 << 20);
    }
  }
}

// Runs threads until all are done; an empty text, or why it stopped.
std::string schedule() {
  Machine& m = machine;
  const Policy policy = policy_of(m.options.seed);
  uint64_t progress = m.progress, idle = 0;
  int looked_again = 0;
  for (;;) {
    if (!m.landings.empty() && (m.runnable.empty() || random_below(m.landing_odds) == 0)) {
      const std::string wrong = land();
      if (!wrong.empty()) return wrong;
      continue;
    }
    if (m.runnable.empty()) start_blocks();
    if (m.runnable.empty()) {
      const auto done = [](const Thread& t) { return t.state == State::kDone; };
      if (std::all_of(m.threads.begin(), m.threads.end(), done)) return "";
      // So many looks show a value that was stale; then waits give up, some, and all.
      const int one_in = looked_again < kLooks ? 0 : kLooks + 2 - looked_again;
      if (looked_again++ == kLooks + 2 || !wake_pollers(one_in)) return deadlock();
    }
    if (m.progress != progress) {
      progress = m.progress;
      idle = looked_again = 0;
    } else if (++idle > kMostIdle || m.statistics.switches > kMostSwitches) {
      return "livelock";
    }
    m.current = pick(policy);
    m.statistics.switches++;
    Thread* running = m.current;
    switch_context(m.scheduler, running->context);
    m.current = nullptr;
    if (!m.failure.empty()) return m.failure;
  }
}

}  // namespace

uint64_t random_below(uint64_t n) {
  uint64_t& s = machine.random_state;
  s ^= s << 13;
  s ^= s >> 7;
  s ^= s << 17;
  return (s * 0x2545F4914F6CDD1Dull >> 16) % n;
}

std::string source_of(void* address) {
  static std::unordered_map<void*, std::string> known;
  Dl_info info;
  if (!address || !dladdr(address, &info)) return "?";
  std::string& text = known[address];
  if (text.empty()) {
    char command[512];
    std::snprintf(command, sizeof(command), "addr2line -i -e '%s' %#lx 2>/dev/null", info.dli_fname,
                  reinterpret_cast<unsigned long>(address) -
                      reinterpret_cast<unsigned long>(info.dli_fbase) - 1);
    text = read_command(command, "/primitives.cuh:");
  }
  return text;
}

std::string name_of(int thread) {
  return "block " + std::to_string(thread / machine.threads_per_block) + " thread " +
         std::to_string(thread % machine.threads_per_block);
}

std::string place_of(const void* address) {
  const size_t at = size_t(static_cast<const unsigned char*>(address) - machine.shared);
  if (at >= machine.blocks.size() * machine.shared_stride) return "global memory";
  return "shared memory of block " + std::to_string(at / machine.shared_stride) + " + " +
         std::to_string(at % machine.shared_stride);
}

void fail(const std::string& message) {
  Thread* thread = machine.current;
  machine.failure = name_of(thread->id) + ": " + message;
  switch_context(thread->context, machine.scheduler);
  std::abort();
}

void maybe_switch(int one_in) {
  if (random_below(one_in) == 0) switch_context(machine.current->context, machine.scheduler);
}

void wake(Thread* thread) {
  thread->state = State::kRunnable;
  Warp* warp = thread->warp;
  if (!warp->runnable) {
    warp->place = int(machine.runnable.size());
    machine.runnable.push_back(warp);
  }
  warp->runnable |= 1u << thread->lane;
}

void suspend(State state, const char* operation, void* where) {
  Thread* thread = machine.current;
  thread->state = state;
  thread->waiting_in = operation;
  thread->waiting_at = where;
  Warp* warp = thread->warp;
  warp->runnable &= ~(1u << thread->lane);
  if (!warp->runnable) {
    auto& able = machine.runnable;
    able[warp->place] = able.back();
    able[warp->place]->place = warp->place;
    able.pop_back();
  }
  switch_context(thread->context, machine.scheduler);
}

bool fits(const Shape& shape) {
  const uint64_t blocks = uint64_t(shape.grid.x) * shape.grid.y * shape.grid.z;
  const uint64_t together = shape.cooperative ? blocks : uint64_t(shape.cluster);
  return (shape.cluster == 1 && !shape.cooperative) ||
         together <= uint64_t(machine.options.resident);
}

const char* run(const Shape& shape, const std::function<void()>& kernel) {
  Machine& m = machine;
  m.shape = shape;
  m.kernel = &kernel;
  m.failure.clear();
  m.statistics = Statistics();
  m.barriers_counted = false;
  m.progress = 0;
  m.signals = 0;
  m.random_state = m.options.seed * 0x9E3779B97F4A7C15ull + 1;
  for (int i = 0; i < 8; ++i) random_below(2);
  m.stale_odds = 2ull << (2 * (m.options.seed / 4 % 3));
  m.landing_odds = 2ull << (4 * (m.options.seed / 4 % 3));
  m.threads_per_block = int(shape.block.x * shape.block.y * shape.block.z);
  const size_t blocks = size_t(shape.grid.x) * shape.grid.y * shape.grid.z;
  if (blocks == 0 || m.threads_per_block % 32 || m.threads_per_block > 1024) {
    m.failure = "bad launch: blocks of " + std::to_string(m.threads_per_block) + " threads";
    return m.failure.c_str();
  }
  if (shape.grid.x % unsigned(shape.cluster)) {
    m.failure = "bad launch: clusters of " + std::to_string(shape.cluster) + " do not divide " +
                std::to_string(shape.grid.x) + " blocks";
    return m.failure.c_str();
  }
  m.shared_stride = (shape.shared_bytes + 2 * 4096 - 1) / 4096 * 4096;
  const size_t bytes = blocks * m.shared_stride;
  void* shared = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) std::abort();
  m.shared = static_cast<unsigned char*>(shared);
  // Not-a-number in every format.
  std::memset(shared, 0xFF, bytes);
  forget_accesses();
  forget_counters();
  forget_transactions();
  make_threads();
  m.failure = schedule();
  munmap(shared, bytes);
  m.blocks.clear();
  return m.failure.empty() ? nullptr : m.failure.c_str();
}

const dim3& thread_index() { return machine.current->index; }
const dim3& block_index() { return machine.current->block->index; }
const dim3& block_size() { return machine.shape.block; }
const dim3& grid_size() { return machine.shape.grid; }
unsigned char* shared_memory() { return machine.current->block->shared; }

}  // namespace emulator
