// SPDX-License-Identifier: MIT
// Weights as the M operand of mma, held in registers or, where those are full, in shared memory,
// and eight batch rows as its N operand.
//
// A warp owns 16 units. Row r of a weight tile is unit 2r, row r + 8 unit 2r + 1, so that a thread
// gets two neighbouring units of two neighbouring rows: one word of every 16-bit tensor.
#pragma once

#include <cstring>

#include "../shapes.h"
#include "numbers.cuh"
#include "primitives.cuh"
#include "walk.cuh"

namespace fused_rnn {
namespace cuda {

// What a thread owns: units `unit` and the next, rows `row` and the next of the block's eight.
struct Place {
  int lane, unit, row;

  DEVICE_FN explicit Place(int first_unit)
      : lane(threadIdx.x % 32), unit(first_unit + lane / 4 * 2), row(lane % 4 * 2) {}
};

// Two neighbouring units of a row, of which `left` are left; zeros past its end.
template <class IO>
DEVICE_FN uint32_t load_pair(const IO* units, int left, bool paired) {
  if (left <= 0) return 0;
  if (paired) return *reinterpret_cast<const uint32_t*>(units);
  const uint32_t low = units[0].bits;
  return left > 1 ? low | uint32_t(units[1].bits) << 16 : low;
}

template <class IO>
DEVICE_FN void store_pair(IO* units, int left, bool paired, uint32_t pair) {
  if (left <= 0) return;
  if (paired) {
    *reinterpret_cast<uint32_t*>(units) = pair;
    return;
  }
  units[0] = IO{uint16_t(pair)};
  if (left > 1) units[1] = IO{uint16_t(pair >> 16)};
}

// What a thread owns of (N, B, H) states or their gradients, by unit and row, rows b and the next;
// zeros where there are none.
template <class IO>
DEVICE_FN void load_own(float (&to)[2][2], const void* states, const Walk& walk, int b, int unit,
                        int H, bool paired) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float pair[2] = {};
    if (states && b + i < walk.B) {
      const IO* row = static_cast<const IO*>(states) + walk.state(b + i);
      from_pair<IO>(load_pair(row + unit, H - unit, paired), pair);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) to[j][i] = pair[j];
  }
}

// Fragments of `count` gates, rows of W_hh, or of its transpose: units `unit` and the next, and all
// columns from `first` on; zeros past the matrix. `w_hh` is that of one recurrence.
template <class IO, int count, int kSteps>
DEVICE_FN void load_rows(uint32_t (&w)[count][kSteps][4], const IO* w_hh, int unit, int first,
                         int H, bool paired, int lane) {
#pragma unroll
  for (int g = 0; g < count; ++g) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int u = unit + i % 2, k = first + s * 16 + i / 2 * 8 + lane % 4 * 2;
        w[g][s][i] = u < H ? load_pair(w_hh + int64_t(g * H + u) * H + k, H - k, paired) : 0;
      }
    }
  }
}
// A fragment of the transpose: columns `unit` and the next of rows k, k + 1, k + 8 and k + 9. By
// pairs of columns, so that what is on its way takes no more registers than what it becomes: a
// number each would take twice as many, and spill.
template <class IO>
DEVICE_FN void load_transposed(uint32_t (&w)[4], const IO* matrix, int unit, int k, int H,
                               bool paired) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const int at = k + 4 * i;
    const IO* units = matrix + int64_t(at) * H + unit;
    const uint32_t upper = at < H ? load_pair(units, H - unit, paired) : 0;
    const uint32_t lower = at + 1 < H ? load_pair(units + H, H - unit, paired) : 0;
    w[i] = (upper & 0xFFFF) | lower << 16;
    w[i + 1] = upper >> 16 | (lower & 0xFFFF0000);
  }
}
template <class IO, int count, int kSteps>
DEVICE_FN void load_columns(uint32_t (&w)[count][kSteps][4], const IO* w_hh, int unit, int first,
                            int H, bool paired, int lane) {
#pragma unroll
  for (int g = 0; g < count; ++g) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      load_transposed(w[g][s], w_hh + int64_t(g) * H * H, unit, first + s * 16 + lane % 4 * 2, H,
                      paired);
    }
  }
}

