// SPDX-License-Identifier: MIT
#include <array>

#include "arguments.h"
#include "ops.h"
#include "varied.h"

namespace fused_rnn::cpu {
namespace {

cells::Activation activation_of(const char* name, const std::string& text) {
  if (text == "tanh") return cells::Activation::kTanh;
  if (text == "sigmoid") return cells::Activation::kSigmoid;
  if (text == "relu") return cells::Activation::kRelu;
  FUSED_RNN_CHECK(text == "hard_sigmoid", name,
                  ": expected tanh, sigmoid, relu or hard_sigmoid, got ", text);
  return cells::Activation::kHardSigmoid;
}

struct VariedTensors {
  const std::optional<Tensor>&h0, &c0;
  const Tensor& w_hh;
  const std::optional<Tensor>&b_hh, &x_scale, &x_bias, &h_scale, &c_scale, &c_bias, &peephole;
  const std::optional<Tensor>&seeds, &lengths, &resets;
};

struct VariedNumbers {
  const std::string &activation, &gate_activation;
  double zoneout, zoneout_cell, dropout;
  bool drops_state;
  double eps;
  std::optional<double> clip;
};

// The sizes, rows and inputs of a call, checked.
struct VariedCall : Layer {
  VariedLayer args{};
  int64_t G;

  VariedCall(const Tensor& x, const VariedTensors& given, const std::string& cell,
             const std::vector<int64_t>& reverse, const VariedNumbers& numbers) {
    FUSED_RNN_CHECK(x.dim() == 4, "x: expected 4 dimensions, got ", x.dim());
    FUSED_RNN_CHECK(given.w_hh.dim() == 3, "w_hh: expected 3 dimensions, got ", given.w_hh.dim());
    Shape sizes{};
    sizes.T = x.size(0);
    sizes.B = x.size(1);
    sizes.N = int64_t(reverse.size());
    sizes.H = sizes.P = sizes.I = given.w_hh.size(2);
    sizes.cell = cell == "slstm" ? Cell::kSlstm : cell_of(cell);
    sizes.dtype = dtype_of_type(x.scalar_type());
    FUSED_RNN_CHECK(sizes.cell != Cell::kGruResetBefore, "cell: expected a GRU that resets after ",
                    "the product, got ", cell);
    FUSED_RNN_CHECK(!is_half(sizes.dtype), "x: expected dtype float32 or float64, got ",
                    torch::headeronly::toString(x.scalar_type()));
    FUSED_RNN_CHECK(sizes.N > 0, "reverse: expected at least one recurrence, got none");
    take_rows(sizes, false, x, given.lengths, given.resets);
    const int64_t N = sizes.N, H = sizes.H;
    G = gate_count(sizes.cell);
    check_tensor("x", x, dtype, over_rows({N, G * H}));
    check_tensor("w_hh", given.w_hh, dtype, {N, G * H, H});
    check_optional("h0", given.h0, dtype, {N, sizes.B, H});
    check_optional("c0", given.c0, dtype, {N, sizes.B, cell_states(sizes.cell) * H});
    check_optional("b_hh", given.b_hh, dtype, {N, G * H});
    check_optional("x_scale", given.x_scale, dtype, {N, G * H});
    check_optional("x_bias", given.x_bias, dtype, {N, G * H});
    check_optional("h_scale", given.h_scale, dtype, {N, G * H});
    check_optional("c_scale", given.c_scale, dtype, {N, H});
    check_optional("c_bias", given.c_bias, dtype, {N, H});
    check_optional("peephole", given.peephole, dtype, {N, 3 * H});
    const bool lstm = sizes.cell == Cell::kLstm, normal = given.x_scale.has_value();
    FUSED_RNN_CHECK(given.h_scale.has_value() == normal &&
                        given.c_scale.has_value() == (normal && lstm) &&
                        given.c_bias.has_value() == (normal && lstm),
                    "scales: expected those of all parts, and of an LSTM's cell, or none");
    FUSED_RNN_CHECK(lstm || !given.peephole, "peephole: expected it of an LSTM, got ", cell);
    const bool varies = numbers.zoneout != 0 || numbers.zoneout_cell != 0 || numbers.dropout != 0;
    FUSED_RNN_CHECK(sizes.cell != Cell::kSlstm || !(varies || numbers.clip),
                    "slstm: expected no zoneout, dropout or clip");
    FUSED_RNN_CHECK(!numbers.clip || *numbers.clip > 0, "clip: expected a number above 0, got ",
                    numbers.clip.value_or(0));
    check_optional("seeds", given.seeds, ScalarType::Long, {sizes.B});
    args.shape = shape;
    args.rows = rows;
    args.reverse = reverse.data();
    args.options = {{activation_of("gate_activation", numbers.gate_activation),
                     activation_of("activation", numbers.activation)},
                    numbers.zoneout,
                    numbers.zoneout_cell,
                    numbers.dropout,
                    numbers.drops_state,
                    numbers.eps,
                    numbers.clip.value_or(0)};
    args.x = x.const_data_ptr();
    args.h0 = data(given.h0);
    args.c0 = data(given.c0);
    args.w_hh = given.w_hh.const_data_ptr();
    args.b_hh = data(given.b_hh);
    args.x_scale = data(given.x_scale);
    args.x_bias = data(given.x_bias);
    args.h_scale = data(given.h_scale);
    args.c_scale = data(given.c_scale);
    args.c_bias = data(given.c_bias);
    args.peephole = data(given.peephole);
    args.seeds = static_cast<const int64_t*>(data(given.seeds));
  }

