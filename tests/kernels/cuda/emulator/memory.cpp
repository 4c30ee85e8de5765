// SPDX-License-Identifier: MIT
// Counters that may read as a recent value, and asynchronous copies that land at the wait.
#include <algorithm>
#include <utility>

#include "machine.h"

namespace emulator {
namespace {

constexpr size_t kRemembered = 4;

struct Write {
  uint64_t value;
  int thread;  // -1: before the kernel, or by plain code
  uint32_t time;
  Clock released;
};

struct Sight {
  int thread;
  uint32_t time;
  long at;  // which write it saw
};

// One word that is used atomically: its last values, and who has seen which.
struct Word {
  long first = 0;  // number of the oldest write remembered
  std::vector<Write> writes;
  std::vector<Sight> sights;
  uint32_t version = 0;
  std::vector<Thread*> pollers;

  long last() const { return first + long(writes.size()) - 1; }
  Write& write(long at) { return writes[size_t(at - first)]; }
};

std::unordered_map<const void*, Word> words;

Word& word_at(const void* address, int bytes) {
  Word& word = words[address];
  uint64_t value = 0;
  std::memcpy(&value, address, bytes);
  if (word.writes.empty() || word.writes.back().value != value) {
    word.first += long(word.writes.size());
    word.writes = {Write{value, -1, 0, {}}};
  }
  return word;
}

// A thread that comes back to a word while all it has read of late is unchanged is spinning: it
// sleeps until one of those words is written.
void poll(const void* address, void* where) {
  constexpr size_t kLate = 64;
  Thread* thread = machine.current;
  auto& polls = thread->polls;
  const auto unchanged = [](const Poll& p) { return words[p.word].version == p.version; };
  const bool back =
      std::any_of(polls.begin(), polls.end(), [&](const Poll& p) { return p.word == address; });
  if (back && std::all_of(polls.begin(), polls.end(), unchanged)) {
    for (const Poll& p : polls) words[p.word].pollers.push_back(thread);
    suspend(State::kPolling, "polling load", where);
  } else {
    maybe_switch(2);
  }
  if (back || polls.size() == kLate) polls.clear();
  polls.push_back(Poll{address, words[address].version});
}

// The oldest write that the current thread may still read: nothing ordered rules it out.
long oldest_allowed(Word& word) {
  const Thread& thread = *machine.current;
  long low = word.last();
  while (low > word.first) {
    const Write& write = word.write(low);
    if (write.thread < 0 || knows(thread, write.thread) >= write.time) break;
    --low;
  }
  for (const Sight& sight : word.sights) {
    if (knows(thread, sight.thread) >= sight.time) low = std::max(low, sight.at);
  }
  return low;
}

void note_sight(Word& word, long at) {
  const Thread& thread = *machine.current;
  for (Sight& sight : word.sights) {
    if (sight.thread == thread.id) {
      sight = Sight{thread.id, thread.now, at};
      return;
    }
  }
  word.sights.push_back(Sight{thread.id, thread.now, at});
}

void wake_all(Word& word) {
  for (Thread* thread : word.pollers) {
    if (thread->state == State::kPolling) wake(thread);
  }
  word.pollers.clear();
}

// Makes `value` the last of a word's.
void write(uint32_t* to, uint32_t value, Clock released) {
  Thread* thread = machine.current;
  Word& word = word_at(to, 4);
  if (word.writes.size() == kRemembered) {
    word.writes.erase(word.writes.begin());
    word.first++;
  }
  word.writes.push_back(Write{value, thread->id, thread->now++, std::move(released)});
  std::memcpy(to, &value, 4);
  word.version++;
  machine.progress++;
  wake_all(word);
  maybe_switch(2);
}

uint64_t load_at(const void* from, int bytes, Order order, void* where) {
  poll(from, where);
  check_access(from, bytes, false, Access::kAtomic, where);
  Word& word = word_at(from, bytes);
  const long last = word.last(), low = oldest_allowed(word);
  long at = last;
  if (low < last && random_below(machine.stale_odds) == 0) at -= long(random_below(last - low + 1));
  note_sight(word, at);
  // A stale value is no reason to sleep: nothing may ever be written again.
  if (at != last) machine.current->polls.back().version--;
  const Write& write = word.write(at);
  if (order == Order::kAcquire) learn(write.released);
  return write.value;
}

}  // namespace

// An address in the block's shared memory.
unsigned char* checked_shared(const void* address, int bytes) {
  const Block& block = *machine.current->block;
  const auto* at = static_cast<const unsigned char*>(address);
  const size_t offset = size_t(at - block.shared);
  if (offset + bytes > machine.shape.shared_bytes) fail("shared address out of bounds");
  if (offset % size_t(bytes)) fail("shared address not aligned");
  return const_cast<unsigned char*>(at);
}

void forget_counters() { words.clear(); }

bool wake_pollers(int one_in) {
  std::vector<Thread*> sleeping;
  for (Thread& thread : machine.threads) {
    if (thread.state == State::kPolling) sleeping.push_back(&thread);
  }
  for (auto& [address, word] : words) word.pollers.clear();
  for (Thread* thread : sleeping) {
    thread->impatient = one_in && random_below(one_in) == 0;
    wake(thread);
  }
  return !sleeping.empty();
}

bool patient() { return !std::exchange(machine.current->impatient, false); }

bool lose(Fault kind) {
  return machine.options.fault == kind && machine.signals++ == machine.options.fault_site;
}

EMULATOR_PRIMITIVE uint64_t load(const void* from, int bytes, Order order) {
  if (machine.options.fault == Fault::kNoAcquire) order = Order::kRelaxed;
  return load_at(from, bytes, order, EMULATOR_CALLER);
}

EMULATOR_PRIMITIVE void load_vector(uint32_t (&d)[4], const uint32_t* from) {
  if (reinterpret_cast<uint64_t>(from) % 16) fail("vector not aligned");
  for (int i = 0; i < 4; ++i) {
    d[i] = uint32_t(load_at(from + i, 4, Order::kRelaxed, EMULATOR_CALLER));
  }
}

EMULATOR_PRIMITIVE void store(uint32_t* to, uint32_t value) {
  maybe_switch(4);
  check_access(to, 4, true, Access::kAtomic, EMULATOR_CALLER);
  if (!lose(Fault::kLostStore)) write(to, value, {});
}

EMULATOR_PRIMITIVE void add(uint32_t* to, uint32_t value, Order order) {
  Thread* thread = machine.current;
  if (machine.options.fault == Fault::kNoRelease) order = Order::kRelaxed;
  maybe_switch(4);
  check_access(to, 4, true, Access::kAtomic, EMULATOR_CALLER);
  if (lose(Fault::kLostCount)) return;
  Word& word = word_at(to, 4);
  // An addition continues the releases before it.
  Clock released = word.writes.back().released;
  if (order == Order::kRelease) {
    released.resize(machine.threads.size());
    merge_own(released, *thread);
  }
  write(to, uint32_t(word.writes.back().value) + value, std::move(released));
}

EMULATOR_PRIMITIVE void cp_async(void* to, const void* from, int bytes) {
  unsigned char* target = checked_shared(to, bytes);
  if (reinterpret_cast<uint64_t>(from) % uint64_t(bytes)) fail("source of a copy not aligned");
  check_access(from, bytes, false, Access::kPlain, EMULATOR_CALLER);
  check_access(target, bytes, true, Access::kPlain, EMULATOR_CALLER);
  std::memset(target, 0xFF, size_t(bytes));
  mark_pending(target, bytes, true);
  machine.current->copies.push_back(Copy{target, from, bytes, machine.current->copy_group});
}

void cp_async_commit() { machine.current->copy_group++; }

void cp_async_wait(int left) {
  Thread* thread = machine.current;
  if (machine.options.fault == Fault::kNoCopyWait && left > 0) return;
  auto& copies = thread->copies;
  const auto under_way = [&](const Copy& copy) {
    return copy.group + uint32_t(left) >= thread->copy_group;
  };
  for (const Copy& copy : copies) {
    if (under_way(copy)) continue;
    mark_pending(copy.to, copy.bytes, false);
    std::memcpy(copy.to, copy.from, size_t(copy.bytes));
  }
  copies.erase(std::remove_if(copies.begin(), copies.end(),
                              [&](const Copy& copy) { return !under_way(copy); }),
               copies.end());
  maybe_switch(8);
}

}  // namespace emulator
