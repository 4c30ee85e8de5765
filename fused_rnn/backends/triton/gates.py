# SPDX-License-Identifier: MIT
"""One product for all gates of a step: their matrices are one, and so are their sums.

A unit's gates are neighbouring rows, three of them with a fourth of zeros, as sizes are powers of
two. The compiler leaves the sums where its product had them, which is where nothing else is: loads
and stores would go through shared memory, one by one, and every warp would compute the same. But it
splits a tile only where both halves are in one thread, and neighbouring rows are not: so the sums
go through shared memory, once, and stay where loads and stores have the rest.
"""

import triton
import triton.language as tl


@triton.jit
def gate_rows(first_unit, COUNT: tl.constexpr, BLOCK_U: tl.constexpr):
    """Unit and gate of each row, (U*P,); P gates a unit, as `configurations.padded` has it."""
    P: tl.constexpr = 4 if COUNT == 3 else COUNT
    o = tl.arange(0, BLOCK_U * P)
    return first_unit + o // P, o % P


@triton.jit
def spread(tile, BLOCK_U: tl.constexpr, BLOCK_B: tl.constexpr):
    """The tile (U, B), parted and put together: no longer where a product left it."""
    pairs = tl.permute(tl.reshape(tile, (BLOCK_U // 2, 2, BLOCK_B)), (0, 2, 1))
    even, odd = tl.split(pairs)
    return tl.reshape(tl.permute(tl.join(even, odd), (0, 2, 1)), (BLOCK_U, BLOCK_B))


@triton.jit
def added(parts, SPLIT: tl.constexpr, ROWS: tl.constexpr, BLOCK_B: tl.constexpr):
    """The sum of the warps' parts (SPLIT, ROWS, B), in one fixed order; spread as well."""
    s = tl.permute(parts, (1, 2, 0))
    if SPLIT == 8:
        even, odd = tl.split(tl.reshape(s, (ROWS, BLOCK_B, 4, 2)))
        s = even + odd
    if SPLIT >= 4:
        even, odd = tl.split(tl.reshape(s, (ROWS, BLOCK_B, 2, 2)))
        s = even + odd
    even, odd = tl.split(s)
    return even + odd


@triton.jit
def apart(sums, COUNT: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_B: tl.constexpr):
    """The gates of (U*P, B), a tile (U, B) each."""
    if COUNT == 1:
        return (sums,)
    elif COUNT == 2:
        return tl.split(tl.permute(tl.reshape(sums, (BLOCK_U, 2, BLOCK_B)), (0, 2, 1)))
    else:
        tiles = tl.permute(tl.reshape(sums, (BLOCK_U, 4, BLOCK_B)), (0, 2, 1))
        even, odd = tl.split(tl.reshape(tiles, (BLOCK_U, BLOCK_B, 2, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        if COUNT == 3:
            return first, second, third
        else:
            return first, second, third, fourth