  std::vector<int64_t> tape_shape() const { return over_rows({shape.N, all_slots(args), shape.H}); }

  // Of the products within the recurrence alone.
  double multiply_adds() const {
    double steps = 0;
    for (int64_t b = 0; b < shape.B; ++b) steps += double(rows.length_of[b]);
    return steps * double(shape.N * G * shape.H * shape.H);
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> varied_forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, Tensor w_hh,
    std::optional<Tensor> b_hh, std::optional<Tensor> x_scale, std::optional<Tensor> x_bias,
    std::optional<Tensor> h_scale, std::optional<Tensor> c_scale, std::optional<Tensor> c_bias,
    std::optional<Tensor> peephole, std::optional<Tensor> seeds, std::optional<Tensor> lengths,
    std::optional<Tensor> resets, std::string cell, std::vector<int64_t> reverse,
    std::string activation, std::string gate_activation, double zoneout, double zoneout_cell,
    double dropout, bool drops_state, double eps, std::optional<double> clip, bool every_cell,
    bool keep_tape) {
  const VariedCall call(
      x,
      {h0, c0, w_hh, b_hh, x_scale, x_bias, h_scale, c_scale, c_bias, peephole, seeds, lengths,
       resets},
      cell, reverse,
      {activation, gate_activation, zoneout, zoneout_cell, dropout, drops_state, eps, clip});
  const Shape& s = call.shape;
  const int64_t cells = cell_states(s.cell);
  Tensor y = make(call.over_rows({s.N, s.H}), call.dtype);
  Tensor hn = make({s.N, s.B, s.H}, call.dtype);
  Tensor cn = cells ? make({s.N, s.B, cells * s.H}, call.dtype) : make({0}, call.dtype);
  Tensor tape = keep_tape ? make_recycled(call.tape_shape(), call.dtype) : make({0}, call.dtype);
  const bool shows = every_cell && cells;
  Tensor shown =
      make(shows ? call.over_rows({s.N, cells * s.H}) : std::vector<int64_t>{0}, call.dtype);
  if (s.B > 0) {
    VariedForward args{call.args,
                       y.mutable_data_ptr(),
                       hn.mutable_data_ptr(),
                       cells ? cn.mutable_data_ptr() : nullptr,
                       keep_tape ? tape.mutable_data_ptr() : nullptr,
                       shows ? shown.mutable_data_ptr() : nullptr};
    const Kernels& k = varied_kernels(s.dtype);
    const int threads = team_size(call.multiply_adds());
    const Workspace workspace(k.varied_forward_workspace(args, threads));
    run_team(threads,
             [&](Team& team, int rank) { k.varied_forward(args, workspace.memory(), team, rank); });
  }
  return {y, hn, cn, shown, tape, keep_tape ? copy_on_write(y) : make({0}, call.dtype)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, std::vector<Tensor>> varied_backward(
    std::optional<Tensor> dy, std::optional<Tensor> dhn, std::optional<Tensor> dcn,
    std::optional<Tensor> dcells, Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0,
    Tensor w_hh, std::optional<Tensor> b_hh, std::optional<Tensor> x_scale,
    std::optional<Tensor> x_bias, std::optional<Tensor> h_scale, std::optional<Tensor> c_scale,
    std::optional<Tensor> c_bias, std::optional<Tensor> peephole, std::optional<Tensor> seeds,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, Tensor y, Tensor tape,
    std::string cell, std::vector<int64_t> reverse, std::string activation,
    std::string gate_activation, double zoneout, double zoneout_cell, double dropout,
    bool drops_state, double eps, std::optional<double> clip, bool /* every_cell */) {
  const VariedCall call(
      x,
      {h0, c0, w_hh, b_hh, x_scale, x_bias, h_scale, c_scale, c_bias, peephole, seeds, lengths,
       resets},
      cell, reverse,
      {activation, gate_activation, zoneout, zoneout_cell, dropout, drops_state, eps, clip});
  const Shape& s = call.shape;
  const int64_t cells = cell_states(s.cell);
  check_tensor("y", y, call.dtype, call.over_rows({s.N, s.H}));
  check_tensor("tape", tape, call.dtype, call.tape_shape());
  check_optional("dy", dy, call.dtype, call.over_rows({s.N, s.H}));
  check_optional("dhn", dhn, call.dtype, {s.N, s.B, s.H});
  if (cells) {
    check_optional("dcn", dcn, call.dtype, {s.N, s.B, cells * s.H});
    check_optional("dcells", dcells, call.dtype, call.over_rows({s.N, cells * s.H}));
  }

  Tensor dx = make_recycled(x.sizes(), call.dtype);
  // Where a part is normalised or the GRU resets it, its gradient is not that of the input's part.
  const bool parted = x_scale.has_value() || s.cell == Cell::kGru;
  Tensor dparts = parted ? make_recycled(x.sizes(), call.dtype) : make({0}, call.dtype);
  Tensor factors = make_recycled(call.over_rows({s.N, s.H}), call.dtype);
  Tensor dh0 = make({s.N, s.B, s.H}, call.dtype);
  Tensor dc0 = cells ? make({s.N, s.B, cells * s.H}, call.dtype) : make({0}, call.dtype);
  std::vector<Tensor> sums;
  std::array<void*, 7> pointers{};
  const std::optional<Tensor>* like[] = {&b_hh,    &x_scale, &x_bias,  &h_scale,
                                         &c_scale, &c_bias,  &peephole};
  for (size_t i = 0; i < pointers.size(); ++i) {
    sums.push_back(*like[i] ? make((*like[i])->sizes(), call.dtype) : make({0}, call.dtype));
    if (*like[i]) pointers[i] = sums.back().mutable_data_ptr();
  }
  const VariedBackward args{call.args,
                            y.const_data_ptr(),
                            tape.const_data_ptr(),
                            data(dy),
                            data(dhn),
                            cells ? data(dcn) : nullptr,
                            cells ? data(dcells) : nullptr,
                            dx.mutable_data_ptr(),
                            parted ? dparts.mutable_data_ptr() : nullptr,
                            factors.mutable_data_ptr(),
                            dh0.mutable_data_ptr(),
                            cells ? dc0.mutable_data_ptr() : nullptr,
                            pointers[0],
                            pointers[1],
                            pointers[2],
                            pointers[3],
                            pointers[4],
                            pointers[5],
                            pointers[6]};
  const Kernels& k = varied_kernels(s.dtype);
  const int threads = team_size(2 * call.multiply_adds());
  const Workspace workspace(k.varied_backward_workspace(args, threads));
  run_team(threads,
           [&](Team& team, int rank) { k.varied_backward(args, workspace.memory(), team, rank); });
  return {dx, dparts, factors, dh0, dc0, sums};
}

}  // namespace fused_rnn::cpu
