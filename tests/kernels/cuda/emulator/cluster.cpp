// SPDX-License-Identifier: MIT
// Clusters: the meeting of their threads, transaction barriers, and pushes that land late.
#include "machine.h"

namespace emulator {
namespace {

// A transaction barrier in its current phase, and the end of the one before.
struct Transactions {
  uint32_t phase = 0;
  bool arrived = false;
  int64_t bytes = 0;  // expected and not landed; below zero before the arrival
  Clock released;
  std::shared_ptr<const Clock> last_known;
  std::shared_ptr<const Clock> last;
  std::vector<Thread*> waiting;

  void release(const std::shared_ptr<const Clock>& known, int thread, uint32_t time) {
    // Most often threads that push together know the same.
    if (last_known != known || released.empty()) merge(released, *known);
    last_known = known;
    released[thread] = std::max(released[thread], time);
  }

  void finish() {
    if (!arrived || bytes != 0) return;
    last = std::make_shared<const Clock>(std::move(released));
    released.clear();
    arrived = false;
    phase++;
    machine.progress++;
    for (Thread* thread : waiting) wake(thread);
    waiting.clear();
  }
};

// Lets all go on that have come to a cluster's meeting, if no other thread is left.
bool meet_all(Cluster& cluster, const Block* blocks) {
  int alive = 0;
  for (int i = 0; i < machine.shape.cluster; ++i) alive += blocks[i].alive;
  if (alive == 0 || int(cluster.waiting.size()) < alive) return false;
  const auto known = std::make_shared<const Clock>(cluster.met);
  for (Thread* thread : cluster.waiting) {
    thread->known = known;
    wake(thread);
  }
  cluster.waiting.clear();
  machine.progress++;
  return true;
}

std::unordered_map<const void*, Transactions> all;

// Also its first block.
std::pair<Cluster&, const Block*> cluster_of(const Block& block) {
  const int which = block.id / machine.shape.cluster;
  return {machine.clusters[which], &machine.blocks[which * machine.shape.cluster]};
}

Transactions& use(const void* barrier, void* where) {
  const auto found = all.find(barrier);
  if (found == all.end()) fail("a transaction barrier that is not initialised");
  check_access(barrier, 8, true, Access::kAtomic, where);
  return found->second;
}

}  // namespace

void forget_transactions() {
  all.clear();
  machine.landings.clear();
}

EMULATOR_PRIMITIVE void cluster_sync() {
  Thread* thread = machine.current;
  if (machine.options.fault == Fault::kNoClusterSync) return;
  const auto [cluster, blocks] = cluster_of(*thread->block);
  if (cluster.last_met != thread->known) merge(cluster.met, *thread->known);
  cluster.last_met = thread->known;
  cluster.met[thread->id] = thread->now++;
  cluster.waiting.push_back(thread);
  if (meet_all(cluster, blocks)) {
    maybe_switch(2);
  } else {
    suspend(State::kBlocked, "cluster barrier", EMULATOR_CALLER);
  }
}

void leave_cluster(const Block& block) {
  const auto [cluster, blocks] = cluster_of(block);
  meet_all(cluster, blocks);
}

EMULATOR_PRIMITIVE void init_transactions(void* barrier) {
  checked_shared(barrier, 8);
  check_access(barrier, 8, true, Access::kPlain, EMULATOR_CALLER);
  all[barrier] = Transactions();
}

EMULATOR_PRIMITIVE void expect_bytes(void* barrier, uint32_t bytes) {
  maybe_switch(4);
  Thread* thread = machine.current;
  Transactions& t = use(checked_shared(barrier, 8), EMULATOR_CALLER);
  if (t.arrived) fail("more arrivals at a transaction barrier than it takes");
  if (machine.options.fault == Fault::kTooManyBytes) bytes += 16;
  if (machine.options.fault == Fault::kTooFewBytes) bytes -= 16;
  t.arrived = true;
  t.bytes += bytes;
  t.release(thread->known, thread->id, thread->now++);
  t.finish();
}

EMULATOR_PRIMITIVE bool landed(void* barrier, uint32_t parity) {
  Thread* thread = machine.current;
  if (machine.options.fault == Fault::kNoPushWait) return true;
  maybe_switch(4);
  Transactions& t = use(checked_shared(barrier, 8), EMULATOR_CALLER);
  if (t.phase % 2 == parity) {
    t.waiting.push_back(thread);
    suspend(State::kPolling, "wait for pushes", EMULATOR_CALLER);
    std::erase(t.waiting, thread);
    if (t.phase % 2 == parity) return false;
  }
  if (t.last) learn(*t.last);
  return true;
}

EMULATOR_PRIMITIVE void push(void* to, uint32_t rank, const void* value, void* barrier) {
  maybe_switch(4);
  Thread* thread = machine.current;
  Machine& m = machine;
  const int together = m.shape.cluster, own = thread->block->id;
  if (int(rank) >= together) fail("push to a block outside the cluster");
  const Block& block = m.blocks[own / together * together + int(rank)];
  const ptrdiff_t away = ptrdiff_t(block.shared - thread->block->shared);
  unsigned char* target = checked_shared(to, 16) + away;
  const unsigned char* remote = checked_shared(barrier, 8) + away;
  use(remote, EMULATOR_CALLER);
  check_access(target, 16, true, Access::kPlain, EMULATOR_CALLER);
  check_access(value, 16, false, Access::kPlain, EMULATOR_CALLER);
  mark_pending(target, 16, true);
  Landing landing{target, {}, remote, &block, thread->known, thread->id, thread->now++};
  std::memcpy(landing.value, value, 16);
  m.landings.push_back(std::move(landing));
}

std::string land() {
  Machine& m = machine;
  const size_t at = random_below(m.landings.size());
  const Landing landing = std::move(m.landings[at]);
  m.landings[at] = std::move(m.landings.back());
  m.landings.pop_back();
  if (landing.block->alive == 0) return "push into a block that has exited";
  mark_pending(landing.to, 16, false);
  std::memcpy(landing.to, landing.value, 16);
  Transactions& t = all[landing.barrier];
  if (lose(Fault::kLostPush)) return "";
  t.bytes -= 16;
  if (t.arrived && t.bytes < 0) return "more bytes pushed than expected";
  t.release(landing.known, landing.thread, landing.time);
  t.finish();
  return "";
}

}  // namespace emulator
