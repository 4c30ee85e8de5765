// SPDX-License-Identifier: MIT
// The ops of the CPU backend; schemas in fused_rnn/ops/schemas.py. Each .cpp file ops_* has some of
// them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace fused_rnn::cpu {

using torch::stable::Tensor;

// `products`: of bfloat16 parts that stand for one of float32, 6, 3 or 1, where the kernels split
// numbers; others are exact. x (T, B, I), or compact rows: those of step after step, (rows, I),
// with lengths that fall. Then y, the tape, resets and the gradients of x and y have rows too where
// they have T and B else.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, std::string cell,
    std::vector<int64_t> reverse, bool keep_tape, int64_t products);

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(
    std::optional<Tensor> dy, std::optional<Tensor> dhn, std::optional<Tensor> dcn, Tensor x,
    std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, Tensor y, Tensor tape,
    std::string cell, std::vector<int64_t> reverse, bool need_dx, bool need_dstate,
    bool need_dweights, int64_t products);

// The same of an LSTM whose c after every step has a gradient too, (T, B, N, H) of the tape's type.
std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> cells_backward(
    std::optional<Tensor> dcells, std::optional<Tensor> dy, std::optional<Tensor> dhn,
    std::optional<Tensor> dcn, Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0,
    std::vector<Tensor> weights, std::optional<Tensor> lengths, std::optional<Tensor> resets,
    Tensor y, Tensor tape, std::string cell, std::vector<int64_t> reverse, bool need_dx,
    bool need_dstate, bool need_dweights, int64_t products);

// Cells with options (varied.h), in float32 and float64: x is the input's part of the gates,
// (T, B, N, G*H), and what has one recurrence's behind another's begins with N. `dropout` is that
// of the state before the product, or of the candidate. Returns y (T, B, N, H), hn and cn (N, B,
// H), a tape, and y again.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> varied_forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, Tensor w_hh,
    std::optional<Tensor> b_hh, std::optional<Tensor> x_scale, std::optional<Tensor> x_bias,
    std::optional<Tensor> h_scale, std::optional<Tensor> c_scale, std::optional<Tensor> c_bias,
    std::optional<Tensor> peephole, std::optional<Tensor> seeds, std::optional<Tensor> lengths,
    std::optional<Tensor> resets, std::string cell, std::vector<int64_t> reverse,
    std::string activation, std::string gate_activation, double zoneout, double zoneout_cell,
    double dropout, bool drops_state, double eps, std::optional<double> clip, bool every_cell,
    bool keep_tape);

// Returns dx, the gradient of the recurrent part (empty where it is dx), what the recurrent weights
// were multiplied with, dh0, dc0, and the gradients from b_hh to peephole, absent ones empty.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, std::vector<Tensor>> varied_backward(
    std::optional<Tensor> dy, std::optional<Tensor> dhn, std::optional<Tensor> dcn,
    std::optional<Tensor> dcells, Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0,
    Tensor w_hh, std::optional<Tensor> b_hh, std::optional<Tensor> x_scale,
    std::optional<Tensor> x_bias, std::optional<Tensor> h_scale, std::optional<Tensor> c_scale,
    std::optional<Tensor> c_bias, std::optional<Tensor> peephole, std::optional<Tensor> seeds,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, Tensor y, Tensor tape,
    std::string cell, std::vector<int64_t> reverse, std::string activation,
    std::string gate_activation, double zoneout, double zoneout_cell, double dropout,
    bool drops_state, double eps, std::optional<double> clip, bool every_cell);

// The weights of a layer as its kernels read them, and what the calls below need know of it.
Tensor prepack(std::vector<Tensor> weights, std::string cell, std::vector<int64_t> reverse);

// x (T, B, I) -> y (T, B, N*P), hn (N, B, P), cn (N, B, H) of the LSTM; as above, rows may be
// compact.
std::tuple<Tensor, Tensor, std::optional<Tensor>> prepacked_forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, Tensor prepacked,
    std::optional<Tensor> lengths, std::optional<Tensor> resets);

// One step of one recurrence: x (B, I) -> h (B, P), c (B, H) of the LSTM.
std::tuple<Tensor, std::optional<Tensor>> prepacked_step(Tensor x, std::optional<Tensor> h0,
                                                         std::optional<Tensor> c0,
                                                         Tensor prepacked);

// The same of weights of fewer bits, which come as kernels/stored.h has them: of each recurrence
// the panels of w_ih and w_hh, for the textbook GRU without n and then of n, and of w_hr; of int8
// with scales and sums; then b_ih and b_hh, or neither. `hidden` and `output` are H and P. One step
// of one recurrence, x (B, I), has states (B, P) and (B, H).
std::tuple<Tensor, Tensor, std::optional<Tensor>> stored_forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, std::string cell,
    std::vector<int64_t> reverse, int64_t hidden, int64_t output);

// x w^T + b of rows x, (rows, I), and weights (O, I) and (O,).
Tensor prepack_linear(Tensor weight, std::optional<Tensor> bias);
Tensor prepacked_linear(Tensor x, Tensor prepacked, int64_t columns);

// Products of all steps, for cells with options. x (rows, I) times w (O, I), or transposed (I, O);
// out[n] = a[:, n]^T b[:, n] of a (rows, N, A) and b (rows, N, B).
Tensor linear(Tensor x, Tensor w, std::optional<Tensor> b, bool transposed);
Tensor outer(Tensor a, Tensor b);

// Of rows x, (rows, columns), float32: log-probabilities and each row's largest logit; the k
// largest of each row, in falling order, of equal ones the first, and their places.
std::tuple<Tensor, Tensor> log_softmax(Tensor x);
std::tuple<Tensor, Tensor> top(Tensor x, int64_t k);

// The k largest log-probabilities of each row of logits, but those of the columns in `excluded`,
// their places, and each row's largest logit: `log_softmax` and `top` without an array between.
std::tuple<Tensor, Tensor, Tensor> best(Tensor logits, int64_t k, std::optional<Tensor> excluded);

// One step of a beam search, of what `best` returned for the rows of its sentences, W a sentence:
// what lives on, (B, K), the rows it came from and its last tokens, (B * K,). Notes the step in
// what is behind `broken`, (T, B, K). With `retire`, nothing of a sentence lives on once K of its
// hypotheses have ended, which `counts`, (B,), counts.
std::tuple<Tensor, Tensor, Tensor> advance(Tensor values, Tensor places, Tensor peaks, Tensor live,
                                           Tensor counts, Tensor broken, Tensor tokens,
                                           Tensor parents, Tensor gains, Tensor ended,
                                           Tensor end_parents, Tensor end_gains, int64_t step,
                                           std::optional<int64_t> eos, bool retire);

// One step of a greedy search or of sampling, of the token that was chosen for each row, (N, 1):
// which rows live on, which have reached something, and their lengths, (N,).
std::tuple<Tensor, Tensor, Tensor> outlive(Tensor values, Tensor places, Tensor peaks, Tensor alive,
                                           Tensor reached, Tensor lengths,
                                           std::optional<Tensor> limits, Tensor broken,
                                           std::optional<int64_t> eos);

}  // namespace fused_rnn::cpu
