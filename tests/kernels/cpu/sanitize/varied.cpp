// SPDX-License-Identifier: MIT
// Runs the CPU kernels for cells with options without PyTorch, for the sanitizers: random layers on
// teams of one to four threads. Forward results must be the same bits for every team; gradients
// must agree to rounding, and all of them with the portable kernels.
#include "../../../../csrc/cpu/varied.h"

#include <cstdlib>

#include "layers.h"

namespace fused_rnn::cpu {
namespace {

// A random layer of padded rows, and the options of its cells.
struct VariedProblem {
  std::unique_ptr<Problem> base;
  Buffers buffers;
  std::vector<int64_t> seeds;
  VariedLayer layer{};
  Buffer *dy, *dhn, *dcn, *dcells;
  int64_t gates;

  explicit VariedProblem(Dtype dtype) {
    do {
      base = std::make_unique<Problem>(dtype);
    } while (base->rows.count != base->shape.T * base->shape.B || base->shape.projected);
    Shape& s = layer.shape = base->shape;
    if (s.cell == Cell::kGruResetBefore) s.cell = Cell::kSlstm;
    s.I = s.P = s.H;
    const bool lstm = s.cell == Cell::kLstm, plain = s.cell == Cell::kSlstm;
    gates = gate_count(s.cell) * s.H;
    layer.rows = base->rows;
    layer.reverse = base->reverse.data();
    const auto one_of = [](cells::Activation a, cells::Activation b) { return draw(0, 1) ? a : b; };
    layer.options = {{one_of(cells::Activation::kSigmoid, cells::Activation::kHardSigmoid),
                      cells::Activation::kTanh},
                     plain ? 0 : 0.25 * double(draw(0, 1)),
                     lstm ? 0.25 * double(draw(0, 1)) : 0,
                     plain ? 0 : 0.25 * double(draw(0, 1)),
                     gate_count(s.cell) == 1 || draw(0, 1) == 1,
                     1e-5,
                     plain ? 0 : 0.5 * double(draw(0, 1))};
    const int64_t states = cell_states(s.cell);
    const bool normal = draw(0, 1);
    layer.x = random(layer.rows.count * s.N * gates);
    layer.h0 = maybe(s.N * s.B * s.H);
    layer.c0 = plain ? nullptr : maybe(s.N * s.B * states * s.H);
    layer.w_hh = random(s.N * gates * s.H);
    layer.b_hh = maybe(s.N * gates);
    layer.x_scale = normal ? random(s.N * gates) : nullptr;
    layer.x_bias = normal ? maybe(s.N * gates) : nullptr;
    layer.h_scale = normal ? random(s.N * gates) : nullptr;
    layer.c_scale = normal && lstm ? random(s.N * s.H) : nullptr;
    layer.c_bias = normal && lstm ? random(s.N * s.H) : nullptr;
    layer.peephole = lstm ? maybe(s.N * 3 * s.H) : nullptr;
    for (int64_t& seed : seeds = std::vector<int64_t>(size_t(s.B))) seed = draw(0, 1 << 30);
    layer.seeds = draw(0, 3) ? seeds.data() : nullptr;
    dy = add(buffers, s.dtype, layer.rows.count * s.N * s.H, true);
    dhn = draw(0, 3) ? add(buffers, s.dtype, s.N * s.B * s.H, true) : nullptr;
    dcn = draw(0, 3) ? add(buffers, s.dtype, s.N * s.B * states * s.H, true) : nullptr;
    dcells = states && draw(0, 1)
                 ? add(buffers, s.dtype, layer.rows.count * s.N * states * s.H, true)
                 : nullptr;
  }