// Where a lane's four numbers of an accumulator, and the number of a unit and row, lie among its
// kSumWords: the rows of a unit pair 20 words apart, so that neither lanes nor the threads of 16
// units and two rows meet in a bank.
DEVICE_FN int fragment_word(int lane) { return lane / 4 * 20 + lane % 4 * 4; }
DEVICE_FN int sum_word(int unit, int row) {
  return unit / 2 * 20 + row / 2 * 4 + unit % 2 * 2 + row % 2;
}
DEVICE_FN void put_sums(float* sums, const float (&acc)[4], int lane) {
  Vector value;
  memcpy(&value, acc, sizeof(value));
  *reinterpret_cast<Vector*>(sums + fragment_word(lane)) = value;
}
DEVICE_FN void add_sums(float (&acc)[4], const float* sums, int lane) {
  const Vector value = *reinterpret_cast<const Vector*>(sums + fragment_word(lane));
#pragma unroll
  for (int e = 0; e < 4; ++e) acc[e] += float_of_bits(value.words[e]);
}

// Where in a tile, eight rows of K at distance `stride`, a lane's part of the first matrices is.
DEVICE_FN int matrix_place(int stride, int lane) { return lane % 8 * stride + lane / 8 * 8; }

// acc[g] += w[g] tile for `count` gates; own: this lane's place in the tile.
template <class IO, int count, int kSteps>
DEVICE_FN void multiply(float (&acc)[count][4], const uint32_t (&w)[count][kSteps][4],
                        const IO* own) {
  static_assert(kSteps % 2 == 0);
#pragma unroll
  for (int s = 0; s < kSteps; s += 2) {
    uint32_t b[4];
    ldmatrix_x4(b, own + s * 16);
#pragma unroll
    for (int g = 0; g < count; ++g) mma<IO>(acc[g], w[g][s], b[0], b[1]);
#pragma unroll
    for (int g = 0; g < count; ++g) mma<IO>(acc[g], w[g][s + 1], b[2], b[3]);
  }
}

// Fragments in shared memory, `count` of each k-step for each warp; a lane reads what it wrote.
template <int count>
struct Fragments {
  Vector* const memory;
  const int steps;  // k-steps that are kept here

  DEVICE_FN Vector& at(int warp, int step, int which, int lane) const {
    return memory[((warp * steps + step) * count + which) * 32 + lane];
  }

  // What `load` makes of each k-step: load_rows or load_columns.
  template <class Load>
  DEVICE_FN void fill(int warp, int lane, Load load) const {
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      uint32_t one[count][1][4];
      load(one, s);
#pragma unroll
      for (int g = 0; g < count; ++g) {
        at(warp, s, g, lane) = {one[g][0][0], one[g][0][1], one[g][0][2], one[g][0][3]};
      }
    }
  }
};

// The same with the fragments of `count` gates from `first` on, each read once for `used` of up to
// `tiles` tiles, that are `apart` from one another.
template <class IO, int tiles, int count, int all>
DEVICE_FN void multiply(float (&acc)[tiles][count][4], const Fragments<all>& w, int warp, int first,
                        const IO* own, int apart, int used, int lane) {
#pragma unroll 1
  for (int s = 0; s < w.steps; s += 2) {
    uint32_t b[tiles][4] = {};
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
      if (i < used) ldmatrix_x4(b[i], own + i * apart + s * 16);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int g = 0; g < count; ++g) {
        const Vector a = w.at(warp, s + half, first + g, lane);
#pragma unroll
        for (int i = 0; i < tiles; ++i) {
          if (i < used) mma<IO>(acc[i][g], a.words, b[i][2 * half], b[i][2 * half + 1]);
        }
      }
    }
  }
}

// Words that each thread copies for itself, some steps ahead: no other thread reads them, so no
// barrier is needed. A stage holds `words` of each thread, whose stages lie together: an odd number
// of words, so that threads do not meet in a bank.
template <int words>
struct Ring {
  static constexpr int kStages = kRingStages;
  uint32_t* const own;

  DEVICE_FN explicit Ring(void* memory)
      : own(static_cast<uint32_t*>(memory) + int(threadIdx.x) * ring_words(words)) {}

  DEVICE_FN uint32_t* stage(int k) const { return own + low_bits(k, kStages - 1) * words; }
  DEVICE_FN void clear() const {
#pragma unroll
    for (int word = 0; word < kStages * words; ++word) own[word] = 0;
  }
};

// Fetches two neighbouring units; behind the back of the thread where they are a word.
template <bool paired, class IO>
DEVICE_FN void fetch_pair(uint32_t* to, const IO* units, int left) {
  if (left <= 0) return;
  if constexpr (paired) {
    cp_async4(to, units);
  } else {
    *to = load_pair(units, left, false);
  }
}

}  // namespace cuda
}  // namespace fused_rnn
