// SPDX-License-Identifier: MIT
// A linear layer, over weights packed beforehand or at use: what a decoder's step ends with, what
// cells with options begin with, and the gradient of its input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../problem.h"
#include "../team.h"
#include "arena.h"
#include "pack.h"
#include "product.h"
#include "rows.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <class IO, class Op>
class LinearPass {
  typedef SumOf<Op> C;
  static constexpr int L = kLanes<C>;

 public:
  explicit LinearPass(const Linear& args) : args_(args), map_(plain_map<C>(args.O)) {}

  size_t prepacked_bytes() {
    Arena arena(nullptr);
    lay_out(arena);
    return arena.used();
  }

  void prepack(char* to) {
    Arena arena(to);
    lay_out(arena);
    for (int64_t p = 0; p < map_.panels(); ++p) pack(p);
  }

  size_t workspace() {
    Arena arena(nullptr);
    lay_out_call(arena);
    return arena.used();
  }

  // Threads share the panels; each panel stays near while all rows pass it.
  void run(char* workspace, Team& team, int rank) {
    Arena arena(workspace);
    Op* copy = lay_out_call(arena);
    const Op* x = operand(copy, team, rank);
    const Range mine(map_.panels(), rank, team.size);
    for (int64_t p = mine.begin; p < mine.end; ++p) {
      if (!args_.prepacked) pack(p);
      const int vecs = map_.used_vecs(p);
      for_rows<Op>(args_.rows, vecs,
                   [&](int64_t first, int64_t count) { multiply(p, vecs, x, first, count); });
    }
  }

 private:
  int64_t ld() const { return round_up(args_.I, kDepth<Op>); }
  bool direct() const { return std::is_same<IO, Op>::value && ld() == args_.I; }

  void lay_out(Arena& arena) {
    w_ = arena.take<Op>(packed_size<Op>(map_, args_.I));
    bias_ = arena.take<C>(map_.columns());
  }

  // Weights where they are packed, and a copy of x where products take another format or whole
  // pairs.
  Op* lay_out_call(Arena& arena) {
    if (args_.prepacked) {
      Arena packed(const_cast<char*>(args_.prepacked));
      lay_out(packed);
    } else {
      lay_out(arena);
    }
    return arena.take<Op>(direct() ? 0 : round_up(args_.rows, kRowsTogether<Op>) * ld());
  }

  void pack(int64_t p) const {
    const IO* w = static_cast<const IO*>(args_.w);
    const Matrix<IO> from =
        args_.transposed ? Matrix<IO>{w, 1, args_.O} : Matrix<IO>{w, args_.I, 1};
    pack_panel(panel(p), map_, p, from, args_.I, args_.I);
    const int64_t column = p * map_.width();
    const IO* b = args_.b ? static_cast<const IO*>(args_.b) + column : nullptr;
    convert(bias_ + column, b, map_.units_in(p), map_.width());
  }

  const Op* operand(Op* copy, Team& team, int rank) const {
    const IO* x = static_cast<const IO*>(args_.x);
    if constexpr (std::is_same<IO, Op>::value) {
      if (direct()) return x;
    }
    const Range mine(args_.rows, rank, team.size);
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      put_row(copy, ld(), r, x + r * args_.I, args_.I);
    }
    team.wait_all();
    return copy;
  }

  Op* panel(int64_t index) const { return w_ + index * panel_size<Op>(map_, args_.I); }

  void multiply(int64_t index, int vecs, const Op* x, int64_t first, int64_t count) const {
    alignas(64) C sums[kBlockRows<Op> * kPlainVecs * L];
    const auto row = [&](int64_t r) { return x + (first + r) * ld(); };
    multiply_panel(map_, index, panel(index), args_.I, row, ld(), count,
                   bias_ + index * map_.panel_columns(), sums, vecs * L);
    const int64_t column = index * map_.width(), columns = map_.units_in(index);
    for (int64_t r = 0; r < count; ++r) {
      IO* y = static_cast<IO*>(args_.y) + (first + r) * args_.O + column;
      convert(y, sums + r * vecs * L, columns, columns);
    }
  }

  const Linear& args_;
  const PanelMap<C> map_;
  Op* w_ = nullptr;
  C* bias_ = nullptr;
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
