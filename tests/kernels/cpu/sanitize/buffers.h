// SPDX-License-Identifier: MIT
// What the programs under the sanitizers share: random tensors, each in a heap block of exactly its
// size, teams of threads, and instruction sets.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../../../csrc/cpu/problem.h"
#include "../../../../csrc/cpu/processor.h"
#include "../../../../csrc/cpu/team.h"

namespace fused_rnn::cpu {

inline std::mt19937 generator;

inline int64_t draw(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// A tensor of any dtype, filled with small random numbers or with bytes that make a NaN.
struct Buffer {
  std::vector<char> bytes;
  Dtype dtype;
  int64_t count;

  Buffer(Dtype dtype, int64_t count, bool random) : dtype(dtype), count(count) {
    bytes.assign(size_t(count) * width(), char(0xFF));
    for (int64_t i = 0; random && i < count; ++i) set(i, double(draw(-1000, 1000)) / 2000);
  }

  size_t width() const { return dtype == Dtype::kDouble ? 8 : dtype == Dtype::kFloat ? 4 : 2; }

  void set(int64_t i, double value) {
    char* to = bytes.data() + size_t(i) * width();
    if (dtype == Dtype::kDouble) {
      std::memcpy(to, &value, 8);
      return;
    }
    const float narrow = float(value);
    uint32_t bits;
    std::memcpy(&bits, &narrow, 4);
    if (dtype == Dtype::kFloat) {
      std::memcpy(to, &bits, 4);
      return;
    }
    // Truncation will do: bfloat16 drops the low half, float16 keeps its own range of exponents.
    uint16_t half = uint16_t(bits >> 16);
    if (dtype == Dtype::kHalf) {
      const int exponent = int((bits >> 23) & 0xFF) - 112;
      half = uint16_t(((bits >> 16) & 0x8000) |
                      (exponent > 0 ? (uint32_t(exponent) << 10) | ((bits >> 13) & 0x3FF) : 0));
    }
    std::memcpy(to, &half, 2);
  }

  double get(int64_t i) const {
    const char* from = bytes.data() + size_t(i) * width();
    if (dtype == Dtype::kDouble) {
      double value;
      std::memcpy(&value, from, 8);
      return value;
    }
    if (dtype == Dtype::kFloat) {
      float value;
      std::memcpy(&value, from, 4);
      return value;
    }
    uint16_t bits;
    std::memcpy(&bits, from, 2);
    if (dtype == Dtype::kBf16) {
      const uint32_t wide = uint32_t(bits) << 16;
      float value;
      std::memcpy(&value, &wide, 4);
      return value;
    }
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                             : exponent == 0 ? std::ldexp(mantissa, -24)
                                             : std::ldexp(1024 + mantissa, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
  }

  void* data() { return bytes.data(); }
};

using Buffers = std::vector<std::unique_ptr<Buffer>>;

inline Buffer* add(Buffers& buffers, Dtype dtype, int64_t count, bool random) {
  buffers.push_back(std::make_unique<Buffer>(dtype, count, random));
  return buffers.back().get();
}

// Whether results agree, each as a whole, to a bound of their size, and to `least` where they are
// small. What is out of place differs by more than it holds.
inline bool near(const Buffers& a, const Buffers& b, double bound, double least) {
  for (size_t i = 0; i < a.size(); ++i) {
    double difference = 0, square = least;
    for (int64_t k = 0; k < a[i]->count; ++k) {
      const double d = a[i]->get(k) - b[i]->get(k);
      difference += d * d;
      square += b[i]->get(k) * b[i]->get(k);
    }
    if (!(difference <= bound * bound * square)) return false;
  }
  return true;
}

inline void on_team(int size, const std::function<void(Team&, int)>& f) {
  Team team(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&, rank] { f(team, rank); });
  for (std::thread& thread : threads) thread.join();
}

// Tables of kernels, of which the Makefile may leave some out.
#define FUSED_RNN_MAYBE __attribute__((weak))
extern const Kernels kAmx FUSED_RNN_MAYBE, kAvx512Bf16 FUSED_RNN_MAYBE, kAvx512 FUSED_RNN_MAYBE,
    kAvx2 FUSED_RNN_MAYBE, kNeonBf16 FUSED_RNN_MAYBE, kNeon FUSED_RNN_MAYBE,
    kAmxTwin FUSED_RNN_MAYBE;
extern const StoredKernels kStoredAmx FUSED_RNN_MAYBE, kStoredAvx512 FUSED_RNN_MAYBE,
    kStoredAvx2 FUSED_RNN_MAYBE, kStoredNeon FUSED_RNN_MAYBE, kStoredAmxTwin FUSED_RNN_MAYBE;
#undef FUSED_RNN_MAYBE

// An instruction set's table, null if it was not built, and whether this machine runs it.
template <class Table>
struct Set {
  const char* name;
  const Table* kernels;
  bool runs;
};

inline std::vector<Set<Kernels>> sets() {
  std::vector<Set<Kernels>> all{{"portable", &kPortable, true}, {"amx_twin", &kAmxTwin, true}};
#if defined(__x86_64__)
  const Processor& has = processor();
  all.insert(all.end(), {{"amx", &kAmx, has.amx},
                         {"avx512_bf16", &kAvx512Bf16, has.avx512_bf16},
                         {"avx512", &kAvx512, has.avx512},
                         {"avx2", &kAvx2, has.avx2}});
#elif defined(__aarch64__)
  all.insert(all.end(), {{"neon_bf16", &kNeonBf16, processor().neon_bf16}, {"neon", &kNeon, true}});
#endif
  return all;
}

// The same of weights of fewer bits.
inline std::vector<Set<StoredKernels>> stored_sets() {
  std::vector<Set<StoredKernels>> all{{"portable, stored", &kStoredPortable, true},
                                      {"amx_int8_twin, stored", &kStoredAmxTwin, true}};
#if defined(__x86_64__)
  const Processor& has = processor();
  all.insert(all.end(), {{"amx_int8, stored", &kStoredAmx, has.amx_int8},
                         {"avx512_vnni, stored", &kStoredAvx512, has.avx512_vnni},
                         {"avx2, stored", &kStoredAvx2, has.avx2}});
#elif defined(__aarch64__)
  all.push_back({"neon, stored", &kStoredNeon, true});
#endif
  return all;
}

// Runs check(kernels) for each instruction set and seed, until one is false.
template <class Table>
int for_problems(const std::vector<Set<Table>>& sets, int problems,
                 bool (*check)(const Table& kernels)) {
  for (const auto& [name, kernels, runs] : sets) {
    if (!kernels || !runs) {
      std::printf("%s: %s\n", name, kernels ? "not run, this machine lacks it" : "not built");
      continue;
    }
    // The twin does what a processor's tiles do number by number.
    const int count = std::strstr(name, "twin") ? (problems + 7) / 8 : problems;
    for (int seed = 0; seed < count; ++seed) {
      generator.seed(unsigned(seed));
      if (check(*kernels)) continue;
      std::printf("%s: seed %d differs\n", name, seed);
      return 1;
    }
    std::printf("%s: %d problems agree on 1 to 4 threads\n", name, count);
  }
  return 0;
}

}  // namespace fused_rnn::cpu
