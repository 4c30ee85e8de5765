// SPDX-License-Identifier: MIT
// What kernels ask of the machine beyond C++: the only place with inline PTX.
//
// nvcc sees the instructions. g++ sees their host twins, namespace emulator, which its caller gives
// it beforehand with -include, so that one kernel source runs on both. Each comment says what the
// primitive orders.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "../../types.h"
#include "../launch.h"
#include "../problem.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define DEVICE_FN __device__ __forceinline__
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
#define PTX_OR_TWIN(ptx, twin) ptx
#else
#define DEVICE_FN inline __attribute__((always_inline))
#define SHARED_MEMORY(name) unsigned char* name = emulator::shared_memory()
#define PTX_OR_TWIN(ptx, twin) twin
#endif

namespace fused_rnn {

// Whether the architecture that this is compiled for has clusters of blocks.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kHasClusters = false;
#else
constexpr bool kHasClusters = true;
#endif

#ifdef __CUDACC__
using Stream = cudaStream_t;
#else
using Stream = void*;
#endif

// ---- Numbers. The 16-bit formats are kept as bits; conversions round to nearest even.

DEVICE_FN uint32_t pair_bf16(float low, float high) {
  uint32_t d;
  PTX_OR_TWIN(asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low)),
              d = emulator::bf16_bits(low) | uint32_t(emulator::bf16_bits(high)) << 16);
  return d;
}

DEVICE_FN uint32_t pair_half(float low, float high) {
  uint32_t d;
  PTX_OR_TWIN(asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low)),
              d = emulator::half_bits(low) | uint32_t(emulator::half_bits(high)) << 16);
  return d;
}

DEVICE_FN float float_of_half(uint16_t bits) {
  float d;
  PTX_OR_TWIN(asm("cvt.f32.f16 %0, %1;" : "=f"(d) : "h"(bits)), d = emulator::half_value(bits));
  return d;
}

// x & mask, of which the compiler knows nothing: of a loop's counter it would keep all that follows
// from it in registers of their own, from one round to the next.
DEVICE_FN uint32_t low_bits(uint32_t x, uint32_t mask) {
  uint32_t d;
  PTX_OR_TWIN(asm("and.b32 %0, %1, %2;" : "=r"(d) : "r"(x), "r"(mask)), d = x & mask);
  return d;
}

DEVICE_FN float float_of_bits(uint32_t bits) {
  PTX_OR_TWIN(return __uint_as_float(bits), return emulator::float_of_bits(bits));
}

// The hardware's own functions: this one with a relative error of up to 2^-10.9, those below with
// one of some 2^-22.
DEVICE_FN float tanh_approx(float x) {
  float d;
  PTX_OR_TWIN(asm("tanh.approx.f32 %0, %1;" : "=f"(d) : "f"(x)), d = emulator::tanh_approx(x));
  return d;
}

DEVICE_FN float exp2_approx(float x) {
  float d;
  PTX_OR_TWIN(asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x)), d = std::exp2(x));
  return d;
}

DEVICE_FN float reciprocal(float x) {
  float d;
  PTX_OR_TWIN(asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x)), d = 1 / x);
  return d;
}

// ---- Warp. All 32 lanes must arrive; no memory is ordered.

// Four 8x8 matrices of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8, and
// gets of each the elements 2 (l % 4) and the next of row l / 4.
DEVICE_FN void ldmatrix_x4(uint32_t (&d)[4], const void* row) {
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
#endif
  PTX_OR_TWIN(
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(d[0]),
                   "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(address) : "memory"),
      emulator::ldmatrix_x4(d, row));
}

// d (16x8) += a (16x16) b (16x8). With r = lane / 4 and q = lane % 4: a[0] holds row r, columns
// 2q and 2q + 1; a[1] row r + 8; a[2], a[3] the same rows, columns + 8. b[0] holds column r, rows
// 2q and 2q + 1; b[1] rows + 8. d[0], d[1] hold row r, columns 2q and 2q + 1; d[2], d[3] row r + 8.
template <class IO>
DEVICE_FN void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#ifdef __CUDACC__
#define FUSED_RNN_MMA(type)                                                  \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
#endif

