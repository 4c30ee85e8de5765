// SPDX-License-Identifier: MIT
// Products with weights of 8 or 16 bits that lie as they are stored.
//
// Panels are the same for all instruction sets, of 16 units or a multiple: (K / depth, gates,
// units, depth), where int8 weights are 4 deep, bfloat16 ones 2 and float16 ones 1, padded with
// zeros. Those of 16 bits are multiplied as float32. Of int8 weights and rows the sums are those of
// integers; rows are made integers as they come, each with a scale of its own. The same bits come
// of all instruction sets.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../problem.h"
#include "pack.h"
#include "product.h"
#include "tile.h"
#include "vec.h"
#ifdef FUSED_RNN_INTEGER_TILES
#include "tiled/integers.h"
#endif

namespace fused_rnn::cpu::FUSED_RNN_ISA {

template <>
struct SumType<Int8> {
  typedef float type;
};
template <class W>
struct SumType<Wide<W>> {
  typedef float type;
};

// The largest magnitude, as its bits; of infinities and NaN what is not below kInfinite.
constexpr int32_t kInfinite = 0x7F800000;

VEC_FN int32_t largest_bits(const float* row, int64_t n) {
  constexpr int L = kLanes<float>;
  IntV most{};
  for (int64_t i = 0; i < n; i += L) {
    const IntV bits = (IntV)load_n<float>(row + i, n - i) & 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  int32_t largest = 0;
  for (int l = 0; l < L; ++l) largest = most[l] > largest ? most[l] : largest;
  return largest;
}

// Integers of at most 127 in magnitude, offset as dot products of four take them, and a scale. The
// scale of a row that is not finite is NaN, so that all sums of it are; numbers so small that they
// have no scale become zeros.
template <class IO>
VEC_FN void put_row(Int8* operand, int64_t ld, int64_t row, const IO* from, int64_t n) {
  constexpr int L = kLanes<float>;
  constexpr float kNearest = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded
  Int8* to = operand + row * ld;
  const int32_t bits = largest_bits(from, n);
  const float largest = __builtin_bit_cast(float, bits);
  const bool scaled = bits < kInfinite && largest > 0x1p-100f;
  const FloatV inverse = splat(scaled ? 127.0f / largest : 0.0f);
  const float scale = bits >= kInfinite ? __builtin_nanf("") : scaled ? largest / 127.0f : 0.0f;
  const int64_t width = ld - int64_t(sizeof scale);
  for (int64_t i = 0; i < width; i += L) {
    const FloatV x = i < n ? load_n<float>(from + i, n - i) : FloatV{};
    const FloatV rounded = x * inverse + splat(kNearest);
    const IntV number = (IntV)rounded - __builtin_bit_cast(int32_t, kNearest) + kDotOffset;
    const ByteV bytes = narrow(bits < kInfinite ? number : IntV{});
    __builtin_memcpy(to + i, &bytes, size_t(min(L, width - i)));
  }
  __builtin_memcpy(to + width, &scale, sizeof scale);
}

// A block of rows times some vectors of a panel.
template <class Op>
struct StoredTile {
  const typename Kept<Op>::Factor* const* a;
  const Op* b;
  int64_t steps, b_step;  // along k, and elements of b from one to the next
  const float* scales;    // of columns, and their sums: int8
  const int32_t* sums;
  const float* init;  // of columns; null: zero
  float* c;           // row r at c + r * c_stride
  int64_t c_stride;
};

// Vector v of row r from the sum of its integers.
VEC_FN void finish_sum(const StoredTile<Int8>& tile, const Int8* row, int64_t r, int v, IntV sum) {
  constexpr int L = kLanes<float>;
  const float scale = read<float>(row + 4 * tile.steps);
  sum -= kDotOffset * read<IntV>(tile.sums + v * L);
  FloatV value = __builtin_convertvector(sum, FloatV) * (load(tile.scales + v * L) * scale);
  if (tile.init) value += load(tile.init + v * L);
  store(tile.c + r * tile.c_stride + v * L, value);
}

template <int R, int V>
void multiply_tile(const StoredTile<Int8>& tile) {
  constexpr int L = kLanes<float>;
  const Int8* a[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) a[r] = tile.a[r];
  IntV acc[R][V] = {};
  for (int64_t k = 0; k < tile.steps; ++k) {
    const Int8* b = tile.b + k * tile.b_step;
    DotFactor x[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      x[r] = dot_factor(read<int32_t>(a[r] + 4 * k));
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const IntV w = read<IntV>(b + 4 * v * L);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) acc[r][v] = add_fours(acc[r][v], x[r], w);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) finish_sum(tile, a[r], r, v, acc[r][v]);
  }
}

// Number d of each of a vector of columns: those of 16 bits in pairs take a shift or a mask, alone
// they have to be spread out first.
template <int d>
VEC_FN FloatV numbers(const Wide<Bf16>* p) {
  const IntV pairs = read<IntV>(p);
  return (FloatV)(d == 0 ? pairs << 16 : pairs & int32_t(0xFFFF0000));
}
template <int d>
VEC_FN FloatV numbers(const Wide<Half>* p) {
  return load(reinterpret_cast<const Half*>(p));
}

template <int d, int R, int V, class Op>
VEC_FN void add_numbers(FloatV (&sums)[R][V], const float* const (&a)[R], const Op* b, int64_t k) {
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const FloatV w = numbers<d>(b + v * kLanes<float> * kDepth<Op>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) sums[r][v] = fma(splat(a[r][k + d]), w, sums[r][v]);
  }
}