  const void* random(int64_t count) { return add(buffers, layer.shape.dtype, count, true)->data(); }
  const void* maybe(int64_t count) { return draw(0, 1) ? random(count) : nullptr; }
};

// Forward and backward on one team: all results, the first four of the forward pass.
Buffers run(const Kernels& kernels, VariedProblem& p, int threads) {
  const Shape& s = p.layer.shape;
  const int64_t rows = p.layer.rows.count, states = cell_states(s.cell), gates = p.gates;
  Buffers out, saved;
  const auto result = [&](const void* like, int64_t count) {
    return like ? add(out, s.dtype, count, false)->data() : nullptr;
  };
  Buffer* y = add(out, s.dtype, rows * s.N * s.H, false);
  Buffer* hn = add(out, s.dtype, s.N * s.B * s.H, false);
  Buffer* cn = add(out, s.dtype, s.N * s.B * states * s.H, false);
  Buffer* tape = add(saved, s.dtype, rows * s.N * all_slots(p.layer) * s.H, false);
  Buffer* cells = add(out, s.dtype, rows * s.N * states * s.H, false);
  const VariedForward forward{p.layer,    y->data(),    hn->data(),
                              cn->data(), tape->data(), states ? cells->data() : nullptr};
  std::vector<char> memory(kernels.varied_forward_workspace(forward, threads), char(0xFF));
  on_team(threads, [&](Team& team, int rank) {
    kernels.varied_forward(forward, memory.data(), team, rank);
  });
  const bool parted = p.layer.x_scale || s.cell == Cell::kGru;
  Buffer* dx = add(out, s.dtype, rows * s.N * gates, false);
  Buffer* dparts = add(out, s.dtype, parted ? rows * s.N * gates : 0, false);
  Buffer* factors = add(out, s.dtype, rows * s.N * s.H, false);
  Buffer* dh0 = add(out, s.dtype, s.N * s.B * s.H, false);
  Buffer* dc0 = add(out, s.dtype, s.N * s.B * states * s.H, false);
  const VariedBackward backward{p.layer,
                                y->data(),
                                tape->data(),
                                p.dy->data(),
                                pointer(p.dhn),
                                pointer(p.dcn),
                                pointer(p.dcells),
                                dx->data(),
                                parted ? dparts->data() : nullptr,
                                factors->data(),
                                dh0->data(),
                                dc0->data(),
                                result(p.layer.b_hh, s.N * gates),
                                result(p.layer.x_scale, s.N * gates),
                                result(p.layer.x_bias, s.N * gates),
                                result(p.layer.h_scale, s.N * gates),
                                result(p.layer.c_scale, s.N * s.H),
                                result(p.layer.c_bias, s.N * s.H),
                                result(p.layer.peephole, s.N * 3 * s.H)};
  memory.assign(kernels.varied_backward_workspace(backward, threads), char(0xFF));
  on_team(threads, [&](Team& team, int rank) {
    kernels.varied_backward(backward, memory.data(), team, rank);
  });
  return out;
}

// Normalised parts of a few units make much of what rounding leaves.
bool alike(const Buffers& a, const Buffers& b, Dtype dtype) {
  return near(a, b, dtype == Dtype::kDouble ? 1e-8 : 1e-2, 1e-6);
}

bool check(const Kernels& kernels) {
  if (!kernels.varied_forward) return true;
  const Dtype dtype = draw(0, 2) ? Dtype::kFloat : Dtype::kDouble;
  VariedProblem problem(dtype);
  const Buffers alone = run(kernels, problem, 1);
  if (!alike(alone, run(kPortable, problem, 1), dtype)) return false;
  for (int threads = 2; threads <= 4; ++threads) {
    const Buffers together = run(kernels, problem, threads);
    constexpr size_t kForwardResults = 4;
    for (size_t i = 0; i < kForwardResults; ++i) {
      if (together[i]->bytes != alone[i]->bytes) return false;
    }
    if (!alike(together, alone, dtype)) return false;
  }
  return true;
}

}  // namespace
}  // namespace fused_rnn::cpu

int main(int argc, char** argv) {
  using namespace fused_rnn::cpu;
  return for_problems(sets(), argc > 1 ? std::atoi(argv[1]) : 100, check);
}
