// SPDX-License-Identifier: MIT
#include <cstring>

#include "arguments.h"
#include "ops.h"
#include "packed_weights.h"

namespace fused_rnn::cpu {
namespace {

// The bytes of a layer's sizes and of a flag for each recurrence, which its packed weights follow,
// aligned for vectors.
int64_t head_bytes(int64_t recurrences) {
  constexpr int64_t kAlign = 64;
  const int64_t bytes = int64_t(sizeof(Shape) + sizeof(int64_t) * size_t(recurrences));
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// A layer whose weights were packed beforehand, and the rows of one call.
struct PackedLayer : Layer {
  std::vector<int64_t> reverse;
  const Kernels* kernels;
  const char* packs;
  int64_t pack_bytes;

  PackedLayer(const Tensor& prepacked, const Tensor& x, const Extent& extent,
              const std::optional<Tensor>& lengths, const std::optional<Tensor>& resets) {
    const std::string_view bytes = prepacked_bytes(PackOf::kLayer, prepacked);
    Shape sizes;
    FUSED_RNN_CHECK(bytes.size() >= sizeof sizes, "prepacked: expected sizes first, got ",
                    bytes.size(), " bytes");
    std::memcpy(&sizes, bytes.data(), sizeof sizes);
    FUSED_RNN_CHECK(dtype_of_type(x.scalar_type()) == sizes.dtype,
                    "x: expected the dtype of the packed weights");
    sizes.T = extent.T;
    sizes.B = extent.B;
    take_rows(sizes, extent.compact, x, lengths, resets);
    Forward args{};
    args.shape = shape;
    kernels = &packed_kernels(sizes.dtype, sizes.I, sizes.P);
    pack_bytes = int64_t(kernels->prepacked_bytes(args));
    const int64_t head = head_bytes(shape.N);
    check_prepacked(prepacked, *kernels, head + shape.N * pack_bytes);
    reverse.resize(size_t(shape.N));
    std::memcpy(reverse.data(), bytes.data() + sizeof sizes, sizeof(int64_t) * reverse.size());
    packs = bytes.data() + head;
  }

  void run(Forward args) const {
    if (shape.B == 0) return;
    args.reverse = reverse.data();
    args.prepacked = packs;
    args.prepacked_bytes = pack_bytes;
    run_forward(*this, *kernels, args);
  }
};

}  // namespace

Tensor prepack(std::vector<Tensor> weights, std::string cell, std::vector<int64_t> reverse) {
  FUSED_RNN_CHECK(!reverse.empty() && !weights.empty() && weights[0].dim() == 2,
                  "weights: expected matrices first, of at least one recurrence");
  // No rows of one step.
  const Tensor x = make({1, 0, weights[0].size(1)}, weights[0].scalar_type());
  const WeightedLayer layer(x, weights, reverse, cell, {}, {});
  Forward args{};
  args.shape = layer.shape;
  args.weights = layer.weights.data();
  const Kernels& kernels = packed_kernels(layer.shape.dtype, layer.shape.I, layer.shape.P);
  args.prepacked_bytes = int64_t(kernels.prepacked_bytes(args));
  const int64_t N = layer.shape.N, head = head_bytes(N);
  Tensor packed = make_prepacked(PackOf::kLayer, kernels, head + N * args.prepacked_bytes);
  char* to = prepacked_memory(packed);
  std::memcpy(to, &layer.shape, sizeof(Shape));
  std::memcpy(to + sizeof(Shape), reverse.data(), sizeof(int64_t) * reverse.size());
  kernels.prepack(args, to + head);
  return packed;
}

std::tuple<Tensor, Tensor, std::optional<Tensor>> prepacked_forward(
    Tensor x, std::optional<Tensor> h0, std::optional<Tensor> c0, Tensor prepacked,
    std::optional<Tensor> lengths, std::optional<Tensor> resets) {
  const PackedLayer layer(prepacked, x, extent_of(x, lengths), lengths, resets);
  const Shape& s = layer.shape;
  check_tensor("x", x, layer.dtype, layer.over_rows({s.I}));
  check_optional("h0", h0, layer.dtype, {s.N, s.B, s.P});
  check_optional("c0", c0, layer.dtype, {s.N, s.B, s.H});
  Tensor y = make(layer.over_rows({s.N * s.P}), layer.dtype);
  Tensor hn = make({s.N, s.B, s.P}, layer.dtype);
  std::optional<Tensor> cn;
  if (s.cell == Cell::kLstm) cn = make({s.N, s.B, s.H}, layer.dtype);
  layer.run(layer.forward(x, h0, c0, y, hn, cn));
  return {y, hn, cn};
}

std::tuple<Tensor, std::optional<Tensor>> prepacked_step(Tensor x, std::optional<Tensor> h0,
                                                         std::optional<Tensor> c0,
                                                         Tensor prepacked) {
  FUSED_RNN_CHECK(x.dim() == 2, "x: expected 2 dimensions, got ", x.dim());
  const PackedLayer layer(prepacked, x, Extent{1, x.size(0), false}, {}, {});
  const Shape& s = layer.shape;
  FUSED_RNN_CHECK(s.N == 1, "prepacked: expected one recurrence, got ", s.N);
  check_tensor("x", x, layer.dtype, {s.B, s.I});
  check_optional("h0", h0, layer.dtype, {s.B, s.P});
  check_optional("c0", c0, layer.dtype, {s.B, s.H});
  Tensor y = make({s.B, s.P}, layer.dtype);
  Tensor hn = make({s.B, s.P}, layer.dtype);
  std::optional<Tensor> cn;
  if (s.cell == Cell::kLstm) cn = make({s.B, s.H}, layer.dtype);
  layer.run(layer.forward(x, h0, c0, y, hn, cn));
  return {hn, cn};
}

}  // namespace fused_rnn::cpu
