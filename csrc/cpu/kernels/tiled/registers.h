// SPDX-License-Identifier: MIT
// The eight tile registers of AMX, each of up to 16 rows of 64 bytes, and what kernels do with
// them. With FUSED_RNN_TILES_TWIN they are plain memory, so that the same kernels run on any
// machine: the same operations in the same order, to the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../operand.h"
#include "../vec.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

constexpr int kTileRows = 16, kTileRowBytes = 64, kTileRegisters = 8;

// What a register holds: so many rows of so many bytes.
struct TileShape {
  int rows = kTileRows, bytes = kTileRowBytes;
};
struct TileShapes {
  TileShape of[kTileRegisters];
};

#ifdef FUSED_RNN_TILES_TWIN

struct Tile {
  alignas(64) char bytes[kTileBytes];
};
inline thread_local Tile tile_registers[kTileRegisters];
inline thread_local TileShapes tile_shapes;
inline thread_local bool tiles_configured = false;

inline void tile_configure(const TileShapes& shapes) {
  tile_shapes = shapes;
  tiles_configured = true;
}
inline void tile_release() { tiles_configured = false; }

// The memory of a register; before tile_configure the processor would refuse as well.
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
  tile_zero<t>();
  for (int r = 0; r < tile_shapes.of[t].rows; ++r) {
    __builtin_memcpy(tile_register<t>() + r * kTileRowBytes,
                     static_cast<const char*>(from) + r * stride, size_t(tile_shapes.of[t].bytes));
  }
}

template <int t>
inline void tile_store(void* to, int64_t stride) {
  for (int r = 0; r < tile_shapes.of[t].rows; ++r) {
    __builtin_memcpy(static_cast<char*>(to) + r * stride, tile_register<t>() + r * kTileRowBytes,
                     size_t(tile_shapes.of[t].bytes));
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

// c += a b in integers of 32 bits: bytes of a without a sign, those of b with one, in fours.
template <int c, int a, int b>
inline void tile_product_integers() {
  const TileShape sums = tile_shapes.of[c], x = tile_shapes.of[a], w = tile_shapes.of[b];
  // Else the processor would refuse.
  if (sums.rows != x.rows || sums.bytes != w.bytes || x.bytes != 4 * w.rows) __builtin_trap();
  for (int m = 0; m < sums.rows; ++m) {
    for (int n = 0; n < sums.bytes; n += 4) {
      uint32_t sum;
      __builtin_memcpy(&sum, tile_register<c>() + m * kTileRowBytes + n, sizeof sum);
      for (int k = 0; k < x.bytes; ++k) {
        const char first = tile_register<a>()[m * kTileRowBytes + k];
        const char second = tile_register<b>()[k / 4 * kTileRowBytes + n + k % 4];
        sum += uint32_t(int(uint8_t(first)) * int(int8_t(second)));
      }
      __builtin_memcpy(tile_register<c>() + m * kTileRowBytes + n, &sum, sizeof sum);
    }
  }
}

#else

VEC_FN void tile_configure(const TileShapes& shapes) {
  alignas(64) uint8_t configuration[64] = {1};
  for (int t = 0; t < kTileRegisters; ++t) {
    configuration[16 + 2 * t] = uint8_t(shapes.of[t].bytes);
    configuration[48 + t] = uint8_t(shapes.of[t].rows);
  }
  asm volatile("ldtilecfg %0" ::"m"(configuration));
}
VEC_FN void tile_release() { asm volatile("tilerelease" ::); }

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

template <int c, int a, int b>
VEC_FN void tile_product_integers() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

#endif

// A thread's registers in use, all of them 16 rows of 64 bytes.
class TileScope {
 public:
  TileScope() { tile_configure({}); }
  ~TileScope() { tile_release(); }
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
