// SPDX-License-Identifier: MIT
// The launches, one function each: null, or what went wrong. Plain pointers in, so that this side
// needs neither PyTorch's headers nor, in the host's files, the kernels.
#pragma once

#include <cstdint>

#include "../exported.h"
#include "problem.h"

namespace fused_rnn {
namespace cuda {

// A cudaStream_t.
using StreamHandle = void*;

// The architectures of this build, such as "80 90a", by nvcc's names without their "sm_".
FUSED_RNN_EXPORTED const char* built_architectures();

// ---- Tiers block and exact: all steps in one launch. `rows`: batch rows of a block of exact, 1 or
// kManyRows.
const char* block_forward(const Forward& p, StreamHandle stream);
const char* block_backward(const Backward& p, StreamHandle stream);
const char* exact_forward(const Forward& p, int rows, StreamHandle stream);
const char* exact_backward(const Backward& p, int rows, StreamHandle stream);

// ---- The grid tier: all steps in one cooperative launch; kTooLarge where fewer
// multiprocessors are free than planned.
const char* grid_forward(const Forward& p, const Exchange& x, StreamHandle stream);
const char* grid_backward(const Backward& p, const Exchange& x, StreamHandle stream);
// In clusters of `ranks` blocks.
const char* grid_cluster_backward(const Backward& p, const Exchange& x, int ranks,
                                  StreamHandle stream);

// ---- The cluster tier: all steps in one launch of clusters of `blocks` with `rows` batch rows
// each; kTooLarge where the device takes no such cluster.
const char* cluster_forward(const Forward& p, int blocks, int rows, StreamHandle stream);
const char* cluster_backward(const Backward& p, int blocks, int rows, StreamHandle stream);

// ---- The stepwise tier: the pointwise part of one step; the products are library calls between
// them.
// States and products of one step. States are wide (float32, or float64 for float64); what enters
// or leaves a library product has the tensors' own type.
struct StepForward {
  Forward layer;
  void* h;            // (N, B, H) wide
  void* c;            // (N, B, H) wide, LSTM
  void* operand;      // (N, B, H), h as the next product reads it, or r * h
  const void* sums;   // (N, B, G*H): h W_hh^T; of the textbook GRU r and z in (N, B, 2H)
  const void* sum_n;  // (N, B, H): (r * h) W_hn^T of the textbook GRU
  void* gates;        // (N, B, 2, H) wide: r and z of the textbook GRU, between its halves
};

struct StepBackward {
  Backward layer;
  void* dh;               // (N, B, H) wide: the gradient of h without the last product
  void* dc;               // (N, B, H) wide, LSTM
  void* operand;          // (N, B, G*H), of the textbook GRU (N, B, 2H)
  void* operand_n;        // (N, B, H): dn of the textbook GRU
  const void* product;    // (N, B, H): operand W_hh
  const void* d_reset_h;  // (N, B, H): operand_n W_hn
};

// The states before the first step, and its operand.
const char* start_forward(const StepForward& p, StreamHandle stream);
// The first half of the textbook GRU's k-th step: r, z and r * h.
const char* step_gates(const StepForward& p, int k, StreamHandle stream);
// The k-th step, behind its products: state, output, tape and the next step's operand.
const char* step_forward(const StepForward& p, int k, StreamHandle stream);
// The k-th step backward, before its product; of the textbook GRU all but dr.
const char* step_backward(const StepBackward& p, int k, StreamHandle stream);
// Of the textbook GRU: dr, once d(r * h) is there.
const char* step_gates_backward(const StepBackward& p, int k, StreamHandle stream);
// The gradients of the initial states.
const char* finish_backward(const StepBackward& p, StreamHandle stream);

// ---- Around the weight gradients, which are library products over all steps.
struct States {
  Recurrence layer;
  const void* y;     // (T, B, N, H)
  const void* tape;  // (T, B, N, 3, H): r of the textbook GRU
  void* before;      // (T, B, N, H): h_{t-1}; zero past a row's end
  void* reset_h;     // (T, B, N, H) or null: r * h_{t-1}
};
const char* states_before(const States& p, StreamHandle stream);

// Input that is zero past a row's end, where it may be NaN.
struct Inputs {
  int T, B, I;
  Dtype dtype;
  const int64_t* lengths;  // (B,)
  const void* x;           // (T, B, I)
  void* inside;            // (T, B, I)
};
const char* inputs_inside(const Inputs& p, StreamHandle stream);

// Column sums of dG in one fixed order: parts of the rows first, then the parts.
struct Columns {
  const void* dg;  // (rows, columns)
  void* partial;   // (parts, columns) wide
  int64_t rows;
  int columns, parts;
  Dtype dtype;
};
const char* partial_sums(const Columns& p, StreamHandle stream);

// The bias gradients of one recurrence, from its D*H columns behind `first`. Those of b_ih are the
// first G column groups; the GRU's b_hn lies inside r * (...) and takes the fourth.
struct Biases {
  Columns sums;
  int first, H, G, D;
  void* db_ih;  // (G*H,)
  void* db_hh;  // (G*H,)
};
const char* bias_grads(const Biases& p, StreamHandle stream);

}  // namespace cuda
}  // namespace fused_rnn
