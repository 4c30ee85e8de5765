// SPDX-License-Identifier: MIT
// The host twin of the CUDA environment: what kernel sources see when g++ compiles them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static_assert(false, "static shared memory: use SHARED_MEMORY")

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

// 2^-10.9.
constexpr float kTanhError = 0.000523f;

enum class Order { kRelaxed, kAcquire, kRelease };

struct Shape {
  dim3 grid, block;
  size_t shared_bytes;
  bool cooperative;
  int cluster;
};

// Whether the blocks of a cooperative launch, or of one cluster, are resident at once.
bool fits(const Shape& shape);

// Runs a kernel to its end; returns what went wrong, or null. The text lives until the next run.
const char* run(const Shape& shape, const std::function<void()>& kernel);

const dim3& thread_index();
const dim3& block_index();
const dim3& block_size();
const dim3& grid_size();
unsigned char* shared_memory();

void barrier();
bool barrier_or(bool own);
void warp_barrier();
bool any(uint32_t mask, bool own);
uint32_t shuffle_xor(uint32_t mask, uint32_t value, int lanes);
void ldmatrix_x4(uint32_t (&d)[4], const void* row);
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*value)(uint16_t));

void cp_async(void* to, const void* from, int bytes);
void cp_async_commit();
void cp_async_wait(int left);
void cluster_sync();
void init_transactions(void* barrier);
void expect_bytes(void* barrier, uint32_t bytes);
// Whether the phase of this parity has ended, once it has or nothing else can run.
bool landed(void* barrier, uint32_t parity);
void push(void* to, uint32_t rank, const void* value, void* barrier);
uint64_t load(const void* from, int bytes, Order order);
// Four words, each read on its own.
void load_vector(uint32_t (&d)[4], const uint32_t* from);
void store(uint32_t* to, uint32_t value);
void add(uint32_t* to, uint32_t value, Order order);
// Whether a wait may look again: until nothing else can run, and it is this one's turn to give up.
bool patient();

template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline float float_of_bits(uint32_t bits) { return same_bits<float>(bits); }
inline float bf16_value(uint16_t bits) { return float_of_bits(uint32_t(bits) << 16); }
inline float half_value(uint16_t bits) { return float(same_bits<_Float16>(bits)); }
inline uint16_t half_bits(float x) { return same_bits<uint16_t>(_Float16(x)); }
inline uint16_t bf16_bits(float x) {
  const uint32_t bits = same_bits<uint32_t>(x);
  if (x != x) return 0x7FFF;
  return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// As far off as the hardware's function may be, for numbers near each other to the same side; of
// infinities it is exact.
inline float tanh_approx(float x) {
  if (std::isinf(x)) return std::tanh(x);
  const uint32_t segment = same_bits<uint32_t>(x) >> 16;
  const float off = segment * 0x9E3779B1u >> 31 ? 1 + kTanhError : 1 - kTanhError;
  return std::clamp(std::tanh(x) * off, -1.0f, 1.0f);
}

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

inline __attribute__((always_inline)) void __syncthreads() { emulator::barrier(); }

inline __attribute__((always_inline)) int __syncthreads_or(int own) {
  return emulator::barrier_or(own != 0);
}

inline __attribute__((always_inline)) int __any_sync(uint32_t mask, int own) {
  return emulator::any(mask, own != 0);
}

inline __attribute__((always_inline)) void __syncwarp() { emulator::warp_barrier(); }

inline __attribute__((always_inline)) float __shfl_xor_sync(uint32_t mask, float x, int lanes) {
  return emulator::float_of_bits(
      emulator::shuffle_xor(mask, emulator::same_bits<uint32_t>(x), lanes));
}

inline __attribute__((always_inline)) uint32_t __shfl_xor_sync(uint32_t mask, uint32_t x,
                                                               int lanes) {
  return emulator::shuffle_xor(mask, x, lanes);
}

inline __attribute__((always_inline)) double __shfl_xor_sync(uint32_t mask, double x, int lanes) {
  uint32_t half[2];
  std::memcpy(half, &x, 8);
  for (uint32_t& part : half) part = emulator::shuffle_xor(mask, part, lanes);
  std::memcpy(&x, half, 8);
  return x;
}
