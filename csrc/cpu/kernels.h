// SPDX-License-Identifier: MIT
// The table of kernels of one instruction set. An instruction set's source file names it
// (FUSED_RNN_ISA, FUSED_RNN_VECTOR_BYTES), switches the compiler to it, and includes this.
//
// Everything lies in a namespace of the instruction set's own, and what it uses of the standard
// library is included before the switch: no inline function compiled for one set may stand in
// for another's at link time.
#pragma once

// clang-format off
#include "../cells.h"
#include "vec.h"
#include "tile.h"
#include "pack.h"
#include "dot.h"
#include "plan.h"
#include "forward.h"
#include "forward_prepare.h"
#include "forward_cells.h"
#include "outer.h"
#include "backward.h"
#include "backward_prepare.h"
#include "backward_cells.h"
#include "backward_sums.h"
// clang-format on

namespace fused_rnn {
namespace FUSED_RNN_ISA {

// Calls f.template run<IO, Op, cell>() for a shape's dtype and cell.
template <class F, class IO, class Op>
VEC_FN auto with_cell(Cell cell, const F& f) {
  switch (cell) {
    case Cell::kRnnTanh:
      return f.template run<IO, Op, Cell::kRnnTanh>();
    case Cell::kRnnRelu:
      return f.template run<IO, Op, Cell::kRnnRelu>();
    case Cell::kGru:
      return f.template run<IO, Op, Cell::kGru>();
    case Cell::kGruResetBefore:
      return f.template run<IO, Op, Cell::kGruResetBefore>();
    default:
      return f.template run<IO, Op, Cell::kLstm>();
  }
}

template <class F>
VEC_FN auto with_types(const Shape& shape, const F& f) {
  switch (shape.dtype) {
    case Dtype::kFloat:
      return with_cell<F, float, float>(shape.cell, f);
    case Dtype::kDouble:
      return with_cell<F, double, double>(shape.cell, f);
    case Dtype::kHalf:
      return with_cell<F, Half, float>(shape.cell, f);
    default:
#ifdef FUSED_RNN_DOT_BF16
      return with_cell<F, Bf16, Bf16>(shape.cell, f);
#else
      return with_cell<F, Bf16, float>(shape.cell, f);
#endif
  }
}

template <template <class, class, Cell> class Pass, class Args>
struct Workspace {
  const Args& args;
  int threads;

  template <class IO, class Op, Cell cell>
  size_t run() const {
    return Pass<IO, Op, cell>::workspace(args, threads);
  }
};

template <template <class, class, Cell> class Pass, class Args>
struct Run {
  const Args& args;
  char* workspace;
  Team& team;
  int rank;

  template <class IO, class Op, Cell cell>
  void run() const {
    Pass<IO, Op, cell>::run(args, workspace, team, rank);
  }
};

template <template <class, class, Cell> class Pass, class Args>
size_t workspace(const Args& args, int threads) {
  return with_types(args.shape, Workspace<Pass, Args>{args, threads});
}

template <template <class, class, Cell> class Pass, class Args>
void run(const Args& args, char* memory, Team& team, int rank) {
  with_types(args.shape, Run<Pass, Args>{args, memory, team, rank});
}

constexpr Kernels make_kernels(const char* name) {
  return Kernels{name, workspace<ForwardPass, Forward>, run<ForwardPass, Forward>,
                 workspace<BackwardPass, Backward>, run<BackwardPass, Backward>};
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
