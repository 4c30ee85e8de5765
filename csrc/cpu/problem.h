// SPDX-License-Identifier: MIT
// What a kernel is asked to do: plain pointers and sizes, no tensors. Letters as in csrc/README.md.
//
// Where T and B stand first in a shape, compact rows may stand in their place: those of step after
// step, without what is past their length. Lengths fall then, so that at step t they are the first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../types.h"

namespace fused_rnn::cpu {

// What products of float32 may lose, as torch.set_float32_matmul_precision names it: nothing, the
// products of the third parts of split numbers, or all but those of the first parts.
enum class Precision { kHighest, kHigh, kMedium };

// Calls of so few steps, with so few rows in all, take the weights as they lie.
constexpr int64_t kUnpackedSteps = 2;
constexpr int64_t kUnpackedRows = 256;

struct Shape {
  int64_t T, B, I, H, P, N;
  Cell cell;
  Dtype dtype;
  bool projected;
  Precision precision = Precision::kHighest;
};

// The batch rows from longest to shortest: position p stands for row order[p].
struct Rows {
  const int64_t* order;      // (B,)
  const int64_t* length_at;  // (B,), by position
  const int64_t* active;     // (T,), rows longer than t
  const int64_t* length_of;  // (B,), by row
  const int64_t* begin;      // (T,), where x, y, tape and resets have the rows of step t
  int64_t count;             // rows of x: T * B, or fewer where they are compact
  const uint8_t* resets;     // (count,) or null: marks of steps before which the state is cut off
};

struct Weights {
  const void* w_ih;  // (G*H, I)
  const void* w_hh;  // (G*H, P)
  const void* b_ih;  // (G*H,) or null
  const void* b_hh;  // (G*H,) or null
  const void* w_hr;  // (P, H) or null
};

// A matrix of int8 or 16-bit weights in panels (kernels/stored.h); of int8 with what each of its
// rows is scaled by, and sums up to.
struct StoredMatrix {
  const void* panels;
  const float* scales;
  const int32_t* sums;
};

struct StoredWeights {
  StoredMatrix input, hidden, output, input_n, hidden_n;  // as ForwardPass has them
  const float* b_ih;                                      // (G*H,) or null
  const float* b_hh;                                      // (G*H,) or null
};

enum class Storage { kInt8, kBf16, kHalf };

struct WeightGrads {
  void* w_ih;
  void* w_hh;
  void* b_ih;
  void* b_hh;
  void* w_hr;
};

struct Forward {
  Shape shape;
  Rows rows;
  const Weights* weights;  // (N,)
  const int64_t* reverse;  // (N,)
  const void* x;           // (T, B, I)
  const void* h0;          // (N, B, P) or null
  const void* c0;          // (N, B, H) or null
  void* y;                 // (T, B, N, P)
  void* hn;                // (N, B, P)
  void* cn;                // (N, B, H), LSTM
  void* tape;              // (T, B, N, S, H) or null
  const char* prepacked;   // (N, prepacked_bytes) or null: weights as `prepack` left them
  int64_t prepacked_bytes;
  Storage storage;
  const StoredWeights* stored;  // (N,) or null: weights of fewer bits
};

struct Backward {
  Shape shape;
  Rows rows;
  const Weights* weights;       // (N,)
  const int64_t* reverse;       // (N,)
  const void* x;                // (T, B, I)
  const void* h0;               // (N, B, P) or null
  const void* c0;               // (N, B, H) or null
  const void* y;                // (T, B, N, P)
  const void* tape;             // (T, B, N, S, H)
  const void* dy;               // (T, B, N, P) or null
  const void* dhn;              // (N, B, P) or null
  const void* dcn;              // (N, B, H) or null
  const void* dcells;           // of c after every step, (T, B, N, H) of the tape's type, or null
  void* dx;                     // (T, B, I) or null
  void* dh0;                    // (N, B, P) or null
  void* dc0;                    // (N, B, H) or null
  const WeightGrads* dweights;  // (N,) or null
};

// y = x w^T + b for rows of x.
struct Linear {
  int64_t rows, I, O;
  Dtype dtype;
  const void* w;          // (O, I), or transposed (I, O)
  const void* b;          // (O,) or null
  const char* prepacked;  // both, as `prepack_linear` left them; null packs them at use
  const void* x;          // (rows, I)
  void* y;                // (rows, O)
  Precision precision;
  bool transposed;
};

// out = a^T b for each n, summed over rows.
struct Outer {
  int64_t rows, N, A, B;
  Dtype dtype;    // float32 or float64
  const void* a;  // (rows, N, A)
  const void* b;  // (rows, N, B)
  void* out;      // (N, A, B)
};

// Rows of logits to log-probabilities.
struct LogSoftmax {
  int64_t columns;
  const float* x;  // (rows, columns)
  float* y;        // (rows, columns)
  float* peaks;    // (rows,), the largest of x, NaN where x holds one
};

// The k largest of each row, in falling order; of equal ones the first.
struct Top {
  int64_t columns, k;
  const float* x;   // (rows, columns)
  float* values;    // (rows, k)
  int64_t* places;  // (rows, k)
};

// Bytes of a core's second cache level.
int64_t near_cache_bytes();

struct Team;
struct VariedForward;
struct VariedBackward;

constexpr int64_t kProductBytes = 1 << 18;

// One instruction set's kernels. Every thread of a team calls the same function; workspace
// tells the bytes that a team of any size up to `threads` needs.
struct Kernels {
  const char* name;
  bool (*serves)(Dtype);
  bool dots_bf16;  // whether bfloat16 products are dot products of pairs, without tiles
  size_t (*forward_workspace)(const Forward&, int threads);
  void (*forward)(const Forward&, char* workspace, Team&, int rank);
  size_t (*prepacked_bytes)(const Forward&);  // of a recurrence
  void (*prepack)(const Forward&, char* to);
  size_t (*backward_workspace)(const Backward&, int threads);
  void (*backward)(const Backward&, char* workspace, Team&, int rank);
  size_t (*prepacked_linear_bytes)(const Linear&);
  void (*prepack_linear)(const Linear&, char* to);
  size_t (*linear_workspace)(const Linear&);
  void (*linear)(const Linear&, char* workspace, Team&, int rank);
  // Null where there are tiles.
  size_t (*outer_workspace)(const Outer&, int threads);
  void (*outer)(const Outer&, char* workspace, Team&, int rank);
  // Of cells with options (varied.h), in float32 and float64; null where there are tiles.
  size_t (*varied_forward_workspace)(const VariedForward&, int threads);
  void (*varied_forward)(const VariedForward&, char* workspace, Team&, int rank);
  size_t (*varied_backward_workspace)(const VariedBackward&, int threads);
  void (*varied_backward)(const VariedBackward&, char* workspace, Team&, int rank);
  void (*log_softmax)(const LogSoftmax&, int64_t begin, int64_t end);  // of some rows
  void (*top)(const Top&, int64_t begin, int64_t end);
  // Repeats a product whose operands lie near, kProductBytes of zeros; returns the multiply-adds.
  double (*multiply_zeros)(Dtype, char* zeros, int64_t times);
};

// Those that run layers whose weights are stored in fewer bits, forward, in float32.
struct StoredKernels {
  const char* name;
  bool (*serves)(Storage);
  size_t (*workspace)(const Forward&, int threads);
  void (*forward)(const Forward&, char* workspace, Team&, int rank);
};

extern const StoredKernels kStoredAmx, kStoredAvx512, kStoredAvx2, kStoredNeon, kStoredPortable,
    kStoredAmxTwin;

// Those of the processor family that was built for, and the twin of AMX.
extern const Kernels kAmx, kAvx512Bf16, kAvx512, kAvx2, kNeonBf16, kNeon, kPortable, kAmxTwin;

}  // namespace fused_rnn::cpu