// Adds chains of products that begin at step k, one after another, `length` steps long, all at
// once.
template <int chains, int R, int V, class Op>
VEC_FN void add_chains(FloatV (&acc)[R][V], const float* const (&a)[R], const Op* b, int64_t b_step,
                       int64_t k, int64_t length) {
  FloatV sums[chains][R][V] = {};
  for (int64_t i = k; i < k + length; ++i) {
#pragma GCC unroll 2
    for (int s = 0; s < chains; ++s) {
      const int64_t at = i + s * length;
      add_numbers<0>(sums[s], a, b + at * b_step, at * kDepth<Op>);
      if constexpr (kDepth<Op> == 2) {
        add_numbers<1>(sums[s], a, b + at * b_step, at * kDepth<Op>);
      }
    }
  }
#pragma GCC unroll 2
  for (int s = 0; s < chains; ++s) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] += sums[s][r][v];
    }
  }
}

// The sums are those of tile.h: in order, of chains of kChain each.
template <int R, int V, class W>
void multiply_tile(const StoredTile<Wide<W>>& tile) {
  constexpr int L = kLanes<float>;
  // Of a single row, so few sums that two chains of each hide the latency.
  constexpr bool kRoom = kDepth<Wide<W>> == 1 ? 2 * R * V <= kAccumulators - 4 : R == 1 && V <= 4;
  constexpr int kAtOnce = kRoom ? 2 : 1;
  const float* a[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) a[r] = tile.a[r];
  FloatV acc[R][V] = {};
  constexpr int64_t kSteps = kChain / kDepth<Wide<W>>;
  int64_t k = 0;
  for (; k + kAtOnce * kSteps <= tile.steps; k += kAtOnce * kSteps) {
    add_chains<kAtOnce>(acc, a, tile.b, tile.b_step, k, kSteps);
  }
  for (; k < tile.steps; k += kSteps) {
    add_chains<1>(acc, a, tile.b, tile.b_step, k, min(kSteps, tile.steps - k));
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if (tile.init) acc[r][v] += load(tile.init + v * L);
      store(tile.c + r * tile.c_stride + v * L, acc[r][v]);
    }
  }
}

// From so many rows of integers on, tiles take less time than vectors: 16 columns and 64 elements
// along k are 16 cycles on tiles, and of vectors 8 for each row.
#ifdef FUSED_RNN_INTEGER_TILES
constexpr int64_t kLeastTileRows = 3;
#else
constexpr int64_t kLeastTileRows = kMaxRows + 1;
#endif

