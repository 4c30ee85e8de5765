// SPDX-License-Identifier: MIT
#include "launch.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>

#include "../names.h"
#include "processor.h"

namespace at {
// Of ATen/Parallel.h, which is not part of the stable interface: null where a release has none.
[[gnu::weak]] std::string get_parallel_info();
}  // namespace at

namespace fused_rnn::cpu {
namespace {

// What this machine runs, the most capable first.
const std::vector<const Kernels*>& available() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> sets;
    [[maybe_unused]] const Processor& has = processor();
#if defined(__x86_64__)
    if (has.amx) sets.push_back(&kAmx);
    if (has.avx512_bf16) sets.push_back(&kAvx512Bf16);
    if (has.avx512) sets.push_back(&kAvx512);
    if (has.avx2) sets.push_back(&kAvx2);
#elif defined(__aarch64__)
    if (has.neon_bf16) sets.push_back(&kNeonBf16);
    sets.push_back(&kNeon);
#endif
    sets.push_back(&kPortable);
    return sets;
  }();
  return found;
}

// The set asked for by name; null: the fastest for each call.
std::atomic<const Kernels*> asked_for{nullptr};

// The same of the kernels for weights of fewer bits.
const std::vector<const StoredKernels*>& stored_available() {
  static const std::vector<const StoredKernels*> found = [] {
    std::vector<const StoredKernels*> sets;
    [[maybe_unused]] const Processor& has = processor();
#if defined(__x86_64__)
    if (has.amx_int8) sets.push_back(&kStoredAmx);
    if (has.avx512_vnni) sets.push_back(&kStoredAvx512);
    if (has.avx2) sets.push_back(&kStoredAvx2);
#elif defined(__aarch64__)
    sets.push_back(&kStoredNeon);
#endif
    sets.push_back(&kStoredPortable);
    return sets;
  }();
  return found;
}

std::atomic<const StoredKernels*> stored_asked_for{nullptr};

bool has_tiles(const Kernels& kernels) { return !kernels.serves(Dtype::kDouble); }

// The fastest set without tiles.
const Kernels& vectors(Dtype dtype) {
  for (const Kernels* kernels : available()) {
    if (has_tiles(*kernels)) continue;
    if (dtype == Dtype::kBf16 && kernels->dots_bf16 && !processor().fast_bf16) continue;
    return *kernels;
  }
  return kPortable;
}

// The set for a dtype if `tiles` may be used.
const Kernels& fastest(Dtype dtype, bool tiles) {
  const Kernels* asked = asked_for.load(std::memory_order_relaxed);
  if (asked && asked->serves(dtype)) return *asked;
  const Kernels* first = available().front();
  const bool tiled = !asked && tiles && has_tiles(*first) && first->serves(dtype);
  return tiled ? *first : vectors(dtype);
}

// Whether products of so many rows take less time on tiles than on vectors. A tile is 16 rows and
// 32 columns, whatever is in use of it, which bfloat16 affords from some size on; the others take
// several products as well, and most of a tile must be in use.
bool pays(Dtype dtype, int64_t rows, int64_t inputs, int64_t units) {
  const int64_t depth = inputs + units;
  if (dtype == Dtype::kBf16) return depth >= 256;
  return rows >= 16 && units >= 128 && depth >= (dtype == Dtype::kHalf ? 256 : 384);
}

// Three parts of a float32 weight are half as long again as the weight. Out of the L3 they come
// more slowly than vectors multiply, and with a single gate parting the state takes what tiles
// gain.
bool three_parts_pay(const Shape& s) {
  constexpr int64_t kWeights = 1 << 20;
  const int64_t gates = gate_count(s.cell);
  return gates > 1 && gates * s.H * (s.I + s.P) <= kWeights;
}

[[noreturn]] void refuse(const std::string& name, const std::vector<std::string>& known) {
  std::string names = "auto";
  for (const std::string& one : known) names += " " + one;
  throw std::invalid_argument("instruction set: expected one of " + names + ", got " + name);
}

// Whether PyTorch's parallel regions give every index range a thread of its own at once, as OpenMP
// does. Where they do not, threads that wait for one another could wait forever: then one runs.
bool concurrent_regions() {
  static const bool openmp =
      at::get_parallel_info &&
      at::get_parallel_info().find("ATen parallel backend: OpenMP") != std::string::npos;
  return openmp;
}

// Multiply-adds that take about as long as waking another thread.
constexpr double kWorkPerThread = 1 << 17;

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : available()) names.emplace_back(kernels->name);
  return names;
}

std::string instruction_set() {
  const Kernels* asked = asked_for.load();
  return (asked ? asked : available().front())->name;
}

