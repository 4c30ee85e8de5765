// SPDX-License-Identifier: MIT
// Runs the CPU kernels for weights of 8 and 16 bits without PyTorch, for the sanitizers: random
// layers on teams of one to four threads. Results must be the same bits for every team and for
// every instruction set.
#include <cstdlib>

#include "layers.h"

namespace fused_rnn::cpu {
namespace {

// Random weights of a layer in panels, those past its units and columns zero.
class StoredLayer {
 public:
  StoredLayer(const Problem& problem, Storage storage) : s_(problem.shape), storage_(storage) {
    const bool split = s_.cell == Cell::kGruResetBefore;
    const int64_t gates = split ? 2 : gate_count(s_.cell);
    const int64_t units = gate_count(s_.cell) == 1 ? 64 : split ? 32 : 16;
    for (int64_t n = 0; n < s_.N; ++n) {
      StoredWeights w{};
      w.input = matrix(gates, s_.H, units, s_.I);
      w.hidden = matrix(gates, s_.H, units, s_.P);
      if (split) {
        w.input_n = matrix(1, s_.H, units, s_.I);
        w.hidden_n = matrix(1, s_.H, units, s_.P);
      }
      if (s_.projected) w.output = matrix(1, s_.P, 64, s_.H);
      w.b_ih = static_cast<const float*>(problem.weights[size_t(n)].b_ih);
      w.b_hh = static_cast<const float*>(problem.weights[size_t(n)].b_hh);
      weights.push_back(w);
    }
  }

  std::vector<StoredWeights> weights;

 private:
  StoredMatrix matrix(int64_t gates, int64_t rows, int64_t units, int64_t K) {
    const int64_t panels = (rows + units - 1) / units, columns = panels * gates * units;
    if (storage_ != Storage::kInt8) {
      const bool pairs = storage_ == Storage::kBf16;
      const Dtype dtype = pairs ? Dtype::kBf16 : Dtype::kHalf;
      const int64_t deep = pairs ? (K + 1) / 2 * 2 : K;
      return {add(buffers_, dtype, columns * deep, true)->data(), nullptr, nullptr};
    }
    const int64_t fours = (K + 3) / 4;
    bytes_.emplace_back(size_t(columns * fours * 4));
    sums_.emplace_back(size_t(columns));
    std::vector<int8_t>& bytes = bytes_.back();
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t panel = column / (gates * units), inside = column % (gates * units);
        const int64_t at = ((panel * fours + k / 4) * gates * units + inside) * 4 + k % 4;
        bytes[size_t(at)] = int8_t(draw(-127, 127));
        sums_.back()[size_t(column)] += bytes[size_t(at)];
      }
    }
    Buffer* scales = add(buffers_, Dtype::kFloat, columns, true);
    return {bytes.data(), static_cast<const float*>(scales->data()), sums_.back().data()};
  }

  const Shape& s_;
  Storage storage_;
  Buffers buffers_;
  std::vector<std::vector<int8_t>> bytes_;
  std::vector<std::vector<int32_t>> sums_;
};

// y and the states on one team.
Buffers run(const StoredKernels& kernels, Problem& p, const StoredLayer& layer, Storage storage,
            int threads) {
  const Shape& s = p.shape;
  Buffers out;
  Forward forward{};
  forward.shape = s;
  forward.rows = p.rows;
  forward.reverse = p.reverse.data();
  forward.x = p.x->data();
  forward.h0 = pointer(p.h0);
  forward.c0 = pointer(p.c0);
  forward.y = add(out, s.dtype, p.rows.count * s.N * s.P, false)->data();
  forward.hn = add(out, s.dtype, s.N * s.B * s.P, false)->data();
  forward.cn = add(out, s.dtype, s.cell == Cell::kLstm ? s.N * s.B * s.H : 0, false)->data();
  forward.storage = storage;
  forward.stored = layer.weights.data();
  std::vector<char> memory(kernels.workspace(forward, threads), char(0xFF));
  on_team(threads,
          [&](Team& team, int rank) { kernels.forward(forward, memory.data(), team, rank); });
  return out;
}

bool same(const Buffers& a, const Buffers& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i]->bytes != b[i]->bytes) return false;
    for (int64_t k = 0; k < a[i]->count; ++k) {
      if (!std::isfinite(a[i]->get(k))) return false;
    }
  }
  return true;
}

bool check(const StoredKernels& kernels) {
  Problem problem(Dtype::kFloat);
  const Storage drawn = Storage(draw(0, 2)),
                storage = kernels.serves(drawn) ? drawn : Storage::kInt8;
  const StoredLayer layer(problem, storage);
  const Buffers portable = run(kStoredPortable, problem, layer, storage, 1);
  for (int threads = 1; threads <= 4; ++threads) {
    if (!same(portable, run(kernels, problem, layer, storage, threads))) return false;
  }
  return true;
}

}  // namespace
}  // namespace fused_rnn::cpu

int main(int argc, char** argv) {
  using namespace fused_rnn::cpu;
  return for_problems(stored_sets(), argc > 1 ? std::atoi(argv[1]) : 100, check);
}
