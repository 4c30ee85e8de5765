// SPDX-License-Identifier: MIT
// Random bits of dropout and zoneout by a generator that counts, so that none need be kept: Philox
// 4x32 of 7 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The key is
// a row's seed, the counter (block of units, step, recurrence, use). The same in Python:
// fused_rnn/backends/reference/draws.py.
#pragma once

#include <cstdint>

#include "../integers.h"
#include "../vec_types.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

enum class Use { kHold, kHoldCell, kKeep };
constexpr int kUses = 3;

// Numbers of 32 bits, which products fill up: one of each block.
typedef uint64_t WordV __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES)));
constexpr int kBlocks = FUSED_RNN_VECTOR_BYTES / 8;
constexpr int kUnitsOfBlock = 8;  // of 16 bits each
constexpr int kUnitsDrawn = kBlocks * kUnitsOfBlock;

inline int64_t drawn_size(int64_t units) { return round_up(units, kUnitsDrawn); }

// a and b in turns, lane by lane.
VEC_FN void store_in_turns(int16_t* to, WordV a, WordV b) {
  constexpr int half = kBlocks / 2;
  const auto lanes = std::make_integer_sequence<int, kBlocks>{};
  const WordV turns[] = {alternate<0, kBlocks>(a, b, lanes),
                         alternate<half, kBlocks + half>(a, b, lanes)};
  __builtin_memcpy(to, turns, sizeof turns);
}

// The bits of `units` units, of which `to` takes drawn_size().
inline void draw_bits(int16_t* to, int64_t units, int64_t seed, int64_t step, int64_t recurrence,
                      Use use) {
  constexpr uint64_t kLow = 0xFFFFFFFF;
  for (int64_t u = 0; u < units; u += kUnitsDrawn) {
    WordV a, b = WordV{} + uint64_t(step), c = WordV{} + uint64_t(recurrence),
             d = WordV{} + uint64_t(use);
    for (int l = 0; l < kBlocks; ++l) a[l] = uint64_t(u / kUnitsOfBlock + l);
    uint64_t low = uint64_t(seed) & kLow, high = uint64_t(seed) >> 32;
#pragma GCC unroll 7
    for (int round = 0; round < 7; ++round) {
      const WordV p = a * uint64_t(0xD2511F53), q = c * uint64_t(0xCD9E8D57);
      a = (q >> 32) ^ b ^ low;
      b = q & kLow;
      c = (p >> 32) ^ d ^ high;
      d = p & kLow;
      low = (low + 0x9E3779B9) & kLow;
      high = (high + 0xBB67AE85) & kLow;
    }
    store_in_turns(to + u, a | b << 32, c | d << 32);
  }
}

// 16 bits for each lane, as numbers with a sign.
template <class C>
struct BitsOf;
template <>
struct BitsOf<float> {
  typedef int16_t type __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES / 2)));
};
template <>
struct BitsOf<double> {
  typedef int16_t type __attribute__((vector_size(FUSED_RNN_VECTOR_BYTES / 4)));
};

// What has a probability, rounded to a multiple of 2^-16: 1 where a lane's bits are below it.
template <class C>
class Chance {
 public:
  explicit Chance(double probability) : limit_(C(int64_t(probability * 65536 + 0.5) - 32768)) {}

  Vec<C> of(const int16_t* bits) const {
    const Vec<C> zero{}, one = zero + 1;
    const auto numbers = __builtin_convertvector(read<typename BitsOf<C>::type>(bits), Vec<C>);
    return numbers < limit_ ? one : zero;
  }

 private:
  C limit_;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