template <>
DEVICE_FN void mma<Bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  PTX_OR_TWIN(FUSED_RNN_MMA("bf16"), emulator::mma(d, a, b0, b1, &emulator::bf16_value));
}

template <>
DEVICE_FN void mma<Half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  PTX_OR_TWIN(FUSED_RNN_MMA("f16"), emulator::mma(d, a, b0, b1, &emulator::half_value));
}

// ---- Asynchronous copies from global to shared memory. A copy is visible to the thread that made
// it once it has waited for its group, to the others after a barrier behind that.

DEVICE_FN void cp_async4(void* to, const void* from) {
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
#endif
  PTX_OR_TWIN(
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from) : "memory"),
      emulator::cp_async(to, from, 4));
}

// Past the first-level cache, where lines written by other multiprocessors could be stale.
DEVICE_FN void cp_async16(void* to, const void* from) {
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
#endif
  PTX_OR_TWIN(asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address),
                           "l"(from) : "memory"),
              emulator::cp_async(to, from, 16));
}

DEVICE_FN void cp_async_commit() {
  PTX_OR_TWIN(asm volatile("cp.async.commit_group;" :: : "memory"), emulator::cp_async_commit());
}

// Waits until at most `left` of this thread's groups are under way.
template <int left>
DEVICE_FN void cp_async_wait() {
  PTX_OR_TWIN(asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory"),
              emulator::cp_async_wait(left));
}

// A hint that a line will be read soon; fetches it into the second-level cache.
DEVICE_FN void prefetch(const void* line) {
  PTX_OR_TWIN(asm volatile("prefetch.global.L2 [%0];" ::"l"(line)), (void)line);
}

// Sixteen bytes, moved at once.
struct alignas(16) Vector {
  uint32_t words[4];
};

// ---- Words in global memory that the whole grid shares. A relaxed access orders nothing else;
// each word of a vector is one of its own.

DEVICE_FN void store_relaxed(uint32_t* to, uint32_t value) {
  PTX_OR_TWIN(asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory"),
              emulator::store(to, value));
}

DEVICE_FN Vector load_relaxed(const Vector* from) {
  Vector d;
  PTX_OR_TWIN(
      asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(d.words[0]),
                   "=r"(d.words[1]), "=r"(d.words[2]), "=r"(d.words[3]) : "l"(from) : "memory"),
      emulator::load_vector(d.words, from->words));
  return d;
}

// What was written before a release, by this thread or one that met it at a barrier, is visible
// behind an acquire that reads its value or a later one.
DEVICE_FN void add_release(uint32_t* counter, uint32_t value) {
  PTX_OR_TWIN(asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter),
                           "r"(value) : "memory"),
              emulator::add(counter, value, emulator::Order::kRelease));
}

DEVICE_FN uint32_t load_acquire(const uint32_t* counter) {
  uint32_t d;
  PTX_OR_TWIN(
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(d) : "l"(counter) : "memory"),
      d = uint32_t(emulator::load(counter, 4, emulator::Order::kAcquire)));
  return d;
}

DEVICE_FN uint32_t load_relaxed(const uint32_t* counter) {
  uint32_t d;
  PTX_OR_TWIN(
      asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(d) : "l"(counter) : "memory"),
      d = uint32_t(emulator::load(counter, 4, emulator::Order::kRelaxed)));
  return d;
}

// ---- A word of the host's, by which the waits of all launches of a kind tell that one ran out.

DEVICE_FN void set(int* word) {
  PTX_OR_TWIN(asm volatile("st.relaxed.sys.global.u32 [%0], 1;" ::"l"(word) : "memory"),
              emulator::store(reinterpret_cast<uint32_t*>(word), 1));
}

DEVICE_FN bool is_set(const int* word) {
  uint32_t d;
  PTX_OR_TWIN(asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(d) : "l"(word) : "memory"),
              d = uint32_t(emulator::load(word, 4, emulator::Order::kRelaxed)));
  return d != 0;
}

// Looks of a wait: some seconds of them, at a microsecond each, and how many it makes until it asks
// whether another wait ran out. As many pass until what is on its way has landed.
constexpr uint32_t kMostLooks = 1 << 23;
#ifdef __CUDACC__
constexpr uint32_t kFewLooks = 1 << 13;
#else
// The emulator's take as long as there is anything else to do.
constexpr uint32_t kFewLooks = 1;
#endif

