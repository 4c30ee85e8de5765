// SPDX-License-Identifier: MIT
// The cells and dtypes that the kernels of all devices know, and what follows from them.
#pragma once

#include <cstdint>

namespace fused_rnn {

// Storage of the 16-bit formats.
struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// The last has kernels among the cells with options alone (cpu/varied.h).
enum class Cell { kRnnTanh, kRnnRelu, kGru, kGruResetBefore, kLstm, kSlstm };
enum class Dtype { kFloat, kDouble, kBf16, kHalf };

constexpr int gate_count(Cell cell) {
  if (cell == Cell::kLstm || cell == Cell::kSlstm) return 4;
  return cell == Cell::kGru || cell == Cell::kGruResetBefore ? 3 : 1;
}

constexpr bool is_half(Dtype dtype) { return dtype == Dtype::kBf16 || dtype == Dtype::kHalf; }

// Cells whose gradients use h itself keep it in float32 where y is rounded to 16 bits: 1 - h * h
// and h - n would lose all digits of a rounded h.
constexpr bool keeps_state(Cell cell, bool half) { return half && cell != Cell::kLstm; }

// LSTM i f g o c; GRU r z n q; textbook GRU r z n; behind them h where it is kept.
constexpr int tape_slots(Cell cell, bool half) {
  const int slots = cell == Cell::kLstm             ? 5
                    : cell == Cell::kGru            ? 4
                    : cell == Cell::kGruResetBefore ? 3
                                                    : 0;
  return slots + keeps_state(cell, half);
}

// Gradient columns a step and row produces: the gates, and q of the reset-after GRU.
constexpr int grad_count(Cell cell) { return cell == Cell::kGru ? 4 : gate_count(cell); }

}  // namespace fused_rnn
