// SPDX-License-Identifier: MIT
// Sums of outer products over the rows of two arrays: gradients of the weights of cells with
// options.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../problem.h"
#include "../team.h"
#include "arena.h"
#include "backward/outer.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class C>
class OuterPass {
  static constexpr int L = kLanes<C>;
  // Rows at a time: those of `a` that a thread has stay near while the columns of `b` pass.
  static constexpr int64_t kRows = 256;

 public:
  OuterPass(const Outer& args, char* workspace, int threads, int rank)
      : args_(args), arena_(workspace), mine_(args.A, rank, threads) {
    ld_ = round_up(mine_.end - mine_.begin, L) + L;
    grad_ = GradSum<C, C>::reserve(arena_, args.A, args.B);
    for (int i = 0; i < threads; ++i) {
      C* factor = arena_.template take<C>(kRows * (round_up(args.A / threads + 1, L) + L));
      C* panel = arena_.template take<C>(kRows * kPlainVecs * L);
      if (i == rank) {
        factor_ = factor;
        panel_ = panel;
      }
    }
  }

  static size_t workspace(const Outer& args, int threads) {
    return most_used(threads,
                     [&](int size) { return OuterPass(args, nullptr, size, 0).arena_.used(); });
  }

  // Threads share the columns of `a`, and need nothing of one another.
  static void run(const Outer& args, char* workspace, Team& team, int rank) {
    OuterPass pass(args, workspace, team.size, rank);
    for (int64_t n = 0; n < args.N; ++n) {
      C* out = static_cast<C*>(args.out) + n * args.A * args.B;
      pass.grad_.bind(out);
      if (args.rows == 0) {
        const C* none = nullptr;
        for (int64_t r = pass.mine_.begin; r < pass.mine_.end; ++r) {
          convert(out + r * args.B, none, 0, args.B);
        }
        continue;
      }
      for (int64_t row = 0; row < args.rows; row += kRows) {
        pass.add(n, row, min(args.rows - row, kRows));
      }
      pass.grad_.finish(pass.mine_);
    }
  }

 private:
  void add(int64_t n, int64_t row, int64_t count) const {
    const int64_t columns = mine_.end - mine_.begin;
    for (int64_t k = 0; k < count; ++k) {
      const C* a = static_cast<const C*>(args_.a) + ((row + k) * args_.N + n) * args_.A;
      convert(factor_ + k * ld_, a + mine_.begin, columns, ld_);
    }
    const C* b = static_cast<const C*>(args_.b) + (row * args_.N + n) * args_.B;
    const Segment segments[] = {{0, mine_.begin, columns}};
    add_outer(grad_, factor_, factor_, ld_, count, segments, row == 0, 0, 1, panel_,
              [&](int64_t k, int64_t u, int64_t lanes) {
                return load_n<C>(b + k * args_.N * args_.B + u, lanes);
              });
  }

  const Outer& args_;
  Arena arena_;
  const Range mine_;
  GradSum<C, C> grad_;
  int64_t ld_ = 0;
  C *factor_ = nullptr, *panel_ = nullptr;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
