// SPDX-License-Identifier: MIT
// Numbers as sums of bfloat16 parts, and rows of such numbers in tiles: what products on tile
// registers take.
//
// A float32 is the exact sum of three parts, a float16 of two (Henry, Tang and Heinecke 2019,
// arXiv 1904.06376). A tile is 16 rows of 32 elements of one part; the tiles of an element's parts
// follow one another, then those of the next 32 columns, then those of the next 16 rows.
#pragma once

#include <cstdint>

#include "../operand.h"
#include "../vec.h"
#include "registers.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

constexpr int kTileDepth = 32;  // elements of a row in a tile
constexpr int kTileElements = kTileRows * kTileDepth;

// The bfloat16 nearest to each lane, in the high half of the lane.
VEC_FN IntV nearest_bf16(FloatV x) {
  const IntV bits = (IntV)x;
  const IntV rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & (int32_t)0xFFFF0000;
  return x == x ? rounded : IntV{} + 0x7FC00000;
}

// The same, but what would round to infinity is cut off.
VEC_FN IntV leading_bf16(FloatV x) {
  const IntV bits = (IntV)x;
  const IntV large = (bits & 0x7FFFFFFF) >= 0x7F7F8000;
  return (large & (x == x)) != 0 ? bits & (int32_t)0xFFFF0000 : nearest_bf16(x);
}

// The parts of each lane, each in the high half of a lane, the largest first.
template <int parts>
VEC_FN void split(FloatV x, IntV (&part)[parts]) {
  if constexpr (parts == 1) {
    part[0] = nearest_bf16(x);
  } else {
    part[0] = leading_bf16(x);
    FloatV rest = x - (FloatV)part[0];
    rest = rest == rest ? rest : FloatV{};  // infinity has no rest
    part[1] = nearest_bf16(rest);
    if constexpr (parts == 3) part[2] = (IntV)(rest - (FloatV)part[1]);
  }
}

// Lanes' high halves side by side.
VEC_FN void store_halves(uint16_t* to, IntV high) {
  const ShortV halves = __builtin_convertvector((high >> 16) & 0xFFFF, ShortV);
  __builtin_memcpy(to, &halves, sizeof halves);
}

// The first n lanes, zeros behind them.
VEC_FN FloatV first_lanes(FloatV v, int64_t n) {
  constexpr int L = kLanes<float>;
  if (n >= L) return v;
  IntV lane;
  for (int l = 0; l < L; ++l) lane[l] = l;
  return lane < int32_t(n) ? v : FloatV{};
}

// Stores 16 elements of a row from column u on, a multiple of 16; zeros behind the first `lanes`.
template <int parts>
VEC_FN void put_vector(Parts<parts>* operand, int64_t ld, int64_t row, int64_t u, FloatV value,
                       int64_t lanes) {
  IntV part[parts];
  split(first_lanes(value, lanes), part);
  uint16_t* to =
      words(operand) +
      ((row / kTileRows) * (ld / kTileDepth) + u / kTileDepth) * (parts * kTileElements) +
      row % kTileRows * kTileDepth + u % kTileDepth;
#pragma GCC unroll 3
  for (int j = 0; j < parts; ++j) store_halves(to + j * kTileElements, part[j]);
}

// A row of n elements and zeros up to the width of the operand; null reads as zeros.
template <int parts, class IO>
VEC_FN void put_row(Parts<parts>* operand, int64_t ld, int64_t row, const IO* from, int64_t n) {
  constexpr int L = kLanes<float>;
  for (int64_t u = 0; u < ld; u += L) {
    const int64_t lanes = from ? n - u : 0;
    put_vector(operand, ld, row, u, lanes > 0 ? load_n<float>(from + u, lanes) : FloatV{}, L);
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
