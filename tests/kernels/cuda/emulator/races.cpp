// SPDX-License-Identifier: MIT
// The happens-before check. Kernel sources are compiled with -fsanitize=thread, so that each plain
// access calls one of the functions at the end of this file, which answers in libtsan's place.
#include <algorithm>
#include <cstdlib>

#include "machine.h"

namespace emulator {
namespace {

constexpr int kReaders = 3;
constexpr uint64_t kPageBytes = 4096, kCellBytes = 2, kPageCells = kPageBytes / kCellBytes;

// One access: the thread, its time, the code.
struct Mark {
  int32_t thread = -1;
  uint32_t time = 0;
  void* where = nullptr;
  bool atomic = false;
};

// The last accesses of two bytes.
struct Cell {
  Mark write, reads[kReaders];
  bool pending = false;
};

using Page = std::vector<Cell>;
std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
uint64_t last_number = ~0ull;
Page* last_page = nullptr;

Cell& cell_at(uint64_t address) {
  const uint64_t number = address / kPageBytes;
  if (number != last_number) {
    auto& page = pages[number];
    if (!page) page = std::make_unique<Page>(kPageCells);
    last_number = number;
    last_page = page.get();
  }
  return (*last_page)[address / kCellBytes % kPageCells];
}

bool ordered(const Thread& thread, const Mark& mark, bool atomic) {
  return mark.thread < 0 || mark.thread == thread.id || (atomic && mark.atomic) ||
         knows(thread, mark.thread) >= mark.time;
}

[[noreturn]] void race(const void* address, const char* what, const Mark& mark, bool write,
                       void* where) {
  fail(std::string("race: ") + (write ? "write" : "read") + " of " + place_of(address) + " at " +
       source_of(where) + ", not ordered after the " + what + " by " + name_of(mark.thread) +
       " at " + source_of(mark.where));
}

// No block has more shared memory than was asked for.
void check_bounds(const void* address, int bytes, void* where) {
  const size_t at = size_t(static_cast<const unsigned char*>(address) - machine.shared);
  if (at >= machine.blocks.size() * machine.shared_stride) return;
  if (at % machine.shared_stride + size_t(bytes) <= machine.shape.shared_bytes) return;
  fail("out of bounds: " + place_of(address) + " at " + source_of(where));
}

void note_read(Cell& cell, const Thread& thread, const Mark& mark) {
  for (Mark& read : cell.reads) {
    if (read.thread < 0 || read.thread == thread.id || ordered(thread, read, false)) {
      read = mark;
      return;
    }
  }
  // All slots hold readers this one knows nothing of: one is forgotten.
  cell.reads[thread.id % kReaders] = mark;
}

}  // namespace

uint32_t knows(const Thread& thread, int other) {
  return other == thread.id ? thread.now : (*thread.known)[other];
}

void merge(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void merge_own(Clock& into, const Thread& thread) {
  merge(into, *thread.known);
  into[thread.id] = std::max(into[thread.id], thread.now);
}

void learn(const Clock& clock) {
  Thread& thread = *machine.current;
  bool news = false;
  for (size_t i = 0; i < clock.size(); ++i) news |= clock[i] > (*thread.known)[i];
  if (!news) return;
  auto known = std::make_shared<Clock>(*thread.known);
  merge(*known, clock);
  thread.known = known;
}

void check_access(const void* address, int bytes, bool write, Access kind, void* where) {
  if (!machine.current || machine.stacks.contain(address)) return;
  check_bounds(address, bytes, where);
  const Thread& thread = *machine.current;
  const bool atomic = kind == Access::kAtomic;
  const Mark mark{thread.id, thread.now, where, atomic};
  machine.statistics.accesses++;
  const uint64_t begin = reinterpret_cast<uint64_t>(address);
  for (uint64_t at = begin; at < begin + bytes; at += kCellBytes) {
    Cell& cell = cell_at(at);
    if (cell.pending) race(address, "unfinished copy", cell.write, write, where);
    if (!ordered(thread, cell.write, atomic)) race(address, "write", cell.write, write, where);
    if (!write) {
      note_read(cell, thread, mark);
      continue;
    }
    for (const Mark& read : cell.reads) {
      if (!ordered(thread, read, atomic)) race(address, "read", read, write, where);
    }
    cell = Cell{mark, {}, false};
  }
}

void mark_pending(const void* address, int bytes, bool pending) {
  const uint64_t begin = reinterpret_cast<uint64_t>(address);
  for (uint64_t at = begin; at < begin + bytes; at += kCellBytes) cell_at(at).pending = pending;
}

void forget_accesses() {
  pages.clear();
  last_number = ~0ull;
}

}  // namespace emulator

using emulator::Access;
using emulator::check_access;

#define HOOK(name, bytes, write)                                                \
  extern "C" void __tsan_##name(void* p) {                                      \
    check_access(p, bytes, write, Access::kPlain, __builtin_return_address(0)); \
  }
#define HOOKS(bytes)                        \
  HOOK(read##bytes, bytes, false)           \
  HOOK(write##bytes, bytes, true)           \
  HOOK(unaligned_read##bytes, bytes, false) \
  HOOK(unaligned_write##bytes, bytes, true)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" void __tsan_read_range(void* p, long bytes) {
  check_access(p, int(bytes), false, Access::kPlain, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* p, long bytes) {
  check_access(p, int(bytes), true, Access::kPlain, __builtin_return_address(0));
}
