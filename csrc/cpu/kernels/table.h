// SPDX-License-Identifier: MIT
// The table of kernels of one instruction set, whose source file in isa/ includes it (isa.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../problem.h"
#include "../team.h"
#include "backward/pass.h"
#include "backward/pointwise.h"
#include "backward/prepare.h"
#include "backward/products.h"
#include "backward/sums.h"
#include "backward/walk.h"
#include "forward/pass.h"
#include "forward/pointwise.h"
#include "forward/prepare.h"
#include "forward/walk.h"
#include "linear.h"
#include "select.h"
#ifdef FUSED_RNN_TILES
#include "tiled/grads.h"
#else
#include "outer.h"
#include "varied/backward.h"
#include "varied/forward.h"
#include "varied/gradients.h"
#endif

namespace fused_rnn::cpu::FUSED_RNN_ISA {

#ifdef FUSED_RNN_DOT_BF16
constexpr bool kDotsBf16 = true;
#else
constexpr bool kDotsBf16 = false;
#endif

#ifdef FUSED_RNN_TILES
// float64 has no tiles.
constexpr bool serves(Dtype dtype) { return dtype != Dtype::kDouble; }
#else
constexpr bool serves(Dtype) { return true; }

// What threads hold while they run kernels.
struct TileScope {};
#endif

// Calls f.template operator()<IO, Op>() for a dtype that is served.
template <class F>
VEC_FN auto with_dtype(Dtype dtype, Precision precision, const F& f) {
#ifdef FUSED_RNN_TILES
  if (dtype == Dtype::kBf16) return f.template operator()<Bf16, Parts<1>>();
  if (dtype == Dtype::kHalf) return f.template operator()<Half, Parts<2>>();
  if (precision == Precision::kMedium) return f.template operator()<float, Parts<1>>();
  if (precision == Precision::kHigh) return f.template operator()<float, Parts<2>>();
  return f.template operator()<float, Parts<3>>();
#else
  switch (dtype) {
    case Dtype::kFloat:
      return f.template operator()<float, float>();
    case Dtype::kDouble:
      return f.template operator()<double, double>();
    case Dtype::kHalf:
      return f.template operator()<Half, float>();
    default:
#ifdef FUSED_RNN_DOT_BF16
      return f.template operator()<Bf16, Bf16>();
#else
      return f.template operator()<Bf16, float>();
#endif
  }
#endif
}

// Calls f.template operator()<IO, Op, cell>() for a shape's dtype and cell.
template <class F>
VEC_FN auto with_types(const Shape& shape, const F& f) {
  return with_dtype(shape.dtype, shape.precision, [&]<class IO, class Op>() {
    switch (shape.cell) {
      case Cell::kRnnTanh:
        return f.template operator()<IO, Op, Cell::kRnnTanh>();
      case Cell::kRnnRelu:
        return f.template operator()<IO, Op, Cell::kRnnRelu>();
      case Cell::kGru:
        return f.template operator()<IO, Op, Cell::kGru>();
      case Cell::kGruResetBefore:
        return f.template operator()<IO, Op, Cell::kGruResetBefore>();
      default:
        return f.template operator()<IO, Op, Cell::kLstm>();
    }
  });
}

template <template <class, class, Cell> class Pass, class Args>
size_t workspace(const Args& args, int threads) {
  return with_types(args.shape, [&]<class IO, class Op, Cell cell>() {
    return Pass<IO, Op, cell>::workspace(args, threads);
  });
}

template <template <class, class, Cell> class Pass, class Args>
void run(const Args& args, char* memory, Team& team, int rank) {
  [[maybe_unused]] const TileScope scope;
  with_types(args.shape, [&]<class IO, class Op, Cell cell>() {
    Pass<IO, Op, cell>::run(args, memory, team, rank);
  });
}

inline size_t prepacked_bytes(const Forward& args) {
  return with_types(args.shape, [&]<class IO, class Op, Cell cell>() {
    return ForwardPass<IO, Op, cell>::prepacked_bytes(args);
  });
}

inline void prepack(const Forward& args, char* to) {
  with_types(args.shape, [&]<class IO, class Op, Cell cell>() {
    ForwardPass<IO, Op, cell>::prepack(args, to);
  });
}

inline size_t prepacked_linear_bytes(const Linear& args) {
  return with_dtype(args.dtype, args.precision, [&]<class IO, class Op>() {
    return LinearPass<IO, Op>(args).prepacked_bytes();
  });
}

inline void prepack_linear(const Linear& args, char* to) {
  with_dtype(args.dtype, args.precision,
             [&]<class IO, class Op>() { LinearPass<IO, Op>(args).prepack(to); });
}

inline size_t linear_workspace(const Linear& args) {
  return with_dtype(args.dtype, args.precision,
                    [&]<class IO, class Op>() { return LinearPass<IO, Op>(args).workspace(); });
}

inline void linear(const Linear& args, char* memory, Team& team, int rank) {
  [[maybe_unused]] const TileScope scope;
  with_dtype(args.dtype, args.precision,
             [&]<class IO, class Op>() { LinearPass<IO, Op>(args).run(memory, team, rank); });
}

#ifndef FUSED_RNN_TILES
template <class F>
VEC_FN auto with_sums(Dtype dtype, const F& f) {
  if (dtype == Dtype::kDouble) return f.template operator()<double>();
  return f.template operator()<float>();
}

inline size_t outer_workspace(const Outer& args, int threads) {
  return with_sums(args.dtype, [&]<class C>() { return OuterPass<C>::workspace(args, threads); });
}

inline void outer(const Outer& args, char* memory, Team& team, int rank) {
  with_sums(args.dtype, [&]<class C>() { OuterPass<C>::run(args, memory, team, rank); });
}

// Of cells with options; they run on vectors alone.
template <template <class, Cell> class Pass, class Args, class F>
VEC_FN auto with_varied(const Args& args, const F& f) {
  const auto with_cell = [&]<class C>() {
    switch (args.shape.cell) {
      case Cell::kLstm:
        return f.template operator()<Pass<C, Cell::kLstm>>();
      case Cell::kSlstm:
        return f.template operator()<Pass<C, Cell::kSlstm>>();
      case Cell::kGru:
        return f.template operator()<Pass<C, Cell::kGru>>();
      default:
        return f.template operator()<Pass<C, Cell::kRnnTanh>>();
    }
  };
  return with_sums(args.shape.dtype, with_cell);
}

template <template <class, Cell> class Pass, class Args>
size_t varied_workspace(const Args& args, int threads) {
  return with_varied<Pass>(args, [&]<class P>() { return P::workspace(args, threads); });
}

template <template <class, Cell> class Pass, class Args>
void run_varied(const Args& args, char* memory, Team& team, int rank) {
  with_varied<Pass>(args, [&]<class P>() { P::run(args, memory, team, rank); });
}
#endif

inline double multiply_zeros(Dtype dtype, char* zeros, int64_t times) {
  [[maybe_unused]] const TileScope scope;
  return with_dtype(dtype, Precision::kHighest, [&]<class IO, class Op>() {
    typedef SumOf<Op> C;
    constexpr int64_t K = 256, kCount = kTiled<Op> ? kBlockRows<Op> : max_rows(kPlainVecs);
    constexpr int64_t kColumns = kPlainVecs * kLanes<C>;
    static_assert(kProductBytes >= (kCount + kColumns) * K * int64_t(sizeof(Op)));
    const Op* rows = reinterpret_cast<const Op*>(zeros);
    alignas(64) C sums[kCount * kColumns];
    for (int64_t i = 0; i < times; ++i) {
      multiply_panel(
          plain_map<C>(kColumns), 0, rows + kCount * K, K, [&](int64_t r) { return rows + r * K; },
          K, kCount, nullptr, sums, kColumns);
    }
    return double(times * kCount * kColumns * K);
  });
}

constexpr Kernels make_kernels(const char* name) {
  return Kernels{name,
                 serves,
                 kDotsBf16,
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
#ifdef FUSED_RNN_TILES
                 nullptr,
                 nullptr,
                 nullptr,
                 nullptr,
                 nullptr,
                 nullptr,
#else
                 outer_workspace,
                 outer,
                 varied_workspace<VariedForwardPass, VariedForward>,
                 run_varied<VariedForwardPass, VariedForward>,
                 varied_workspace<VariedBackwardPass, VariedBackward>,
                 run_varied<VariedBackwardPass, VariedBackward>,
#endif
                 log_softmax,
                 top,
                 multiply_zeros};
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
