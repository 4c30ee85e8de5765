// SPDX-License-Identifier: MIT
// The emulated machine: one fiber for each CUDA thread, switched at primitives by a seeded random
// schedule, with a happens-before check of every plain access.
//
// It finds, and test_emulator.py plants one of each: a missing barrier of a block or a warp (as a
// race, on whatever schedule), a barrier in divergent code or one lane short, a missing wait for an
// asynchronous copy, a counter without release or without acquire, a counter's target off by one, a
// number taken to be there because the word beside it is, words used again before all know that
// they were cleared (as wrong numbers), a ring one slot short, a warp operation that not all lanes
// reach, a misaligned or outlying shared address, more blocks than fit at once, wrong fragments (as
// wrong numbers); of clusters, a missing meeting before the first push, a missing wait, a wrong
// parity, a wrong number of bytes, one buffer for two, a push out of bounds or into a block that
// has exited. test_lost_signals.py loses one push, store or count of the real kernels: their waits
// give up where nothing else can run any more.
//
// A push lands some time after it was made, in any order. What the end of a phase orders: all that
// the pushing threads had done or knew of when they pushed. The manual promises less, the pushed
// bytes themselves; the kernels' second use of a buffer rests on the rest as well: a value is
// pushed that depends on every read of the buffer before it.
//
// It cannot see: what the hardware's layouts and orders really are (twins and kernels share one
// reading of the manual), memory weaker than this model (relaxed loads may be stale, writes are
// not delayed), scopes too narrow, stale first-level caches, bank conflicts and every other matter
// of time, the rounding inside mma, where tanh.approx errs to which side, registers, spills and
// anything else that nvcc decides, accesses of global memory out of bounds, races on paths that no
// test runs. Those are left to the runs on a GPU (bench/gpu.sh).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "fiber.h"
#include "twins.h"

namespace emulator {

enum class Policy { kUniform, kWarpRun, kPriority };

// Faults planted in the primitives, to see that they are found.
enum class Fault {
  kNone,
  kNoBarrier,
  kNoCopyWait,
  kNoRelease,
  kNoAcquire,
  kNoClusterSync,
  kNoPushWait,
  kTooManyBytes,
  kTooFewBytes,
  kLostPush,
  kLostStore,
  kLostCount
};

struct Options {
  uint64_t seed = 1;
  // Blocks that the machine holds at once.
  int resident = 1 << 30;
  Fault fault = Fault::kNone;
  // Which barrier is left out, in the order in which they are first met; or which of the pushes,
  // stores and counts of a launch is lost.
  int fault_site = 0;
};

struct Statistics {
  uint64_t switches = 0, accesses = 0, bank_conflicts = 0;
};

// Entry i: how much of thread i's past is known.
using Clock = std::vector<uint32_t>;

enum class State { kRunnable, kBlocked, kPolling, kDone };

struct Warp;
struct Block;

struct Copy {
  unsigned char* to;
  const void* from;
  int bytes;
  uint32_t group;
};

// A word that a thread has read, and which of its values was the last.
struct Poll {
  const void* word;
  uint32_t version;
};

struct Thread {
  int id = 0, lane = 0;
  dim3 index;
  Warp* warp = nullptr;
  Block* block = nullptr;
  Context context;
  State state = State::kBlocked;
  // The others' past as far as known, shared among threads that met; its own time apart.
  std::shared_ptr<const Clock> known;
  uint32_t now = 1;
  std::vector<Copy> copies;
  uint32_t copy_group = 0;
  std::vector<Poll> polls;
  // Its wait has looked often enough.
  bool impatient = false;
  const char* waiting_in = "start";
  void* waiting_at = nullptr;
};

// A warp-wide operation under way.
struct Rendezvous {
  uint32_t mask = 0, arrived = 0;
  const char* operation = nullptr;
  void* arguments[32] = {};
};

struct Warp {
  Block* block = nullptr;
  int first = 0;          // thread of lane 0
  uint32_t runnable = 0;  // lanes
  int place = -1;         // in the list of warps that can run
  uint64_t priority = 0;
  Rendezvous rendezvous;
};

struct Block {
  int id = 0;
  dim3 index;
  unsigned char* shared = nullptr;
  bool started = false;
  int alive = 0;
  // The barrier of all its threads.
  Clock met;
  std::shared_ptr<const Clock> last_met;
  std::vector<Thread*> waiting;
  // What its threads come with to the barrier, and came with to the last.
  bool any = false, last_any = false;
};

// Where all threads of a cluster meet.
struct Cluster {
  Clock met;
  std::shared_ptr<const Clock> last_met;
  std::vector<Thread*> waiting;
};

// A push that has not landed yet, and what its thread knew.
struct Landing {
  unsigned char* to;
  unsigned char value[16];
  const void* barrier;
  const Block* block;
  std::shared_ptr<const Clock> known;
  int thread;
  uint32_t time;
};

// Everything of one run, and what is kept between runs.
struct Machine {
  Options options;
  Statistics statistics;
  Shape shape;
  size_t shared_stride = 0;  // a block's shared memory, rounded up
  unsigned char* shared = nullptr;
  int threads_per_block = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  std::vector<Cluster> clusters;
  std::vector<Landing> landings;
  std::vector<Warp*> runnable;
  Thread* current = nullptr;
  Context scheduler;
  Stacks stacks;
  const std::function<void()>* kernel = nullptr;
  std::string failure;
  // Barriers in the source, by return address, of the last kernel that met any.
  std::vector<void*> barriers;
  bool barriers_counted = false;
  // Counts whatever could let a waiting thread go on.
  uint64_t progress = 0;
  uint64_t random_state = 1;
  uint64_t stale_odds = 2, landing_odds = 2;
  // How many signals of the kind that is lost one of there have been.
  int signals = 0;
};

extern Machine machine;

// machine.cpp
uint64_t random_below(uint64_t n);
// Ends the run with a message; does not return.
[[noreturn]] void fail(const std::string& message);
// Lets another thread run now, sometimes.
void maybe_switch(int one_in);
void wake(Thread* thread);
// Suspends the current thread until it is woken.
void suspend(State state, const char* operation, void* where);
std::string source_of(void* address);
std::string name_of(int thread);
std::string place_of(const void* address);

// races.cpp: the happens-before order.
uint32_t knows(const Thread& thread, int other);
void merge(Clock& into, const Clock& from);
void merge_own(Clock& into, const Thread& thread);
void learn(const Clock& clock);
enum class Access { kPlain, kAtomic };
// Checks an access of the current thread against all that are not ordered with it.
void check_access(const void* address, int bytes, bool write, Access kind, void* where);
// Marks bytes that a copy will fill, so that any access before the wait is an error.
void mark_pending(const void* address, int bytes, bool pending);
void forget_accesses();

// cluster.cpp
// Lets a cluster's meeting go on without a thread that has exited.
void leave_cluster(const Block& block);
void forget_transactions();
// Lets one push land; returns what is wrong with it, if anything.
std::string land();

// memory.cpp
unsigned char* checked_shared(const void* address, int bytes);
void forget_counters();
// With nothing else left to run, lets the polling threads look again; false if there are none. One
// in `one_in` of them then gives up, if it can; none for 0.
bool wake_pollers(int one_in);
// Whether this signal is the one that is lost.
bool lose(Fault kind);

#define EMULATOR_CALLER __builtin_return_address(0)
#define EMULATOR_PRIMITIVE __attribute__((noinline))

}  // namespace emulator
