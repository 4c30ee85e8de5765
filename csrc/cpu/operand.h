// SPDX-License-Identifier: MIT
// What products take: rows one after another, or split into parts that lie in tiles (split.h).
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

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
constexpr int kDepth = kTiled<Op>        ? 32
                       : sizeof(Op) == 2 ? 2
                                         : 1;

constexpr int64_t kTileBytes = 1024;

// Rows that a micro-kernel multiplies at once, at most.
template <class Op>
constexpr int kBlockRows = kTiled<Op> ? 32 : 12;

// Where column k of a row lies, a multiple of kDepth.
template <class Op>
constexpr Op* at_column(Op* row, int64_t k) {
  return row + k * kRowsTogether<Op>;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
