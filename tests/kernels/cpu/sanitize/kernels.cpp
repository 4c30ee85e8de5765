// SPDX-License-Identifier: MIT
// Runs the layers' CPU kernels without PyTorch, for the sanitizers: random layers on teams of one
// to four threads, their weights packed beforehand or not. Forward results must be the same bits
// for every team; gradients must agree to rounding, and all of them with the portable kernels.
#include <cstdlib>

#include "layers.h"

namespace fused_rnn::cpu {
namespace {

// Forward and backward on one team: all results, y first, the states behind it.
Buffers run(const Kernels& kernels, Problem& p, int threads, bool prepacked) {
  const Shape& s = p.shape;
  const bool lstm = s.cell == Cell::kLstm;
  Buffers out;
  Buffer* y = add(out, s.dtype, p.rows.count * s.N * s.P, false);
  Buffer* hn = add(out, s.dtype, s.N * s.B * s.P, false);
  Buffer* cn = add(out, s.dtype, lstm ? s.N * s.B * s.H : 0, false);
  Buffers saved;
  Buffer* tape = add(saved, wide(s.dtype),
                     p.rows.count * s.N * tape_slots(s.cell, is_half(s.dtype)) * s.H, false);
  Forward forward{s,
                  p.rows,
                  p.weights.data(),
                  p.reverse.data(),
                  p.x->data(),
                  pointer(p.h0),
                  pointer(p.c0),
                  y->data(),
                  hn->data(),
                  cn->data(),
                  tape->data(),
                  nullptr,
                  0};
  std::vector<char> packed;
  if (prepacked) {
    forward.prepacked_bytes = int64_t(kernels.prepacked_bytes(forward));
    packed.assign(size_t(s.N * forward.prepacked_bytes), char(0xFF));
    kernels.prepack(forward, packed.data());
    forward.prepacked = packed.data();
    forward.weights = nullptr;
  }
  std::vector<char> memory(kernels.forward_workspace(forward, threads), char(0xFF));
  on_team(threads,
          [&](Team& team, int rank) { kernels.forward(forward, memory.data(), team, rank); });
  Buffer* dx = add(out, s.dtype, p.rows.count * s.I, false);
  Buffer* dh0 = add(out, s.dtype, s.N * s.B * s.P, false);
  Buffer* dc0 = add(out, s.dtype, lstm ? s.N * s.B * s.H : 0, false);
  std::vector<WeightGrads> grads;
  const int64_t gates = gate_count(s.cell) * s.H;
  const auto grad = [&](bool there, int64_t count) {
    return there ? add(out, s.dtype, count, false)->data() : nullptr;
  };
  for (int64_t n = 0; n < s.N; ++n) {
    grads.push_back(WeightGrads{grad(true, gates * s.I), grad(true, gates * s.P),
                                grad(p.bias, gates), grad(p.bias, gates),
                                grad(s.projected, s.P * s.H)});
  }
  const Backward backward{s,
                          p.rows,
                          p.weights.data(),
                          p.reverse.data(),
                          p.x->data(),
                          pointer(p.h0),
                          pointer(p.c0),
                          y->data(),
                          tape->data(),
                          pointer(p.dy),
                          pointer(p.dhn),
                          lstm ? pointer(p.dcn) : nullptr,
                          lstm ? pointer(p.dcells) : nullptr,
                          dx->data(),
                          dh0->data(),
                          lstm ? dc0->data() : nullptr,
                          grads.data()};
  memory.assign(kernels.backward_workspace(backward, threads), char(0xFF));
  on_team(threads,
          [&](Team& team, int rank) { kernels.backward(backward, memory.data(), team, rank); });
  return out;
}

double tolerance(Dtype dtype) {
  return dtype == Dtype::kDouble ? 1e-12 : dtype == Dtype::kFloat ? 1e-4 : 0.1;
}

// Forward results of two teams: the same bits. Gradients: to rounding.
bool same(const Buffers& a, const Buffers& b, Dtype dtype) {
  constexpr size_t kForwardResults = 3;
  for (size_t i = 0; i < a.size(); ++i) {
    if (i < kForwardResults && a[i]->bytes != b[i]->bytes) return false;
    double scale = 1e-6;
    for (int64_t k = 0; k < a[i]->count; ++k) scale = std::fmax(scale, std::fabs(a[i]->get(k)));
    for (int64_t k = 0; k < a[i]->count; ++k) {
      if (!(std::fabs(a[i]->get(k) - b[i]->get(k)) <= tolerance(dtype) * scale)) return false;
    }
  }
  return true;
}

bool check(const Kernels& kernels) {
  const Dtype dtype = Dtype(draw(0, 3));
  if (!kernels.serves(dtype)) return true;
  Problem problem(dtype);
  const Buffers portable = run(kPortable, problem, 1, false);
  for (const bool prepacked : {false, true}) {
    const Buffers alone = run(kernels, problem, 1, prepacked);
    // Steps that round to 16 bits at other places drift apart.
    if (!near(alone, portable, 3 * tolerance(dtype), 1e-12)) return false;
    for (int threads = 2; threads <= 4; ++threads) {
      if (!same(alone, run(kernels, problem, threads, prepacked), dtype)) return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace fused_rnn::cpu

int main(int argc, char** argv) {
  using namespace fused_rnn::cpu;
  return for_problems(sets(), argc > 1 ? std::atoi(argv[1]) : 100, check);
}
