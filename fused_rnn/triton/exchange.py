# SPDX-License-Identifier: MIT
"""What the programs of one recurrence share: products with their slices, and the wait for others.

A slice is BLOCK_U units. Its products are three-dimensional, (SPLIT, U, K) by (SPLIT, K, B): the
warps sum over parts of K, and the parts are added at the end.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import configurations
from .configurations import Grid


@triton.jit
def weight_tile(
    p_w,  # (G, H, K), or (G, K, H) to be transposed
    o_u,
    gate,
    start,
    H,
    K,
    TRANSPOSED: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(SPLIT, U, K) of a gate's matrix or its transpose, from column `start`."""
    o_k = tl.arange(0, SPLIT)[:, None, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, None, :]
    o_k, o_u = o_k + start, o_u[None, :, None]
    m = (o_u < H) & (o_k < K)
    if TRANSPOSED:
        o = (o_k + tl.cast(gate * K, tl.int64)) * H + o_u
    else:
        o = (o_u + tl.cast(gate * H, tl.int64)) * K + o_k
    return tl.load(p_w + o, mask=m, other=0.0)


@triton.jit
def operand_tile(
    p_rows,  # (B,) of pointers to (K,)
    m_rows,
    p_first,  # (B,) of pointers to (K,) too, for the rows of m_first, if there are any
    m_first,
    any_first,
    start,
    K,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(SPLIT, K, B) of what all programs wrote; past the cache of this processor.

    Two loads, as one through pointers that are chosen from two tensors is beyond Triton for AMD.
    """
    o_k = tl.arange(0, SPLIT)[:, None, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :, None]
    o_k += start
    m_k = o_k < K
    tile = tl.load(
        p_rows[None, None, :] + o_k,
        mask=m_k & m_rows[None, None, :],
        other=0.0,
        cache_modifier=".cg",
    )
    if p_first is not None:
        if any_first:
            m = m_k & m_first[None, None, :]
            tile = tl.where(m, tl.load(p_first[None, None, :] + o_k, mask=m, other=0.0), tile)
    return tile


@triton.jit
def resident_tiles(
    p_w,  # (G, H, H)
    o_u,
    H,
    G: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """A tile for each gate that holds all of K; none where they are read at every step."""
    w = ()
    if RESIDENT:
        for g in tl.static_range(G):
            w = w + (weight_tile(p_w, o_u, g, 0, H, H, TRANSPOSED, SPLIT, BLOCK_K),)
    return w


@triton.jit
def gate_products(
    w,
    p_w,  # (G, H, K)
    p_rows,  # (B,) of pointers to (K,)
    m_rows,
    p_first,  # the same of the rows of m_first, where any_first says that there may be some
    m_first,
    any_first,
    o_u,
    b,
    H,
    K,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_B: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """W_g h + b_g, (U, B), for the gates from FIRST to before LAST."""
    out = ()
    if RESIDENT:
        h = operand_tile(p_rows, m_rows, p_first, m_first, any_first, 0, K, SPLIT, BLOCK_K)
        for g in tl.static_range(FIRST, LAST):
            out = out + (tl.sum(tl.dot(w[g], h, input_precision="ieee"), 0) + b[g],)
    else:
        sums = ()
        for _ in tl.static_range(FIRST, LAST):
            sums = sums + (tl.zeros((SPLIT, BLOCK_U, BLOCK_B), tl.float32),)
        for k in range(0, K, SPLIT * BLOCK_K):
            h = operand_tile(p_rows, m_rows, p_first, m_first, any_first, k, K, SPLIT, BLOCK_K)
            added = ()
            for g in tl.static_range(FIRST, LAST):
                tile = weight_tile(p_w, o_u, g, k, H, K, False, SPLIT, BLOCK_K)
                added = added + (tl.dot(tile, h, sums[g - FIRST], input_precision="ieee"),)
            sums = added
        for g in tl.static_range(FIRST, LAST):
            out = out + (tl.sum(sums[g - FIRST], 0) + b[g],)
    return out


@triton.jit
def summed_products(
    w,
    p_w,  # (G, H, H)
    p_rows,  # (B,) of pointers to (D, H)
    m_rows,
    o_u,
    H,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    SLOT: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_B: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """The sum over the gates from FIRST to before LAST of W_g^T d_g, (U, B); d_FIRST is in SLOT."""
    total = tl.zeros((SPLIT, BLOCK_U, BLOCK_B), tl.float32)
    for g in tl.static_range(FIRST, LAST):
        p_gate = p_rows + (g - FIRST + SLOT) * H
        if RESIDENT:
            d = operand_tile(p_gate, m_rows, None, None, False, 0, H, SPLIT, BLOCK_K)
            total = tl.dot(w[g], d, total, input_precision="ieee")
        else:
            for k in range(0, H, SPLIT * BLOCK_K):
                d = operand_tile(p_gate, m_rows, None, None, False, k, H, SPLIT, BLOCK_K)
                tile = weight_tile(p_w, o_u, g, k, H, H, True, SPLIT, BLOCK_K)
                total = tl.dot(tile, d, total, input_precision="ieee")
    return tl.sum(total, 0)


@triton.jit
def wait(p_count, target):
    """Returns once the group's programs have finished `target` stages among them."""
    while tl.atomic_add(p_count, 0, sem="acquire", scope="gpu") < target:
        pass


@triton.jit
def signal(p_count):
    """Counts a finished stage of this program, whose every thread has stored its results."""
    tl.debug_barrier()
    tl.atomic_add(p_count, 1, sem="release", scope="gpu")


@triton.jit
def signal_after(p_count, is_last):
    """Counts the stage as finished with its last block of rows, where others wait for it."""
    if p_count is not None:
        if is_last:
            signal(p_count)


class Launch(NamedTuple):
    """One launch: programs (slices, groups of rows, recurrences), and the stages they walk."""

    grid: tuple[int, int, int]
    first: int  # recurrence
    begin: int
    end: int
    count: torch.Tensor | None  # (recurrences, groups), zeros; None where nobody waits


def launches(
    form: Grid, batch: int, count: int, hidden: int, stages: int, device: torch.device
) -> Iterator[Launch]:
    """The launches of one pass.

    Where all slices of a recurrence run at once, they walk all stages and wait for each other.
    Else each stage is a launch of its own: the state is in memory between them in any case, and
    with so many slices a stage takes longer than its launch.
    """
    slices, blocks = triton.cdiv(hidden, form.block_u), triton.cdiv(batch, form.block_b)
    processors = configurations.device_of(device).processors
    at_once = min(count, processors // slices)
    if at_once == 0:
        for stage in range(stages):
            yield Launch((slices, blocks, count), 0, stage, stage + 1, None)
        return
    for first in range(0, count, at_once):
        part = min(at_once, count - first)
        groups = min(blocks, processors // (slices * part))
        counters = torch.zeros((part, groups), dtype=torch.int32, device=device)
        yield Launch((slices, groups, part), first, 0, stages, counters)
