// SPDX-License-Identifier: MIT
// What a kernel for cells with options is asked to do; letters as in csrc/README.md.
//
// The input's part of the gates comes ready, (T, B, N, G*H), without what follows its product.
// Everything below has one recurrence's behind another's, and is null where there is none.
#pragma once

#include "../varied_cells.h"
#include "problem.h"

namespace fused_rnn::cpu {

struct VariedOptions {
  cells::Activations activations;
  double zoneout, zoneout_cell, dropout;  // probabilities
  bool drops_state;                       // dropout of h before the product, else of the candidate
  double eps;                             // of normalisation
  double clip;                            // bounds what gates are activated at; 0 does not
};

struct VariedLayer {
  Shape shape;
  Rows rows;
  const int64_t* reverse;  // (N,)
  VariedOptions options;
  const void* x;         // (T, B, N, G*H)
  const void* h0;        // (N, B, H)
  const void* c0;        // (N, B, cell_states * H)
  const void* w_hh;      // (N, G*H, H)
  const void* b_hh;      // (N, G*H), added to the recurrent part
  const void* x_scale;   // (N, G*H): the input's part is normalised, gate by gate, times this,
  const void* x_bias;    // (N, G*H)  plus this
  const void* h_scale;   // (N, G*H): the same of the recurrent part
  const void* c_scale;   // (N, H): and of the cell that the output shows
  const void* c_bias;    // (N, H)
  const void* peephole;  // (N, 3*H), of i f o
  const int64_t* seeds;  // (B,), of all masks (kernels/varied/draws.h); null draws none
};

// States of a unit besides h: c of the LSTM, c n m of the sLSTM.
constexpr int cell_states(Cell cell) {
  return cell == Cell::kLstm ? 1 : cell == Cell::kSlstm ? 3 : 0;
}

// Slots of the tape: LSTM i f g o c, sLSTM i f z o c n and the forget gate's sigmoid, GRU r z n q,
// plain RNN h before zoneout; behind them, where it is normalised, the recurrent part as it comes
// from the product, G slots; at the end, with a clip, which gates lay beyond it (varied_cells.h).
constexpr int varied_slots(Cell cell) {
  if (cell == Cell::kSlstm) return 7;
  return cell == Cell::kLstm ? 5 : cell == Cell::kGru ? 4 : 1;
}
static inline int64_t all_slots(const VariedLayer& layer) {
  const Cell cell = layer.shape.cell;
  return varied_slots(cell) + (layer.h_scale ? gate_count(cell) : 0) + (layer.options.clip > 0);
}

struct VariedForward : VariedLayer {
  void* y;      // (T, B, N, H)
  void* hn;     // (N, B, H)
  void* cn;     // (N, B, cell_states * H)
  void* tape;   // (T, B, N, slots, H) or null
  void* cells;  // (T, B, N, cell_states * H) or null: what a unit has besides h after every step
};

struct VariedBackward : VariedLayer {
  const void* y;       // (T, B, N, H)
  const void* tape;    // (T, B, N, slots, H)
  const void* dy;      // (T, B, N, H) or null
  const void* dhn;     // (N, B, H) or null
  const void* dcn;     // (N, B, cell_states * H) or null
  const void* dcells;  // (T, B, N, cell_states * H) or null
  void* dx;            // (T, B, N, G*H)
  void* dparts;        // (T, B, N, G*H), of the recurrent part; null where it is dx
  void* factors;       // (T, B, N, H), what the recurrent weights were multiplied with
  void* dh0;           // (N, B, H)
  void* dc0;           // (N, B, cell_states * H)
  // As in VariedLayer, or null.
  void *db_hh, *dx_scale, *dx_bias, *dh_scale, *dc_scale, *dc_bias, *dpeephole;
};

}  // namespace fused_rnn::cpu
