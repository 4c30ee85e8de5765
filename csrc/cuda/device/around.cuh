// SPDX-License-Identifier: MIT
// What the weight gradients need around the library products: the states before each step, input
// without what stands past a row's end, and sums over columns.
#pragma once

#include "../kernels.h"
#include "numbers.cuh"
#include "primitives.cuh"
#include "walk.cuh"

namespace fused_rnn {
namespace cuda {

constexpr int kAroundThreads = 256;

// One block for each step and row; a row of y is N*H wide.
template <class IO>
__global__ void __launch_bounds__(kAroundThreads) states_kernel(const States p) {
  const int B = p.layer.sizes.B, N = p.layer.sizes.N, H = p.layer.sizes.H;
  const int64_t row = blockIdx.x;
  const int t = int(row / B), b = int(row % B);
  const auto* y = static_cast<const IO*>(p.y);
  const auto* h0 = static_cast<const IO*>(p.layer.h0);
  for (int i = threadIdx.x; i < N * H; i += blockDim.x) {
    const Walk walk(p.layer, i / H);
    const int length = walk.length(b), u = i % H;
    const IO* from = t < length ? walk.before(t, b, length, y, 1, 0, h0) : nullptr;
    const IO h = from ? from[u] : IO{};
    static_cast<IO*>(p.before)[row * N * H + i] = h;
    if (!p.reset_h) continue;
    const auto* r = static_cast<const IO*>(p.tape) + walk.row(t, b, 3);
    static_cast<IO*>(p.reset_h)[row * N * H + i] = from ? narrow<IO>(widen(r[u]) * widen(h)) : IO{};
  }
}

template <class IO>
__global__ void __launch_bounds__(kAroundThreads) inputs_kernel(const Inputs p) {
  const int64_t row = blockIdx.x;
  const bool inside = row / p.B < p.lengths[row % p.B];
  for (int i = threadIdx.x; i < p.I; i += blockDim.x) {
    const int64_t at = row * p.I + i;
    static_cast<IO*>(p.inside)[at] = inside ? static_cast<const IO*>(p.x)[at] : IO{};
  }
}

template <class IO>
__global__ void __launch_bounds__(kAroundThreads) partial_sums_kernel(const Columns p) {
  using A = wide_t<IO>;
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= p.columns) return;
  const int64_t per = (p.rows + p.parts - 1) / p.parts, begin = blockIdx.y * per;
  const int64_t end = begin + per < p.rows ? begin + per : p.rows;
  A sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    sum += widen(static_cast<const IO*>(p.dg)[row * p.columns + column]);
  }
  static_cast<A*>(p.partial)[int64_t(blockIdx.y) * p.columns + column] = sum;
}

template <class IO>
__global__ void __launch_bounds__(kAroundThreads) bias_kernel(const Biases p) {
  using A = wide_t<IO>;
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= p.D * p.H) return;
  A sum = 0;
  for (int part = 0; part < p.sums.parts; ++part) {
    sum += static_cast<const A*>(p.sums.partial)[int64_t(part) * p.sums.columns + p.first + column];
  }
  const int gate = column / p.H;
  if (gate < p.G) static_cast<IO*>(p.db_ih)[column] = narrow<IO>(sum);
  if (gate < p.G - (p.D > p.G)) static_cast<IO*>(p.db_hh)[column] = narrow<IO>(sum);
  if (gate == p.G) static_cast<IO*>(p.db_hh)[column - p.H] = narrow<IO>(sum);
}

}  // namespace cuda
}  // namespace fused_rnn
