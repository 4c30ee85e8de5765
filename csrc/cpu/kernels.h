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
#include "linear.h"
#include "select.h"
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

// Calls f.template run<IO, Op>() for a dtype.
template <class F>
VEC_FN auto with_dtype(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::kFloat:
      return f.template run<float, float>();
    case Dtype::kDouble:
      return f.template run<double, double>();
    case Dtype::kHalf:
      return f.template run<Half, float>();
    default:
#ifdef FUSED_RNN_DOT_BF16
      return f.template run<Bf16, Bf16>();
#else
      return f.template run<Bf16, float>();
#endif
  }
}

template <class F>
struct WithCell {
  Cell cell;
  const F& f;

  template <class IO, class Op>
  auto run() const {
    return with_cell<F, IO, Op>(cell, f);
  }
};

template <class F>
VEC_FN auto with_types(const Shape& shape, const F& f) {
  return with_dtype(shape.dtype, WithCell<F>{shape.cell, f});
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

struct PrepackedBytes {
  const Forward& args;

  template <class IO, class Op, Cell cell>
  size_t run() const {
    return ForwardPass<IO, Op, cell>::prepacked_bytes(args);
  }
};

struct Prepack {
  const Forward& args;
  char* to;

  template <class IO, class Op, Cell cell>
  void run() const {
    ForwardPass<IO, Op, cell>::prepack(args, to);
  }
};

inline size_t prepacked_bytes(const Forward& args) {
  return with_types(args.shape, PrepackedBytes{args});
}
inline void prepack(const Forward& args, char* to) { with_types(args.shape, Prepack{args, to}); }

struct LinearBytes {
  const Linear& args;

  template <class IO, class Op>
  size_t run() const {
    return LinearPass<IO, Op>(args).prepacked_bytes();
  }
};

struct PrepackLinear {
  const Linear& args;
  char* to;

  template <class IO, class Op>
  void run() const {
    LinearPass<IO, Op>(args).prepack(to);
  }
};

struct LinearWorkspace {
  const Linear& args;

  template <class IO, class Op>
  size_t run() const {
    return LinearPass<IO, Op>(args).workspace();
  }
};

struct RunLinear {
  const Linear& args;
  char* workspace;
  Team& team;
  int rank;

  template <class IO, class Op>
  void run() const {
    LinearPass<IO, Op>(args).run(workspace, team, rank);
  }
};

inline size_t prepacked_linear_bytes(const Linear& args) {
  return with_dtype(args.dtype, LinearBytes{args});
}
inline void prepack_linear(const Linear& args, char* to) {
  with_dtype(args.dtype, PrepackLinear{args, to});
}
inline size_t linear_workspace(const Linear& args) {
  return with_dtype(args.dtype, LinearWorkspace{args});
}
inline void linear(const Linear& args, char* memory, Team& team, int rank) {
  with_dtype(args.dtype, RunLinear{args, memory, team, rank});
}

constexpr Kernels make_kernels(const char* name) {
  return Kernels{name,
                 workspace<ForwardPass, Forward>,
                 run<ForwardPass, Forward>,
                 prepacked_bytes,
                 prepack,
                 workspace<BackwardPass, Backward>,
                 run<BackwardPass, Backward>,
                 prepacked_linear_bytes,
                 prepack_linear,
                 linear_workspace,
                 linear,
                 log_softmax,
                 top};
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
