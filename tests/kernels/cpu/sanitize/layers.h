// SPDX-License-Identifier: MIT
// Random layers for the programs under the sanitizers.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include "buffers.h"

namespace fused_rnn::cpu {

// The type of tapes, and of what is added to their gradients.
inline Dtype wide(Dtype dtype) { return dtype == Dtype::kDouble ? dtype : Dtype::kFloat; }

// One random layer: its shape, inputs and cotangents.
struct Problem {
  Shape shape;
  bool bias, states;
  Buffers buffers;
  std::vector<Weights> weights;
  std::vector<int64_t> reverse, order, length_at, active, length_of, begin;
  std::vector<uint8_t> resets;
  Rows rows;
  Buffer *x, *h0, *c0, *dy, *dhn, *dcn, *dcells;

  explicit Problem(Dtype dtype) {
    const Cell cell = Cell(draw(0, 4));
    const int64_t H = draw(1, 70);
    const bool projected = cell == Cell::kLstm && H > 1 && draw(0, 3) == 0;
    shape = Shape{draw(1, 12), draw(1, 20), draw(1, 70), H,        projected ? draw(1, H - 1) : H,
                  draw(1, 3),  cell,        dtype,       projected};
    bias = draw(0, 1);
    states = draw(0, 1);
    const Shape& s = shape;
    const int64_t gates = gate_count(cell) * s.H;
    for (int64_t n = 0; n < s.N; ++n) {
      reverse.push_back(draw(0, 1));
      weights.push_back(Weights{random(gates * s.I), random(gates * s.P),
                                bias ? random(gates) : nullptr, bias ? random(gates) : nullptr,
                                projected ? random(s.P * s.H) : nullptr});
    }
    order_rows();
    x = add(buffers, s.dtype, rows.count * s.I, true);
    h0 = states ? add(buffers, s.dtype, s.N * s.B * s.P, true) : nullptr;
    c0 = states ? add(buffers, s.dtype, s.N * s.B * s.H, true) : nullptr;
    dy = draw(0, 3) ? add(buffers, s.dtype, rows.count * s.N * s.P, true) : nullptr;
    dhn = draw(0, 3) ? add(buffers, s.dtype, s.N * s.B * s.P, true) : nullptr;
    dcn = draw(0, 3) ? add(buffers, s.dtype, s.N * s.B * s.H, true) : nullptr;
    dcells = draw(0, 1) ? add(buffers, wide(s.dtype), rows.count * s.N * s.H, true) : nullptr;
  }

  const void* random(int64_t count) { return add(buffers, shape.dtype, count, true)->data(); }

  void order_rows() {
    const Shape& s = shape;
    const bool ragged = draw(0, 1), compact = draw(0, 2) == 0;
    length_of.resize(size_t(s.B));
    for (int64_t& length : length_of) length = ragged ? draw(0, s.T) : s.T;
    if (compact) {
      length_of[0] = s.T;
      std::sort(length_of.begin(), length_of.end(), std::greater<>());
    }
    order.resize(length_of.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return std::pair(length_of[size_t(a)], b) > std::pair(length_of[size_t(b)], a);
    });
    for (const int64_t b : order) length_at.push_back(length_of[size_t(b)]);
    int64_t count = 0;
    for (int64_t t = 0; t < s.T; ++t) {
      active.push_back(std::count_if(length_of.begin(), length_of.end(),
                                     [&](int64_t length) { return length > t; }));
      begin.push_back(count);
      count += compact ? active.back() : s.B;
    }
    if (draw(0, 1)) {
      resets.resize(size_t(count));
      for (uint8_t& mark : resets) mark = draw(0, 3) == 0;
    }
    rows = Rows{order.data(),
                length_at.data(),
                active.data(),
                length_of.data(),
                begin.data(),
                count,
                resets.empty() ? nullptr : resets.data()};
  }
};

inline const void* pointer(Buffer* buffer) { return buffer ? buffer->data() : nullptr; }

}  // namespace fused_rnn::cpu
