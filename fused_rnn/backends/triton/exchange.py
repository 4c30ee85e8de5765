# SPDX-License-Identifier: MIT
"""The shared work of one recurrence's programs: products with their slices, the wait for others.

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
from .gates import added, apart, gate_rows

# Polls of a wait before it gives up: seconds, where a stage takes microseconds.
POLLS = tl.constexpr(1 << 22)
# A count that waits have ended at: no signals add up to what would lift it above zero.
LOST = tl.constexpr(-(1 << 31))


@triton.jit
def gates_tile(
    p_w,  # (G, H, K)
    first_unit,
    start,
    H,
    K,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """A tile (SPLIT, U*P, K) of the gates from FIRST to before LAST, from column `start`."""
    o_k = tl.arange(0, SPLIT)[:, None, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, None, :]
    o_k += start
    o_u, gate = gate_rows(first_unit, LAST - FIRST, BLOCK_U)
    m = ((o_u < H) & (gate < LAST - FIRST))[None, :, None] & (o_k < K)
    o_row = o_u + (gate + FIRST).to(tl.int64) * H
    return tl.load(p_w + o_row[None, :, None] * K + o_k, mask=m, other=0.0)


@triton.jit
def transposed_tile(
    p_w,  # (G, H, H)
    first_unit,
    gate,
    start,
    H,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """A tile (SPLIT, U, K) of the transpose of a gate's matrix, from its column `start`."""
    o_k = tl.arange(0, SPLIT)[:, None, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, None, :]
    o_k += start
    o_u = (first_unit + tl.arange(0, BLOCK_U))[None, :, None]
    o = (o_k + tl.cast(gate * H, tl.int64)) * H + o_u
    return tl.load(p_w + o, mask=(o_u < H) & (o_k < H), other=0.0)


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
    """A tile (SPLIT, K, B) of what all programs wrote; past the cache of this processor.

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
def gate_products(
    w,  # (SPLIT, U*P, K), all of K, alone; empty where it is read each time
    p_w,  # (G, H, K)
    p_rows,  # (B,) of pointers to (K,)
    m_rows,
    p_first,  # the same of the rows of m_first, where any_first says that there may be some
    m_first,
    any_first,
    first_unit,
    b,
    doubt,
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
    """The sums W_g h + b_g, (U, B), of the gates from FIRST to before LAST; `doubt` is a wait's."""
    P: tl.constexpr = 4 if LAST - FIRST == 3 else LAST - FIRST
    if RESIDENT:
        h = operand_tile(p_rows, m_rows, p_first, m_first, any_first, 0, K, SPLIT, BLOCK_K)
        sums = tl.dot(w[0], h, input_precision="ieee")
    else:
        sums = tl.zeros((SPLIT, BLOCK_U * P, BLOCK_B), tl.float32)
        for k in range(0, K, SPLIT * BLOCK_K):
            h = operand_tile(p_rows, m_rows, p_first, m_first, any_first, k, K, SPLIT, BLOCK_K)
            tile = gates_tile(p_w, first_unit, k, H, K, FIRST, LAST, SPLIT, BLOCK_K, BLOCK_U)
            sums = tl.dot(tile, h, sums, input_precision="ieee")
    parts = apart(added(sums, SPLIT, BLOCK_U * P, BLOCK_B), LAST - FIRST, BLOCK_U, BLOCK_B)
    out = ()
    for g in tl.static_range(FIRST, LAST):
        out = out + (parts[g - FIRST] + (b[g] + doubt),)
    return out


@triton.jit
def summed_products(
    w,  # (SPLIT, U, K) of each gate, all of K; empty where they are read each time
    p_w,  # (G, H, H)
    p_rows,  # (B,) of pointers to (D, H)
    m_rows,
    first_unit,
    H,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    SLOT: tl.constexpr,
    AHEAD: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_B: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """The sum over the gates from FIRST to before LAST of W_g^T d_g, (U, B); d_FIRST is in SLOT."""
    total = tl.zeros((SPLIT, BLOCK_U, BLOCK_B), tl.float32)
    if RESIDENT:
        for first in tl.static_range(FIRST, LAST, AHEAD):
            # These are on their way before the first of them is needed.
            d = ()
            for g in tl.static_range(first, min(first + AHEAD, LAST)):
                p_gate = p_rows + (g - FIRST + SLOT) * H
                d = d + (operand_tile(p_gate, m_rows, None, None, False, 0, H, SPLIT, BLOCK_K),)
            for g in tl.static_range(first, min(first + AHEAD, LAST)):
                total = tl.dot(w[g], d[g - first], total, input_precision="ieee")
    else:
        for g in tl.static_range(FIRST, LAST):
            p_gate = p_rows + (g - FIRST + SLOT) * H
            for k in range(0, H, SPLIT * BLOCK_K):
                d = operand_tile(p_gate, m_rows, None, None, False, k, H, SPLIT, BLOCK_K)
                tile = transposed_tile(p_w, first_unit, g, k, H, SPLIT, BLOCK_K, BLOCK_U)
                total = tl.dot(tile, d, total, input_precision="ieee")
    return added(total, SPLIT, BLOCK_U, BLOCK_B)


@triton.jit
def wait(p_count, target, p_stuck, kind):
    """Zero, once the group's programs have finished `target` stages among them.

    NaN where they have not in so long that a signal must be lost: for all that depends on them.
    Whoever waits for this program in turn finds the count below zero, and ends too.
    """
    # What a loop carries has to be made of its arguments, not of constants.
    found = target
    polls = target * 0
    waits = polls == 0
    while waits:
        found = tl.atomic_add(p_count, 0, sem="acquire", scope="gpu")
        polls += 1
        waits = (found >= 0) & (found < target) & (polls < POLLS)
    lost = found < target
    if lost:
        tl.atomic_min(p_count, LOST, sem="relaxed", scope="gpu")
        tl.store(p_stuck, kind)
    return tl.where(lost, float("nan"), 0.0)


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
