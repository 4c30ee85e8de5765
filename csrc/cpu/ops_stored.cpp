// SPDX-License-Identifier: MIT
// Layers whose weights are stored in fewer bits than they compute in.
#include "arguments.h"
#include "ops.h"

namespace fused_rnn::cpu {
namespace {

// Units in a panel, and elements along k that lie together, as kernels/stored.h has them.
constexpr int64_t kOutputs = 64;

int64_t panel_units(Cell cell) {
  if (gate_count(cell) == 1) return 64;
  return cell == Cell::kGruResetBefore ? 32 : 16;
}

int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// The tensors of a layer, taken one after another.
class StoredReader {
 public:
  StoredReader(const std::vector<Tensor>& tensors, const Shape& shape)
      : next_(tensors.data()), s_(shape), type_(tensors[0].scalar_type()) {}

  StoredWeights recurrence(bool bias) {
    const bool split = s_.cell == Cell::kGruResetBefore;
    const int64_t gates = split ? 2 : gate_count(s_.cell), units = panel_units(s_.cell);
    StoredWeights w{};
    w.input = matrix("w_ih", gates, s_.H, units, s_.I);
    w.hidden = matrix("w_hh", gates, s_.H, units, s_.P);
    if (split) {
      w.input_n = matrix("w_ih of n", 1, s_.H, units, s_.I);
      w.hidden_n = matrix("w_hh of n", 1, s_.H, units, s_.P);
    }
    if (s_.projected) w.output = matrix("w_hr", 1, s_.P, kOutputs, s_.H);
    if (bias) {
      w.b_ih = floats("b_ih", {gate_count(s_.cell) * s_.H});
      w.b_hh = floats("b_hh", {gate_count(s_.cell) * s_.H});
    }
    return w;
  }

 private:
  StoredMatrix matrix(const char* name, int64_t gates, int64_t rows, int64_t units, int64_t K) {
    const bool int8 = type_ == ScalarType::Char;
    const int64_t panels = parts_of(rows, units);
    StoredMatrix found{};
    if (int8) {
      check_tensor(name, *next_, type_, {panels, parts_of(K, 4), gates, units, 4});
      found.panels = (next_++)->const_data_ptr();
      found.scales = floats(name, {panels, gates, units});
      check_tensor(name, *next_, ScalarType::Int, {panels, gates, units});
      found.sums = static_cast<const int32_t*>((next_++)->const_data_ptr());
    } else {
      if (type_ == ScalarType::BFloat16) {
        check_tensor(name, *next_, type_, {panels, parts_of(K, 2), gates, units, 2});
      } else {
        check_tensor(name, *next_, type_, {panels, K, gates, units});
      }
      found.panels = (next_++)->const_data_ptr();
    }
    return found;
  }

  const float* floats(const char* name, std::initializer_list<int64_t> sizes) {
    check_tensor(name, *next_, ScalarType::Float, sizes);
    return static_cast<const float*>((next_++)->const_data_ptr());
  }

  const Tensor* next_;
  const Shape& s_;
  ScalarType type_;
};

Storage storage_of(const Tensor& panels) {
  const ScalarType type = panels.scalar_type();
  if (type == ScalarType::Char) return Storage::kInt8;
  if (type == ScalarType::BFloat16) return Storage::kBf16;
  FUSED_RNN_CHECK(type == ScalarType::Half, "weights: expected int8, bfloat16 or float16, got ",
                  torch::headeronly::toString(type));
  return Storage::kHalf;
}

}  // namespace

std::tuple<Tensor, Tensor, std::optional<Tensor>> stored_forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, std::vector<Tensor> weights,
    std::optional<Tensor> lengths, std::optional<Tensor> resets, std::string cell,
    std::vector<int64_t> reverse, int64_t hidden, int64_t output) {
  const Cell kind = cell_of(cell);
  const int64_t N = int64_t(reverse.size());
  FUSED_RNN_CHECK(N > 0 && !weights.empty() && weights.size() % reverse.size() == 0,
                  "weights: expected the same number for each of ", N, " recurrences, got ",
                  weights.size());
  FUSED_RNN_CHECK(hidden > 0 && output > 0, "weights: expected units, got ", hidden, " and ",
                  output);
  const bool projected = output != hidden;
  FUSED_RNN_CHECK(!projected || kind == Cell::kLstm, "output: expected ", hidden, ", got ", output);
  const Storage storage = storage_of(weights[0]);
  const size_t matrices = 2 + 2 * (kind == Cell::kGruResetBefore) + projected;
  const size_t least = matrices * (storage == Storage::kInt8 ? 3 : 1);
  const size_t given = weights.size() / reverse.size();
  FUSED_RNN_CHECK(given == least || given == least + 2, "weights: expected ", least, " or ",
                  least + 2, " a recurrence, got ", given);

  const bool step = x.dim() == 2 && !lengths;
  FUSED_RNN_CHECK(!step || N == 1, "x: expected 3 dimensions for ", N, " recurrences, got 2");
  const Extent extent = step ? Extent{1, x.size(0), false} : extent_of(x, lengths);
  const int64_t I = x.size(x.dim() - 1);
  Layer layer;
  layer.take_rows(Shape{extent.T, extent.B, I, hidden, output, N, kind, Dtype::kFloat, projected},
                  extent.compact, x, lengths, resets);
  const Shape& s = layer.shape;
  // A step's tensors have neither T nor N.
  const auto rows = [&](int64_t each) {
    return step ? std::vector<int64_t>{s.B, each} : layer.over_rows({each});
  };
  const auto states = [&](int64_t each) {
    return step ? std::vector<int64_t>{s.B, each} : std::vector<int64_t>{N, s.B, each};
  };
  check_tensor("x", x, ScalarType::Float, rows(I));
  check_optional("h0", h0, ScalarType::Float, states(output));
  check_optional("c0", c0, ScalarType::Float, states(hidden));
  std::vector<StoredWeights> stored;
  StoredReader reader(weights, s);
  for (int64_t n = 0; n < N; ++n) stored.push_back(reader.recurrence(given > least));

  Tensor y = make(rows(N * output), ScalarType::Float);
  Tensor hn = make(states(output), ScalarType::Float);
  std::optional<Tensor> cn;
  if (kind == Cell::kLstm) cn = make(states(hidden), ScalarType::Float);
  if (s.B > 0) {
    Forward args = layer.forward(x, h0, c0, y, hn, cn);
    args.reverse = reverse.data();
    args.storage = storage;
    args.stored = stored.data();
    const StoredKernels& kernels = stored_kernels(storage);
    const int threads = team_size(layer.multiply_adds());
    const Workspace workspace(kernels.workspace(args, threads));
    run_team(threads,
             [&](Team& team, int rank) { kernels.forward(args, workspace.memory(), team, rank); });
  }
  return {y, hn, cn};
}

}  // namespace fused_rnn::cpu
