// SPDX-License-Identifier: MIT
// The table of kernels of one instruction set for weights of fewer bits; as table.h.
#pragma once

#include <cstddef>

#include "../problem.h"
#include "../team.h"
#include "forward/pass.h"
#include "forward/pointwise.h"
#include "forward/prepare.h"
#include "forward/walk.h"
#include "stored.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Calls f.template operator()<Op, cell>() for a layer's storage and cell.
template <class F>
VEC_FN auto with_storage(const Forward& args, const F& f) {
  const auto with_cell = [&]<class Op>() {
    switch (args.shape.cell) {
      case Cell::kRnnTanh:
        return f.template operator()<Op, Cell::kRnnTanh>();
      case Cell::kRnnRelu:
        return f.template operator()<Op, Cell::kRnnRelu>();
      case Cell::kGru:
        return f.template operator()<Op, Cell::kGru>();
      case Cell::kGruResetBefore:
        return f.template operator()<Op, Cell::kGruResetBefore>();
      default:
        return f.template operator()<Op, Cell::kLstm>();
    }
  };
#ifdef FUSED_RNN_INTEGER_TILES
  return with_cell.template operator()<Int8>();
#else
  switch (args.storage) {
    case Storage::kInt8:
      return with_cell.template operator()<Int8>();
    case Storage::kBf16:
      return with_cell.template operator()<Wide<Bf16> >();
    default:
      return with_cell.template operator()<Wide<Half> >();
  }
#endif
}

#ifdef FUSED_RNN_INTEGER_TILES
constexpr bool serves(Storage storage) { return storage == Storage::kInt8; }
#else
constexpr bool serves(Storage) { return true; }

// What threads hold while they run kernels.
struct IntegerTileScope {};
#endif

inline size_t workspace(const Forward& args, int threads) {
  return with_storage(args, [&]<class Op, Cell cell>() {
    return ForwardPass<float, Op, cell>::workspace(args, threads);
  });
}

inline void forward(const Forward& args, char* memory, Team& team, int rank) {
  [[maybe_unused]] const IntegerTileScope scope;
  with_storage(args, [&]<class Op, Cell cell>() {
    ForwardPass<float, Op, cell>::run(args, memory, team, rank);
  });
}

constexpr StoredKernels make_stored_kernels(const char* name) {
  return StoredKernels{name, serves, workspace, forward};
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
