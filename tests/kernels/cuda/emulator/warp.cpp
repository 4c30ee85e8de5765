// SPDX-License-Identifier: MIT
// Where threads meet: the barrier of a block and the operations of a warp.
#include "machine.h"

namespace emulator {
namespace {

constexpr uint32_t kAll = ~0u;

// Which barrier of the source this is, in the order of first meeting.
int site_of(void* where) {
  auto& sites = machine.barriers;
  if (!machine.barriers_counted) sites.clear();
  machine.barriers_counted = true;
  for (size_t i = 0; i < sites.size(); ++i) {
    if (sites[i] == where) return int(i);
  }
  sites.push_back(where);
  return int(sites.size()) - 1;
}

// Waits until every lane of the mask has come to one operation; the last one performs it.
template <class Perform>
void meet(uint32_t mask, const char* operation, void* argument, void* where, Perform perform) {
  Thread* thread = machine.current;
  Rendezvous& r = thread->warp->rendezvous;
  const uint32_t me = 1u << thread->lane;
  if (!(mask & me)) fail(std::string(operation) + ": lane outside its own mask");
  if (r.arrived && (r.mask != mask || r.operation != operation)) {
    fail(std::string("warp diverged: ") + operation + " at " + source_of(where) + " meets " +
         r.operation);
  }
  r.mask = mask;
  r.operation = operation;
  r.arguments[thread->lane] = argument;
  r.arrived |= me;
  if (r.arrived != mask) {
    suspend(State::kBlocked, operation, where);
    return;
  }
  perform(r.arguments);
  r.arrived = 0;
  machine.progress++;
  for (int lane = 0; lane < 32; ++lane) {
    if (lane != thread->lane && mask >> lane & 1) {
      wake(&machine.threads[thread->warp->first + lane]);
    }
  }
  maybe_switch(4);
}

struct Ldmatrix {
  uint32_t* d;
  const unsigned char* row;
};

void perform_ldmatrix(void** lanes) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint32_t banks = 0;
    for (int row = 0; row < 8; ++row) {
      const auto* from = static_cast<Ldmatrix*>(lanes[matrix * 8 + row]);
      banks |= 1u << (reinterpret_cast<uint64_t>(from->row) / 16 % 8);
      for (int pair = 0; pair < 4; ++pair) {
        auto* to = static_cast<Ldmatrix*>(lanes[row * 4 + pair]);
        std::memcpy(&to->d[matrix], from->row + 4 * pair, 4);
      }
    }
    machine.statistics.bank_conflicts += 8 - __builtin_popcount(banks);
  }
}

struct Mma {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

void perform_mma(void** lanes, float (*value)(uint16_t)) {
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& m = *static_cast<Mma*>(lanes[lane]);
    const int r = lane / 4, q = 2 * (lane % 4);
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        a[r + 8 * (i % 2)][q + 8 * (i / 2) + half] = value(uint16_t(m.a[i] >> (16 * half)));
      }
      for (int i = 0; i < 2; ++i) {
        b[q + 8 * i + half][r] = value(uint16_t(m.b[i] >> (16 * half)));
        d[r + 8 * i][q + half] = m.d[2 * i + half];
      }
    }
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& m = *static_cast<Mma*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) m.d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

struct Shuffle {
  uint32_t value, result;
  int lanes;
};

// Whether any thread of the block came with true.
bool meet_block(bool own, void* where) {
  Thread* thread = machine.current;
  Block& block = *thread->block;
  const int site = site_of(where);
  if (machine.options.fault == Fault::kNoBarrier && site == machine.options.fault_site) return own;
  if (block.alive < machine.threads_per_block) fail("barrier after a thread has exited");
  // Most often a whole block comes with the same knowledge, that of the barrier before.
  if (block.last_met != thread->known) merge(block.met, *thread->known);
  block.last_met = thread->known;
  block.met[thread->id] = thread->now++;
  block.waiting.push_back(thread);
  block.any |= own;
  if (int(block.waiting.size()) < machine.threads_per_block) {
    suspend(State::kBlocked, "barrier", where);
    return block.last_any;
  }
  block.last_any = block.any;
  block.any = false;
  const auto known = std::make_shared<const Clock>(block.met);
  for (Thread* other : block.waiting) {
    other->known = known;
    if (other != thread) wake(other);
  }
  block.waiting.clear();
  machine.progress++;
  maybe_switch(2);
  return block.last_any;
}

}  // namespace

EMULATOR_PRIMITIVE void barrier() { meet_block(false, EMULATOR_CALLER); }
EMULATOR_PRIMITIVE bool barrier_or(bool own) { return meet_block(own, EMULATOR_CALLER); }

EMULATOR_PRIMITIVE bool any(uint32_t mask, bool own) {
  bool mine = own;
  meet(mask, "vote", &mine, EMULATOR_CALLER, [mask](void** lanes) {
    bool found = false;
    for (int lane = 0; lane < 32; ++lane) {
      if (mask >> lane & 1) found |= *static_cast<bool*>(lanes[lane]);
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (mask >> lane & 1) *static_cast<bool*>(lanes[lane]) = found;
    }
  });
  return mine;
}

EMULATOR_PRIMITIVE void warp_barrier() {
  meet(kAll, "warp barrier", machine.current, EMULATOR_CALLER, [](void** lanes) {
    Clock met(*static_cast<Thread*>(lanes[0])->known);
    for (int lane = 0; lane < 32; ++lane) {
      auto& thread = *static_cast<Thread*>(lanes[lane]);
      if (thread.known != static_cast<Thread*>(lanes[0])->known) merge(met, *thread.known);
      met[thread.id] = thread.now++;
    }
    const auto known = std::make_shared<const Clock>(std::move(met));
    for (int lane = 0; lane < 32; ++lane) static_cast<Thread*>(lanes[lane])->known = known;
  });
}

EMULATOR_PRIMITIVE uint32_t shuffle_xor(uint32_t mask, uint32_t value, int lanes) {
  Shuffle mine{value, 0, lanes};
  meet(mask, "shuffle", &mine, EMULATOR_CALLER, [mask](void** arguments) {
    for (int lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      auto& s = *static_cast<Shuffle*>(arguments[lane]);
      const int from = lane ^ s.lanes;
      if (from > 31 || !(mask >> from & 1)) fail("shuffle from a lane outside the mask");
      s.result = static_cast<Shuffle*>(arguments[from])->value;
    }
  });
  return mine.result;
}

EMULATOR_PRIMITIVE void ldmatrix_x4(uint32_t (&d)[4], const void* row) {
  const Block& block = *machine.current->block;
  const auto* at = static_cast<const unsigned char*>(row);
  const size_t offset = size_t(at - block.shared);
  if (offset + 16 > machine.shape.shared_bytes) fail("ldmatrix: address out of bounds");
  if (offset % 16) fail("ldmatrix: address not aligned to 16 bytes");
  check_access(row, 16, false, Access::kPlain, EMULATOR_CALLER);
  Ldmatrix mine{d, at};
  meet(kAll, "ldmatrix", &mine, EMULATOR_CALLER, &perform_ldmatrix);
}

EMULATOR_PRIMITIVE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                            float (*value)(uint16_t)) {
  Mma mine{d, a, {b0, b1}};
  meet(kAll, "mma", &mine, EMULATOR_CALLER,
       [value](void** arguments) { perform_mma(arguments, value); });
}

}  // namespace emulator
