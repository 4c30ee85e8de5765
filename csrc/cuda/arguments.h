// SPDX-License-Identifier: MIT
// The arguments of an op: a layer's tensors, checked, with the weights of all recurrences one
// behind another.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "../check.h"
#include "../names.h"
#include "problem.h"
#include "runtime.h"

namespace fused_rnn {
namespace cuda {

inline void check_on(const char* name, const Tensor& tensor, int32_t index) {
  FUSED_RNN_CHECK(on_device(tensor), name, ": expected a tensor on the device of x");
  FUSED_RNN_CHECK(tensor.get_device_index() == index, name, ": expected a tensor on device ", index,
                  ", got device ", tensor.get_device_index());
}

inline void check_launch(const char* error) {
  FUSED_RNN_CHECK(error == nullptr, "kernel launch failed: ", error);
}

// A view of a tensor's memory, `offset` numbers behind its start.
inline Tensor view(const Tensor& tensor, std::initializer_list<int64_t> shape,
                   std::initializer_list<int64_t> strides, int64_t offset = 0) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
      tensor.get(), int64_t(shape.size()), shape.begin(), strides.begin(), offset, &handle));
  return Tensor(handle);
}

inline const void* data(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

// Columns first: the transpose of rows (m, k) that lie `stride` apart.
inline Tensor transposed(const Tensor& tensor, int64_t m, int64_t k, int64_t stride,
                         int64_t offset = 0) {
  return view(tensor, {k, m}, {1, stride}, offset);
}

struct Layer {
  Sizes sizes;
  int64_t I, G, D, S;
  int32_t device;
  ScalarType dtype;
  int per_recurrence;
  bool bias;
  const std::vector<Tensor>& given;
  Tensor w_ih, w_hh;  // (N*G*H, I), (N*G*H, H)
  std::optional<Tensor> b_ih, b_hh;
  Recurrence recurrence;

  Layer(const Tensor& x, const std::optional<Tensor>& h0, const std::optional<Tensor>& c0,
        const std::vector<Tensor>& weights, const std::optional<Tensor>& lengths,
        const std::optional<Tensor>& resets, const std::string& cell,
        const std::vector<int64_t>& reverse)
      : given(weights) {
    const int64_t N = int64_t(reverse.size());
    FUSED_RNN_CHECK(N > 0 && N <= kMostRecurrences, "reverse: expected 1 to ", kMostRecurrences,
                    " recurrences, got ", N);
    per_recurrence = int(weights.size() / reverse.size());
    FUSED_RNN_CHECK(
        weights.size() % reverse.size() == 0 && (per_recurrence == 2 || per_recurrence == 4),
        "weights: expected 2 or 4 for each of ", N, " recurrences, got ", weights.size());
    bias = per_recurrence == 4;
    FUSED_RNN_CHECK(x.dim() == 3, "x: expected 3 dimensions, got ", x.dim());
    FUSED_RNN_CHECK(weights[0].dim() == 2 && weights[1].dim() == 2,
                    "weights: expected matrices first");
    const Cell named = cell_of(cell);
    G = gate_count(named);
    D = grad_count(named);
    S = saved_slots(named);
    I = x.size(2);
    const int64_t T = x.size(0), B = x.size(1), H = weights[1].size(1);
    FUSED_RNN_CHECK(T > 0, "x: expected at least one step, got shape ", shape_text(x.sizes()));
    const int64_t rows = INT_MAX / std::max<int64_t>(B, 1);
    FUSED_RNN_CHECK(T <= rows && N <= rows && G * H * N <= INT_MAX, "x: expected at most ", INT_MAX,
                    " steps of rows, got shape ", shape_text(x.sizes()));
    sizes = Sizes{int(T), int(B), int(N), int(H), named, dtype_of_type(x.scalar_type())};
    dtype = x.scalar_type();
    device = x.get_device_index();
    check("x", x, {T, B, I});
    for (int64_t n = 0; n < N; ++n) check_weights(weights.data() + n * per_recurrence);
    check("h0", h0, {N, B, H});
    check("c0", c0, {N, B, H});
    if (lengths) check_kind("lengths", *lengths, ScalarType::Long, {B});
    if (resets) check_kind("resets", *resets, ScalarType::Bool, {T, B});
    w_ih = stacked(0);
    w_hh = stacked(1);
    if (bias) {
      b_ih = stacked(2);
      b_hh = stacked(3);
    }
    recurrence = Recurrence{sizes,
                            0,
                            static_cast<const int64_t*>(data(lengths)),
                            static_cast<const uint8_t*>(data(resets)),
                            w_hh.const_data_ptr(),
                            data(h0),
                            data(c0),
                            H % 2 == 0,
                            nullptr};
    for (int64_t n = 0; n < N; ++n) recurrence.reverse |= uint64_t(reverse[n] != 0) << n;
    for (const void* pointer : {recurrence.w_hh, recurrence.h0, recurrence.c0}) align(pointer);
  }

  void check_kind(const char* name, const Tensor& tensor, ScalarType kind,
                  std::initializer_list<int64_t> shape) const {
    check_on(name, tensor, device);
    check_form(name, tensor, kind, shape);
  }
  void check(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape) const {
    check_kind(name, tensor, dtype, shape);
  }
  void check(const char* name, const std::optional<Tensor>& tensor,
             std::initializer_list<int64_t> shape) const {
    if (tensor) check(name, *tensor, shape);
  }

  void check_weights(const Tensor* w) const {
    const int64_t gates = G * sizes.H;
    check("w_ih", w[0], {gates, I});
    check("w_hh", w[1], {gates, sizes.H});
    if (!bias) return;
    check("b_ih", w[2], {gates});
    check("b_hh", w[3], {gates});
  }

  // One kind of weight of all recurrences.
  Tensor stacked(int kind) const {
    if (sizes.N == 1) return given[kind];
    std::vector<Tensor> parts;
    for (int n = 0; n < sizes.N; ++n) parts.push_back(given[n * per_recurrence + kind]);
    return concatenate(parts);
  }

  // Kernels read and write words of two 16-bit numbers where every tensor lets them.
  void align(const void* pointer) {
    recurrence.paired = recurrence.paired && reinterpret_cast<uintptr_t>(pointer) % 4 == 0;
  }

  int64_t rows() const { return int64_t(sizes.T) * sizes.B; }

  Tensor make(std::initializer_list<int64_t> shape) const { return make(shape, dtype); }
  // For states and sums: float32, or float64 for float64.
  Tensor make_wide(std::initializer_list<int64_t> shape) const {
    return make(shape, dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
  }
  Tensor make(std::initializer_list<int64_t> shape, ScalarType kind) const {
    std::array<int64_t, 5> strides;
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= std::max<int64_t>(shape.begin()[i], 1);
    }
    AtenTensorHandle handle;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.begin(),
                                                    strides.data(), int32_t(kind), device_type(),
                                                    device, &handle));
    return Tensor(handle);
  }
};

}  // namespace cuda
}  // namespace fused_rnn
