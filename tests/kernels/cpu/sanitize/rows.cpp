// SPDX-License-Identifier: MIT
// Runs the CPU kernels for rows without PyTorch, for the sanitizers: linear layers on weights
// packed beforehand and at use and sums of outer products, on teams of one to four threads,
// log-probabilities and the largest of rows.
#include <cstdlib>

#include "buffers.h"

namespace fused_rnn::cpu {
namespace {

bool linear(const Kernels& kernels) {
  Linear args{};
  args.rows = draw(1, 30);
  args.I = draw(1, 70);
  args.O = draw(1, 150);
  args.dtype = Dtype(draw(0, 3));
  if (!kernels.serves(args.dtype)) return true;
  Buffers buffers;
  args.w = add(buffers, args.dtype, args.O * args.I, true)->data();
  args.b = draw(0, 1) ? add(buffers, args.dtype, args.O, true)->data() : nullptr;
  args.x = add(buffers, args.dtype, args.rows * args.I, true)->data();
  std::vector<char> packed(kernels.prepacked_linear_bytes(args), char(0xFF)), first;
  kernels.prepack_linear(args, packed.data());
  for (const bool at_use : {false, true}) {
    args.prepacked = at_use ? nullptr : packed.data();
    for (int threads = 1; threads <= 4; ++threads) {
      Buffer y(args.dtype, args.rows * args.O, false);
      args.y = y.data();
      std::vector<char> memory(kernels.linear_workspace(args), char(0xFF));
      on_team(threads,
              [&](Team& team, int rank) { kernels.linear(args, memory.data(), team, rank); });
      if (first.empty()) first = y.bytes;
      if (y.bytes != first) return false;
    }
  }
  return true;
}

bool outer(const Kernels& kernels) {
  if (!kernels.outer) return true;
  Outer args{draw(1, 300),      draw(1, 3), draw(1, 90), draw(1, 90),
             Dtype(draw(0, 1)), nullptr,    nullptr,     nullptr};
  Buffers buffers;
  Buffer* a = add(buffers, args.dtype, args.rows * args.N * args.A, true);
  Buffer* b = add(buffers, args.dtype, args.rows * args.N * args.B, true);
  args.a = a->data();
  args.b = b->data();
  std::vector<char> first;
  for (int threads = 1; threads <= 4; ++threads) {
    Buffer out(args.dtype, args.N * args.A * args.B, false);
    args.out = out.data();
    std::vector<char> memory(kernels.outer_workspace(args, threads), char(0xFF));
    on_team(threads, [&](Team& team, int rank) { kernels.outer(args, memory.data(), team, rank); });
    if (threads == 1) first = out.bytes;
    if (out.bytes != first) return false;
    const int64_t n = draw(0, args.N - 1), i = draw(0, args.A - 1), j = draw(0, args.B - 1);
    double sum = 0;
    for (int64_t r = 0; r < args.rows; ++r) {
      sum += a->get((r * args.N + n) * args.A + i) * b->get((r * args.N + n) * args.B + j);
    }
    if (!(std::fabs(out.get((n * args.A + i) * args.B + j) - sum) < 1e-3)) return false;
  }
  return true;
}

bool rows(const Kernels& kernels) {
  const int64_t count = draw(1, 5), columns = draw(1, 100), k = draw(1, columns);
  Buffer x(Dtype::kFloat, count * columns, true), y(Dtype::kFloat, count * columns, false);
  Buffer values(Dtype::kFloat, count * k, false);
  std::vector<float> peaks(size_t(count), NAN);
  std::vector<int64_t> places(size_t(count * k), -1);
  const float* from = static_cast<const float*>(x.data());
  kernels.log_softmax({columns, from, static_cast<float*>(y.data()), peaks.data()}, 0, count);
  kernels.top({columns, k, from, static_cast<float*>(values.data()), places.data()}, 0, count);
  for (int64_t r = 0; r < count; ++r) {
    double sum = 0;
    for (int64_t i = 0; i < columns; ++i) sum += std::exp(y.get(r * columns + i));
    if (!(std::fabs(sum - 1) < 1e-5) || double(peaks[size_t(r)]) != values.get(r * k)) return false;
    for (int64_t i = 0; i < k; ++i) {
      const int64_t place = places[size_t(r * k + i)];
      if (x.get(r * columns + place) != values.get(r * k + i)) return false;
      if (i > 0 && values.get(r * k + i) > values.get(r * k + i - 1)) return false;
    }
  }
  return true;
}

bool check(const Kernels& kernels) { return linear(kernels) && outer(kernels) && rows(kernels); }

}  // namespace
}  // namespace fused_rnn::cpu

int main(int argc, char** argv) {
  using namespace fused_rnn::cpu;
  return for_problems(sets(), argc > 1 ? std::atoi(argv[1]) : 100, check);
}
