// SPDX-License-Identifier: MIT
// One step of a search, behind the model's: fused_rnn/seq2seq/advance.py and rowwise.py say the
// same in PyTorch's operations, and what the letters mean.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "../check.h"
#include "memory.h"
#include "ops.h"

namespace fused_rnn::cpu {
namespace {

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* written(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// A continuation of one of a sentence's hypotheses by one token.
struct Candidate {
  float total = -INFINITY;
  float gain = -INFINITY;
  int64_t token = 0;
  int64_t parent = 0;
};

// The likeliest continuations of each row, in falling order.
struct Continuations {
  int64_t each;           // of a row
  const float* gains;     // (rows, each)
  const int64_t* tokens;  // (rows, each)
  const float* peaks;     // (rows,), the largest logit
};

// Whether a row has probability somewhere.
bool usable(float peak) { return std::isfinite(peak); }

// Whether its logits are no numbers: NaN is not below infinity, either.
bool is_broken(float peak) { return !(peak < INFINITY); }

// The candidates of one sentence, the likeliest first; of equal ones that of the first row.
class Ranking {
 public:
  Ranking(int64_t rows, int64_t size) : candidates_(size_t(size)), next_(size_t(rows)) {}

  const std::vector<Candidate>& candidates() const { return candidates_; }

  // Of the rows from `first` on, whose log-probabilities so far are `live`.
  void rank(const Continuations& all, int64_t first, const float* live) {
    const int64_t rows = int64_t(next_.size());
    std::fill(next_.begin(), next_.end(), 0);
    for (Candidate& found : candidates_) {
      found = Candidate{};
      int64_t best = -1;
      for (int64_t w = 0; w < rows; ++w) {
        if (next_[size_t(w)] == all.each) continue;
        const Candidate one = candidate(all, first, w, live[w]);
        if (best < 0 || one.total > found.total) {
          found = one;
          best = w;
        }
      }
      if (best >= 0) ++next_[size_t(best)];
    }
  }

 private:
  // The next one of row w of the sentence: within a row, totals fall as gains do.
  Candidate candidate(const Continuations& all, int64_t first, int64_t w, float live) const {
    const int64_t at = (first + w) * all.each + next_[size_t(w)];
    const float total = usable(all.peaks[first + w]) ? live + all.gains[at] : -INFINITY;
    return {total, all.gains[at], all.tokens[at], w};
  }

  std::vector<Candidate> candidates_;
  std::vector<int64_t> next_;  // of each row's continuations, the first that is not ranked yet
};

// The notes of one step, (B, K) each.
struct Notes {
  int64_t *tokens, *parents;
  float *gains, *ended;
  int64_t* end_parents;
  float* end_gains;
};

// Notes which of the K likeliest candidates end; returns how many do.
int64_t note_ends(const std::vector<Candidate>& candidates, int64_t K, int64_t eos,
                  const Notes& notes, int64_t at) {
  int64_t count = 0;
  for (int64_t i = 0; i < K; ++i) {
    const Candidate& one = candidates[size_t(i)];
    notes.ended[at + i] = one.token == eos ? one.total : -INFINITY;
    notes.end_parents[at + i] = one.parent;
    notes.end_gains[at + i] = one.gain;
    count += notes.ended[at + i] > -INFINITY;
  }
  return count;
}

// Notes the K likeliest candidates that live on; what has no probability comes last.
void note_living(const std::vector<Candidate>& candidates, int64_t K, std::optional<int64_t> eos,
                 const Notes& notes, int64_t at, float* live) {
  int64_t kept = 0;
  for (const bool likely : {true, false}) {
    for (size_t i = 0; i < candidates.size() && kept < K; ++i) {
      const Candidate& one = candidates[i];
      const float total = one.token == eos ? -INFINITY : one.total;
      if ((total > -INFINITY) != likely) continue;
      live[kept] = total;
      notes.tokens[at + kept] = one.token;
      notes.parents[at + kept] = one.parent;
      notes.gains[at + kept] = one.gain;
      ++kept;
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> advance(Tensor values, Tensor places, Tensor peaks, Tensor live,
                                           Tensor counts, Tensor broken, Tensor tokens,
                                           Tensor parents, Tensor gains, Tensor ended,
                                           Tensor end_parents, Tensor end_gains, int64_t step,
                                           std::optional<int64_t> eos, bool retire) {
  FUSED_RNN_CHECK(values.dim() == 2 && live.dim() == 2 && tokens.dim() == 3,
                  "values, live, tokens: expected 2, 2 and 3 dimensions, got ", values.dim(), ", ",
                  live.dim(), " and ", tokens.dim());
  const int64_t B = live.size(0), W = live.size(1), each = values.size(1);
  const int64_t T = tokens.size(0), K = tokens.size(2);
  check_tensor("values", values, ScalarType::Float, {B * W, each});
  check_tensor("places", places, ScalarType::Long, {B * W, each});
  check_tensor("peaks", peaks, ScalarType::Float, {B * W});
  check_tensor("live", live, ScalarType::Float, {B, W});
  check_tensor("counts", counts, ScalarType::Long, {B});
  check_tensor("broken", broken, ScalarType::Bool, {});
  const std::array<int64_t, 3> noted{T, B, K};
  check_tensor("tokens", tokens, ScalarType::Long, noted);
  check_tensor("parents", parents, ScalarType::Long, noted);
  check_tensor("gains", gains, ScalarType::Float, noted);
  check_tensor("ended", ended, ScalarType::Float, noted);
  check_tensor("end_parents", end_parents, ScalarType::Long, noted);
  check_tensor("end_gains", end_gains, ScalarType::Float, noted);
  FUSED_RNN_CHECK(0 <= step && step < T, "step: expected 0 to ", T - 1, ", got ", step);

  const Continuations all{each, read<float>(values), read<int64_t>(places), read<float>(peaks)};
  const int64_t at = step * B * K;
  const Notes notes{written<int64_t>(tokens) + at,      written<int64_t>(parents) + at,
                    written<float>(gains) + at,         written<float>(ended) + at,
                    written<int64_t>(end_parents) + at, written<float>(end_gains) + at};
  const float* before = read<float>(live);
  Tensor after = make({B, K}, ScalarType::Float);
  Tensor rows = make({B * K}, ScalarType::Long), last = make({B * K}, ScalarType::Long);
  Ranking ranking(W, 2 * K);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t w = 0; w < W; ++w) {
      const int64_t r = b * W + w;
      if (before[r] > -INFINITY && is_broken(all.peaks[r])) *written<bool>(broken) = true;
    }
    ranking.rank(all, b * W, before + b * W);
    float* living = written<float>(after) + b * K;
    note_living(ranking.candidates(), K, eos, notes, b * K, living);
    if (eos) {
      int64_t& count = written<int64_t>(counts)[b];
      count += note_ends(ranking.candidates(), K, *eos, notes, b * K);
      if (retire && count >= K) std::fill_n(living, K, -INFINITY);
    }
    for (int64_t i = b * K; i < (b + 1) * K; ++i) {
      written<int64_t>(rows)[i] = b * W + notes.parents[i];
      written<int64_t>(last)[i] = notes.tokens[i];
    }
  }
  return {after, rows, last};
}

std::tuple<Tensor, Tensor, Tensor> outlive(Tensor values, Tensor places, Tensor peaks, Tensor alive,
                                           Tensor reached, Tensor lengths,
                                           std::optional<Tensor> limits, Tensor broken,
                                           std::optional<int64_t> eos) {
  const int64_t N = alive.numel();
  check_tensor("values", values, ScalarType::Float, {N, 1});
  check_tensor("places", places, ScalarType::Long, {N, 1});
  check_tensor("peaks", peaks, ScalarType::Float, {N});
  check_tensor("alive", alive, ScalarType::Bool, {N});
  check_tensor("reached", reached, ScalarType::Bool, {N});
  check_tensor("lengths", lengths, ScalarType::Long, {N});
  check_optional("limits", limits, ScalarType::Long, {N});
  check_tensor("broken", broken, ScalarType::Bool, {});
  Tensor alive_after = make({N}, ScalarType::Bool), reached_after = make({N}, ScalarType::Bool);
  Tensor lengths_after = make({N}, ScalarType::Long);
  for (int64_t r = 0; r < N; ++r) {
    const float peak = read<float>(peaks)[r];
    bool lives = read<bool>(alive)[r];
    if (lives && is_broken(peak)) *written<bool>(broken) = true;
    const bool possible = read<float>(values)[r] > -INFINITY && usable(peak);
    written<bool>(reached_after)[r] = read<bool>(reached)[r] && (possible || !lives);
    lives = lives && possible;
    const int64_t length = read<int64_t>(lengths)[r] + lives;
    written<int64_t>(lengths_after)[r] = length;
    if (read<int64_t>(places)[r] == eos) lives = false;
    if (limits && length >= read<int64_t>(*limits)[r]) lives = false;
    written<bool>(alive_after)[r] = lives;
  }
  return {alive_after, reached_after, lengths_after};
}

}  // namespace fused_rnn::cpu