// Whether a wait that has looked so often may look again.
DEVICE_FN bool patient(uint32_t looks) {
  PTX_OR_TWIN(return looks < kMostLooks, return emulator::patient());
}

// ---- Clusters of blocks, which write into each other's shared memory. A transaction barrier is a
// word of shared memory whose phase ends when one thread has arrived and all the bytes it expects
// have landed.

// All threads of all blocks of the cluster meet; orders everything.
DEVICE_FN void cluster_sync() {
  PTX_OR_TWIN(asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
                           "barrier.cluster.wait.acquire.aligned;" :: : "memory"),
              emulator::cluster_sync());
}

// By one thread; the cluster meets before any other use.
DEVICE_FN void init_transactions(uint64_t* barrier) {
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(barrier));
#endif
  PTX_OR_TWIN(asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\t"
                           "fence.mbarrier_init.release.cluster;" ::"r"(address) : "memory"),
              emulator::init_transactions(barrier));
}

// The one arrival of a phase. Bytes may land before it.
DEVICE_FN void expect_bytes(uint64_t* barrier, uint32_t bytes) {
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(barrier));
#endif
  PTX_OR_TWIN(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address),
                           "r"(bytes) : "memory"),
              emulator::expect_bytes(barrier, bytes));
}

// Whether the phase of this parity has ended, after a moment at most; what has landed in it is
// visible then. That is in the block's own shared memory, which needs no order beyond the block.
DEVICE_FN bool landed(uint64_t* barrier, uint32_t parity) {
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(barrier)), nanoseconds = 1000;
#endif
  uint32_t done;
  PTX_OR_TWIN(asm volatile("{\n\t.reg .pred p;\n\t"
                           "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, %3;\n\t"
                           "selp.u32 %0, 1, 0, p;\n\t}" : "=r"(done) : "r"(address),
                           "r"(parity), "r"(nanoseconds) : "memory"),
              done = emulator::landed(barrier, parity));
  return done != 0;
}

// Writes to where `to` is in the shared memory of block `rank` of the cluster, and tells the
// barrier that is there where `barrier` is here. Lands some time later.
DEVICE_FN void push(void* to, uint32_t rank, const Vector& value, uint64_t* barrier) {
#ifdef __CUDACC__
  const uint32_t here = uint32_t(__cvta_generic_to_shared(to));
  const uint32_t here_too = uint32_t(__cvta_generic_to_shared(barrier));
  uint32_t there, there_too;
#endif
  PTX_OR_TWIN(
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there_too) : "r"(here_too), "r"(rank));
      asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                   "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(there),
                   "r"(value.words[0]), "r"(value.words[1]), "r"(value.words[2]),
                   "r"(value.words[3]), "r"(there_too) : "memory"),
      emulator::push(to, rank, &value, barrier));
}

// ---- Launch.

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  // All blocks are resident at once, or the launch fails.
  bool cooperative = false;
  // Neighbouring blocks along x that make up a cluster.
  int cluster = 1;
};

// Queues a kernel; returns what went wrong, or null.
#ifdef __CUDACC__
template <class... P>
const char* launch(void (*kernel)(P...), const Launch& how, Stream stream, P... arguments) {
  void* pointers[] = {&arguments...};
  const cuda::Request request{reinterpret_cast<const void*>(kernel),
                              {how.grid.x, how.grid.y, how.grid.z},
                              {how.block.x, how.block.y, how.block.z},
                              how.shared_bytes,
                              how.cooperative,
                              how.cluster,
                              pointers};
  return cuda::queue(request, stream);
}
#else
template <class... P>
const char* launch(void (*kernel)(P...), const Launch& how, Stream, P... arguments) {
  const emulator::Shape shape{how.grid, how.block, how.shared_bytes, how.cooperative, how.cluster};
  if (!emulator::fits(shape)) return cuda::kTooLarge;
  return emulator::run(shape, [&] { kernel(arguments...); });
}
#endif

}  // namespace fused_rnn
