// SPDX-License-Identifier: MIT
// What products take: rows one after another, or split into parts that lie in tiles
// (tiled/parts.h), and weights of fewer bits than they are multiplied in (stored.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../types.h"
#include "isa.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// Storage of one element as `parts` bfloat16 numbers; not where it lies.
template <int parts>
struct Parts {
  uint16_t bits[parts];
};

// The bfloat16 numbers from an element on; the array inside one would end with it.
template <int parts>
uint16_t* words(Parts<parts>* at) {
  return reinterpret_cast<uint16_t*>(at);
}
template <int parts>
const uint16_t* words(const Parts<parts>* at) {
  return reinterpret_cast<const uint16_t*>(at);
}

// A weight stored as W and multiplied as float32.
template <class W>
struct Wide {
  W value;
};

// An integer of a weight, or of a row, times the scale of its row.
struct Int8 {
  int8_t value;
};

// Whether weights come as they are stored, in panels that are the same for all instruction sets.
template <class Op>
constexpr bool kStored = std::is_same<Op, Int8>::value;
template <class W>
constexpr bool kStored<Wide<W>> = true;

// What rows are kept as, and what they are multiplied as.
template <class Op>
struct Kept {
  typedef Op Row, Factor;
};
template <>
struct Kept<Int8> {
  typedef float Row;
  typedef Int8 Factor;
};
template <class W>
struct Kept<Wide<W>> {
  typedef float Row, Factor;
};

template <class Op>
constexpr int kParts = 0;
template <int parts>
constexpr int kParts<Parts<parts>> = parts;

template <class Op>
constexpr bool kTiled = kParts<Op> > 0;

// Rows that lie together, and elements that a micro-kernel takes at once along k: operands are
// padded to whole ones of both.
template <class Op>
constexpr int kRowsTogether = kTiled<Op> ? 16 : 1;
template <class Op>
constexpr int kDepth = kTiled<Op>                                              ? 32
                       : std::is_same<Op, Int8>::value                         ? 4
                       : std::is_same<Op, Wide<Half>>::value || sizeof(Op) > 2 ? 1
                                                                               : 2;

// Of weights that are stored: columns in a panel of a projection, units in one of each gate.
constexpr int kStoredOutputs = 64;

constexpr int stored_units(Cell cell) {
  if (gate_count(cell) == 1) return 64;
  return cell == Cell::kGruResetBefore ? 32 : 16;
}

constexpr int64_t kTileBytes = 1024;

// Rows that a micro-kernel multiplies at once, at most.
#ifdef FUSED_RNN_INTEGER_TILES
constexpr int kIntegerRows = 16;
#else
constexpr int kIntegerRows = 12;
#endif
template <class Op>
constexpr int kBlockRows = kTiled<Op>                      ? 32
                           : std::is_same<Op, Int8>::value ? kIntegerRows
                                                           : 12;

// Where column k of a row lies, a multiple of kDepth.
template <class Op>
constexpr Op* at_column(Op* row, int64_t k) {
  return row + k * kRowsTogether<Op>;
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