void set_instruction_set(const std::string& name) {
  if (name == "auto") return asked_for.store(nullptr);
  if (name == kAmxTwin.name) return asked_for.store(&kAmxTwin);
  for (const Kernels* kernels : available()) {
    if (name == kernels->name) return asked_for.store(kernels);
  }
  refuse(name, instruction_sets());
}

std::vector<std::string> stored_instruction_sets() {
  std::vector<std::string> names;
  for (const StoredKernels* kernels : stored_available()) names.emplace_back(kernels->name);
  return names;
}

void set_stored_instruction_set(const std::string& name) {
  if (name == "auto") return stored_asked_for.store(nullptr);
  if (name == kStoredAmxTwin.name) return stored_asked_for.store(&kStoredAmxTwin);
  for (const StoredKernels* kernels : stored_available()) {
    if (name == kernels->name) return stored_asked_for.store(kernels);
  }
  refuse(name, stored_instruction_sets());
}

const StoredKernels& stored_kernels(Storage storage) {
  const StoredKernels* asked = stored_asked_for.load(std::memory_order_relaxed);
  if (asked && asked->serves(storage)) return *asked;
  for (const StoredKernels* kernels : stored_available()) {
    if (kernels->serves(storage)) return *kernels;
  }
  return kStoredPortable;
}

std::string why_not_amx() { return processor().why_not_amx; }

Serving serving(const std::string& dtype) {
  const Dtype type = dtype_named(dtype);
  return {fastest(type, false).name, fastest(type, true).name};
}

double product_rate(const std::string& instruction_set, const std::string& dtype) {
  const Dtype type = dtype_named(dtype);
  for (const Kernels* kernels : available()) {
    if (instruction_set != kernels->name || !kernels->serves(type)) continue;
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const std::unique_ptr<char[]> zeros(new char[kProductBytes + 64]());
    char* aligned = zeros.get() + (64 - reinterpret_cast<uintptr_t>(zeros.get()) % 64);
    double best = 0;
    // The highest of several windows: others run on this machine, and clocks rise slowly.
    for (int window = 0; window < 20; ++window) {
      const auto start = now();
      const double multiply_adds = kernels->multiply_zeros(type, aligned, 200);
      const double seconds = std::chrono::duration<double>(now() - start).count();
      best = std::max(best, 2 * multiply_adds / seconds);
    }
    return best;
  }
  return 0;
}

const Kernels& kernels() {
  const Kernels* asked = asked_for.load(std::memory_order_relaxed);
  return asked ? *asked : vectors(Dtype::kFloat);
}

const Kernels& packed_kernels(Dtype dtype, int64_t inputs, int64_t units) {
  constexpr int64_t kAnyRows = 1;
  return fastest(dtype, pays(dtype, kAnyRows, inputs, units));
}

const Kernels& varied_kernels(Dtype dtype) {
  const Kernels* asked = asked_for.load(std::memory_order_relaxed);
  return asked && asked->varied_forward ? *asked : vectors(dtype);
}

const Kernels& layer_kernels(const Shape& s) {
  // Weights that are not worth packing are taken as they lie, which tiles cannot.
  if (s.T <= kUnpackedSteps && s.T * s.B < kUnpackedRows) return fastest(s.dtype, false);
  const bool parted = s.dtype == Dtype::kFloat && s.precision == Precision::kHighest;
  return fastest(s.dtype, pays(s.dtype, s.B, s.I, s.P) && (!parted || three_parts_pay(s)));
}

int team_size(double multiply_adds) {
  if (!concurrent_regions() || multiply_adds < 2 * kWorkPerThread) return 1;
  const int most = std::min(int(torch::stable::get_num_threads()), kMaxThreads);
  return int(std::min(double(most), multiply_adds / kWorkPerThread));
}

void run_team(int threads, const std::function<void(Team&, int)>& f) {
  Team team(threads);
  if (threads == 1) return f(team, 0);
  // A region may hand several indices to one call: only the calls that came are parties.
  std::atomic<int> calls{0}, indices{0};
  std::atomic<bool> counted{false};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    calls.fetch_add(1, std::memory_order_relaxed);
    indices.fetch_add(int(end - begin), std::memory_order_acq_rel);
    if (begin == 0) {
      wait_until([&] { return indices.load(std::memory_order_acquire) == threads; });
      team.size = calls.load(std::memory_order_relaxed);
      counted.store(true, std::memory_order_release);
    } else {
      wait_until([&] { return counted.load(std::memory_order_acquire); });
    }
    f(team, int(begin * team.size / threads));
  });
}

}  // namespace fused_rnn::cpu