// Rows of V vectors whose sums registers hold, beside each row's factor, which takes two of AVX2's
// for integers, and what is widened, of pairs all of them.
template <class Op>
constexpr int stored_rows(int vecs) {
  constexpr bool kFew = kAccumulators < 24;
  constexpr int kMost = std::is_same<Op, Int8>::value ? int(kLeastTileRows) - 1 : kMaxRows;
  const int rows = std::is_same<Op, Int8>::value ? (kFew ? 13 / (vecs + 2) : 29 / (vecs + 1))
                   : std::is_same<Op, Wide<Bf16>>::value
                       ? ((kFew ? 14 : 30) - vecs) / (vecs + 1)
                       : (kAccumulators - (kFew && vecs == 4 ? 0 : 4)) / vecs;
  return rows < kMost ? rows : kMost;
}

template <class Op, int V, int R = stored_rows<Op>(V)>
VEC_FN void run_stored_tile(int rows, const StoredTile<Op>& tile) {
  if constexpr (R > 0) {
    if (rows == R) return multiply_tile<R, V>(tile);
    run_stored_tile<Op, V, R - 1>(rows, tile);
  }
}

#ifdef FUSED_RNN_INTEGER_TILES
// Rows of integers, which put_row leaves one behind another, times V vectors of a panel.
template <int V>
VEC_FN void multiply_on_tiles(int64_t count, const StoredTile<Int8>& tile) {
  constexpr int L = kLanes<float>;
  alignas(64) int32_t sums[V * kTileRows * L];
  multiply_integers<V>(int(count), tile.a[0], tile.a[1] - tile.a[0], tile.b, tile.b_step,
                       tile.steps, sums);
  for (int64_t r = 0; r < count; ++r) {
    for (int v = 0; v < V; ++v) {
      finish_sum(tile, tile.a[r], r, v, read<IntV>(sums + (v * count + r) * L));
    }
  }
}
#endif

// Rows times `V` vectors of a panel, as many rows at once as registers hold.
template <class Op, int V>
VEC_FN void multiply_vectors(int64_t count, StoredTile<Op> tile) {
#ifdef FUSED_RNN_INTEGER_TILES
  if (count >= kLeastTileRows) return multiply_on_tiles<V>(count, tile);
#endif
  constexpr int kRows = stored_rows<Op>(V);
  for (int64_t r = 0; r < count; r += kRows) {
    run_stored_tile<Op, V>(int(min(kRows, count - r)), tile);
    tile.a += kRows;
    tile.c += kRows * tile.c_stride;
  }
}

// What multiply_panel does, with a panel that is stored.
template <class Op>
VEC_FN void multiply_stored(const PanelMap<float>& map, int64_t panel, const StoredMatrix& matrix,
                            int64_t K, const typename Kept<Op>::Factor* const* a, int64_t count,
                            const float* init, float* c, int64_t c_stride) {
  constexpr int L = kLanes<float>, kWidest = 8;
  const int64_t columns = map.panel_columns(), first = panel * columns;
  StoredTile<Op> tile{};
  tile.a = a;
  tile.steps = round_up(K, kDepth<Op>) / kDepth<Op>;
  tile.b_step = columns * kDepth<Op>;
  const Op* b = static_cast<const Op*>(matrix.panels) + first * tile.steps * kDepth<Op>;
  tile.c_stride = c_stride;
  const int used = map.used_vecs(panel);
  for (int v = 0; v < used;) {
    const int left = used - v, at = v * L;
    tile.b = b + at * kDepth<Op>;
    tile.scales = matrix.scales + first + at;
    tile.sums = matrix.sums + first + at;
    tile.init = init ? init + at : nullptr;
    tile.c = c + at;
    if (count == 1 && left >= kWidest && kWidest <= kAccumulators) {
      multiply_tile<1, kWidest>(tile);
      v += kWidest;
    } else if (left >= 4) {
      multiply_vectors<Op, 4>(count, tile);
      v += 4;
    } else if (left == 3) {
      multiply_vectors<Op, 3>(count, tile);
      v += 3;
    } else if (left == 2) {
      multiply_vectors<Op, 2>(count, tile);
      v += 2;
    } else {
      multiply_vectors<Op, 1>(count, tile);
      v += 1;
    }
  }
}

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
