// SPDX-License-Identifier: MIT
// The eight tile registers of AMX, each of 16 rows of 64 bytes, and what kernels do with them.
// With FUSED_RNN_TILES_TWIN they are plain memory, so that the same kernels run on any machine:
// the same operations in the same order, to the same bits.
#pragma once

#include <cstdint>

#include "../operand.h"
#include "../vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

constexpr int kTileRows = 16;

#ifdef FUSED_RNN_TILES_TWIN

struct Tile {
  alignas(64) char bytes[kTileBytes];
};
inline thread_local Tile tile_registers[8];
inline thread_local bool tiles_configured = false;

class TileScope {
 public:
  TileScope() { tiles_configured = true; }
  ~TileScope() { tiles_configured = false; }
};

// The memory of a register; outside a TileScope the processor would refuse as well.
template <int t>
inline char* tile_register() {
  if (!tiles_configured) __builtin_trap();
  return tile_registers[t].bytes;
}

template <int t>
inline void tile_zero() {
  __builtin_memset(tile_register<t>(), 0, kTileBytes);
}

template <int t>
inline void tile_load(const void* from, int64_t stride) {
  for (int r = 0; r < kTileRows; ++r) {
    __builtin_memcpy(tile_register<t>() + r * 64, static_cast<const char*>(from) + r * stride, 64);
  }
}

template <int t>
inline void tile_store(void* to, int64_t stride) {
  for (int r = 0; r < kTileRows; ++r) {
    __builtin_memcpy(static_cast<char*>(to) + r * stride, tile_register<t>() + r * 64, 64);
  }
}

// A subnormal number as zero.
inline float flushed(float v) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, v);
  return (bits & 0x7F800000) ? v : __builtin_bit_cast(float, bits & 0x80000000);
}

// One rounding: the product has 16 bits, and double twice those of float and two more.
inline float fused_multiply_add(float a, float b, float c) {
  return flushed(float(double(a) * double(b) + double(c)));
}

// c += a b: even and odd elements of k are summed by themselves, then added up, then added to c.
template <int c, int a, int b>
inline void tile_product() {
  typedef float Sums[kTileRows][16];
  typedef uint16_t Operand[kTileRows][32];
  Sums& sums = *reinterpret_cast<Sums*>(tile_register<c>());
  const Operand& x = *reinterpret_cast<const Operand*>(tile_register<a>());
  const Operand& w = *reinterpret_cast<const Operand*>(tile_register<b>());
  for (int m = 0; m < kTileRows; ++m) {
    float parts[2][16] = {};
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 16; ++n) {
        for (int odd = 0; odd < 2; ++odd) {
          const float first = flushed(bf16_to_float(x[m][2 * k + odd]));
          const float second = flushed(bf16_to_float(w[k][2 * n + odd]));
          parts[odd][n] = fused_multiply_add(first, second, parts[odd][n]);
        }
      }
    }
    for (int n = 0; n < 16; ++n) {
      sums[m][n] = flushed(flushed(sums[m][n]) + flushed(parts[0][n] + parts[1][n]));
    }
  }
}

#else

// A thread's registers in use, all of them 16 rows of 64 bytes.
class TileScope {
 public:
  TileScope() {
    alignas(64) uint8_t configuration[64] = {1};
    for (int t = 0; t < 8; ++t) {
      configuration[16 + 2 * t] = 64;
      configuration[48 + t] = kTileRows;
    }
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~TileScope() { asm volatile("tilerelease" ::); }
};

template <int t>
VEC_FN void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(t));
}

template <int t>
VEC_FN void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t) : "memory");
}

template <int t>
VEC_FN void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(t) : "memory");
}

template <int c, int a, int b>
VEC_FN void tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

#endif

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
