// SPDX-License-Identifier: MIT
// How threads share a layer, and the workspace they share it in.
#pragma once

namespace fused_rnn {
namespace FUSED_RNN_ISA {

// Hands out aligned pieces of one block; with a null base it only counts.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}

  template <class T>
  T* take(int64_t count) {
    char* at = base_ + used_;
    used_ += round_up(count * int64_t(sizeof(T)), 64);
    return reinterpret_cast<T*>(at);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Cycles that one step takes one thread: products of `panels` panels, of `vecs` vectors by K,
// with `rows` rows. A weight vector costs 2 cycles from the second cache level, of which weights
// have three quarters, and 6 from beyond.
VEC_FN double step_cycles(int64_t rows, int64_t panels, int64_t K, int vecs) {
  const int64_t limit = max_rows(vecs), tiles = (rows + limit - 1) / limit;
  const double tile_rows = double(rows) / double(max(tiles, 1));
  const double vectors = double(panels * K * vecs);
  const double first = vectors * FUSED_RNN_VECTOR_BYTES > 0.75 * near_cache_bytes() ? 6 : 2;
  const double near = tile_rows > 2 ? tile_rows : 2, far = tile_rows > first ? tile_rows : first;
  return vectors * (far + near * double(max(tiles, 1) - 1));
}

// The same on tiles: a product takes 16 cycles, a kilobyte of weights 20 from the second cache
// level, 100 from beyond.
template <int parts>
VEC_FN double tiled_step_cycles(int64_t rows, int64_t panels, int64_t K, int vecs) {
  constexpr int kProducts = parts == 3 ? 6 : parts == 2 ? 3 : 1;
  const double blocks = double((rows + 31) / 32), tiles = double((rows + 15) / 16);
  const double weights = double(panels * vecs * ((K + 31) / 32) * parts);
  const double first = weights * kTileBytes > 0.75 * near_cache_bytes() ? 100 : 20;
  const double products = tiles * 16 * kProducts / parts;
  const double loads = first + 20 * (blocks - 1);
  return weights * (products > loads ? products : loads);
}

// The split of `threads` threads that takes the fewest cycles a step; meeting costs some too.
template <class Op>
VEC_FN Split plan_split(int64_t N, int64_t B, int64_t panels, int64_t K, int vecs, int threads) {
  constexpr double kMeeting = 800;
  int recurrence_groups = int(min(N, threads));
  while (N % recurrence_groups != 0) --recurrence_groups;
  const int share = threads / recurrence_groups;
  Split best{recurrence_groups, 1, 1};
  double least = -1;
  for (int units = 1; units <= share && units <= panels; ++units) {
    const int rows = int(min(share / units, max(B, 1)));
    const int64_t group = (B + rows - 1) / rows, share_of_panels = (panels + units - 1) / units;
    double cycles = units > 1 ? kMeeting : 0;
    if constexpr (kTiled<Op>) {
      cycles += tiled_step_cycles<kParts<Op>>(group, share_of_panels, K, vecs);
    } else if constexpr (kStored<Op>) {
      const int64_t depth = kDepth<Op>, fours = (vecs + kMaxVecs - 1) / kMaxVecs;
      cycles += step_cycles(group, share_of_panels * fours, (K + depth - 1) / depth, kMaxVecs);
    } else {
      cycles += step_cycles(group, share_of_panels, K, vecs);
    }
    if (least < 0 || cycles < least) {
      least = cycles;
      best = Split{recurrence_groups, rows, units};
    }
  }
  return best;
}

// A range of items that is this thread's share.
struct Range {
  int64_t begin, end;

  Range(int64_t items, int rank, int size)
      : begin(items * rank / size), end(items * (rank + 1) / size) {}

  // f(item) for each, at odd steps from the end: the cache still holds what the last step read
  // last. In one and the same order, a share larger than the cache would find nothing there.
  template <class F>
  void at_step(int64_t step, F f) const {
    for (int64_t i = begin; i < end; ++i) f(step & 1 ? begin + end - 1 - i : i);
  }
};

// One row group's rows of one recurrence, and what happens to them at a step.
struct RowGroup {
  const Rows& rows;
  int64_t T, B;
  int group, groups;
  bool reverse;

  int64_t position(int64_t local) const { return group + local * groups; }
  int64_t count(int64_t positions) const { return (positions - group + groups - 1) / groups; }
  int64_t active(int64_t t) const { return count(rows.active[t]); }
  int64_t all() const { return count(B); }

  // Where x, y and tape have step t of batch row b, and whether they have steps past its length.
  int64_t row(int64_t t, int64_t b) const { return rows.begin[t] + b; }
  bool padded() const { return rows.count == T * B; }

  // The step of the recurrence that walks T steps in its own direction.
  int64_t time(int64_t k) const { return reverse ? T - 1 - k : k; }
  bool first(int64_t t, int64_t length) const { return reverse ? t + 1 == length : t == 0; }
  bool last(int64_t t, int64_t length) const { return reverse ? t == 0 : t + 1 == length; }

  // Whether the state that enters (leaves) step t of a row is cut off by a reset.
  bool cut_before(int64_t t, int64_t b, int64_t length) const {
    if (!rows.resets) return false;
    if (reverse) return t + 1 < length && rows.resets[row(t + 1, b)];
    return rows.resets[row(t, b)];
  }
  bool cut_after(int64_t t, int64_t b, int64_t length) const {
    if (!rows.resets || last(t, length)) return false;
    return cut_before(reverse ? t - 1 : t + 1, b, length);
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
