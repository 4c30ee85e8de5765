// SPDX-License-Identifier: MIT
// What this machine can do at most: multiply-adds a second, and bytes a second from each level.
// Plain C interface for ctypes; every function returns a rate measured over `seconds`.
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__)
#define HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
constexpr int kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32;
constexpr int kAccumulators = 12;
#else
constexpr int kBytes = 16;
constexpr int kAccumulators = 12;
#endif
typedef float Vec __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);

using Clock = std::chrono::steady_clock;

double elapsed(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Runs `work` (which returns units done) on each thread until the time is over; units a second.
double rate(int threads, double seconds, const std::function<double(int)>& work) {
  std::atomic<int> waiting{threads};
  std::vector<double> rates(threads);
  auto body = [&](int index) {
    work(index);
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    double units = 0;
    const auto start = Clock::now();
    while (elapsed(start) < seconds) units += work(index);
    rates[index] = units / elapsed(start);
  };
  std::vector<std::thread> team;
  for (int index = 1; index < threads; ++index) team.emplace_back(body, index);
  body(0);
  for (auto& thread : team) thread.join();
  double sum = 0;
  for (double value : rates) sum += value;
  return sum;
}

volatile float sink;

double multiply_adds(int) {
  constexpr int kRepeats = 20000;
  Vec sums[kAccumulators] = {};
  Vec factor{}, term{};
  factor += 0.999f;
  term += 0.001f;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma GCC unroll 32
    for (int i = 0; i < kAccumulators; ++i) {
      sums[i] = sums[i] * factor + term;
      // Keeps each sum in its register and the loop in the program.
      asm volatile("" : "+v"(sums[i]));
    }
  }
  sink = sums[0][0];
  return 2.0 * kRepeats * kAccumulators * kLanes;
}

#ifdef __AVX512BF16__
double multiply_adds_bfloat16(int) {
  constexpr int kRepeats = 20000;
  __m512 sums[kAccumulators] = {};
  const __m512bh factor = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma GCC unroll 32
    for (int i = 0; i < kAccumulators; ++i) {
      sums[i] = _mm512_dpbf16_ps(sums[i], factor, factor);
      asm volatile("" : "+v"(sums[i]));
    }
  }
  sink = sums[0][0];
  return 4.0 * kRepeats * kAccumulators * kLanes;
}
#endif

#ifdef HAS_TILES
// Linux keeps the tiles from a process that has not asked for them.
bool may_use_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool may = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return may;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t unused[15] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Six sums of 16 x 16, and two factors with 32 numbers a row.
double tile_multiply_adds(int) {
  constexpr int kRepeats = 5000;
  // In memory: compilers may not see that all of it is read.
  static const TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return 2.0 * kRepeats * 6 * (16 * 16 * 32);
}
#endif

double read_all(const Vec* data, size_t count) {
  Vec sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      Vec value = data[i + k];
      asm volatile("" : "+v"(value));
      sums[k] = value;
    }
  }
  sink = sums[0][0];
  return static_cast<double>(count / 8 * 8 * sizeof(Vec));
}

}  // namespace

extern "C" {

// FLOP a second of float32 fused multiply-adds.
double fused_rnn_bench_flops(int threads, double seconds) {
  return rate(threads, seconds, multiply_adds);
}

// FLOP a second of bfloat16 dot products with float32 sums, in tiles where there are any; 0 where
// the machine has none.
double fused_rnn_bench_flops_bfloat16(int threads, double seconds) {
#ifdef HAS_TILES
  if (may_use_tiles()) return rate(threads, seconds, tile_multiply_adds);
#endif
#ifdef __AVX512BF16__
  return rate(threads, seconds, multiply_adds_bfloat16);
#else
  (void)threads, (void)seconds;
  return 0;
#endif
}

// Bytes a second read over and over from a buffer of `bytes` on each thread.
double fused_rnn_bench_read(int threads, int64_t bytes, double seconds) {
  std::vector<void*> buffers(threads, nullptr);
  for (auto& buffer : buffers) {
    if (posix_memalign(&buffer, 4096, bytes) != 0) return 0;
    std::memset(buffer, 1, bytes);
  }
  const double result = rate(threads, seconds, [&](int index) {
    return read_all(static_cast<const Vec*>(buffers[index]), bytes / sizeof(Vec));
  });
  for (void* buffer : buffers) std::free(buffer);
  return result;
}
}
