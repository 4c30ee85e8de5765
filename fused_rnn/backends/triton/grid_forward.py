# SPDX-License-Identifier: MIT
"""All steps of a large recurrence, forward: its units are parted among programs that exchange h."""

import torch
import triton
import triton.language as tl

from ...ops import GATES
from . import stuck
from .common import (
    cell_forward,
    load_slots,
    reset_before_gates,
    reset_before_output,
    row_lengths,
    store_slots,
    visit,
)
from .configurations import Grid
from .exchange import gate_products, gates_tile, launches, signal_after, wait
from .problem import SLOTS, Forward, reverse_bits, sizes

# The textbook GRU exchanges twice in a step: r * h before the product with W_hn, then h.
STAGES = dict.fromkeys(GATES, 1) | {"gru_reset_before": 2}


@triton.jit
def emit(h, p_out, p_h, p_hn, o_state, m, inside, last):
    """Stores a step's h where the others, the next step, and the caller look for it."""
    dtype = p_out.dtype.element_ty
    tl.store(p_out, tl.where(inside[None, :], h, 0.0).to(dtype), mask=m)
    tl.store(p_hn + o_state, h.to(dtype), mask=m & last[None, :])
    if p_h is not None:
        tl.store(p_h + o_state, h, mask=m & inside[None, :])


@triton.jit
def carried(p_own, p_start, o_state, m_later, m_first):
    """A state as the step before left it, or as the recurrence starts with it."""
    state = tl.load(p_own + o_state, mask=m_later, other=0.0)
    if p_start is not None:
        state += tl.load(p_start + o_state, mask=m_first, other=0.0).to(tl.float32)
    return state


@triton.jit
def finish(p_count, is_last, p_tape, o_tape, saved, m, H, SLOTS: tl.constexpr):
    """Tells those who wait that a part is done, then stores the tape, for which nobody waits."""
    signal_after(p_count, is_last)
    if p_tape is not None:
        store_slots(p_tape + o_tape, saved, m, H, SLOTS)


@triton.jit(do_not_specialize=["T", "B", "N", "reverse", "n_first", "begin", "end", "kind"])
def grid_forward_kernel(
    p_xg,  # (T, B, N, G, H)
    p_w,  # (N, G, H, H)
    p_bias,  # (N, G, H)
    p_h0,  # (N, B, H)
    p_c0,
    p_lengths,  # (B,)
    p_resets,  # (T, B)
    p_y,  # (T, B, N, H)
    p_hn,  # (N, B, H)
    p_cn,
    p_tape,  # (T, B, N, S, H)
    p_h,  # (N, B, H) float32, the state where y is rounded
    p_c,
    p_z,  # (N, B, H) float32, of the textbook GRU
    p_reset,  # (N, B, H), its r * h: read by all before the next step's is stored
    p_count,  # (recurrences, groups)
    p_stuck,  # (1,)
    T,
    B,
    N,
    H,
    reverse,
    n_first,
    begin,
    end,
    kind,
    CELL: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_B: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    i_g, i_n = tl.program_id(1), n_first + tl.program_id(2)
    backward = ((reverse >> i_n) & 1) != 0
    first_unit = tl.program_id(0) * BLOCK_U
    o_u = first_unit + tl.arange(0, BLOCK_U)
    m_u = o_u < H
    dtype = p_y.dtype.element_ty
    rows = B.to(tl.int64) * N
    p_w += (i_n * G).to(tl.int64) * H * H
    w, w_n = (), ()
    if RESIDENT:
        TOGETHER: tl.constexpr = 2 if STAGES == 2 else G
        w = (gates_tile(p_w, first_unit, 0, H, H, 0, TOGETHER, SPLIT, BLOCK_K, BLOCK_U),)
        if STAGES == 2:
            w_n = (gates_tile(p_w, first_unit, 0, H, H, 2, 3, SPLIT, BLOCK_K, BLOCK_U),)
    if p_bias is not None:
        b = load_slots(p_bias + (i_n * G * H + o_u)[:, None], m_u[:, None], H, G)
    else:
        b = (0.0,) * G
    if p_count is not None:
        p_count += tl.program_id(2) * tl.num_programs(1) + i_g

    for stage in range(begin, end):
        i, part = stage // STAGES, stage % STAGES
        t = tl.where(backward, T - 1 - i, i)
        doubt = 0.0
        for start in range(i_g * BLOCK_B, B, tl.num_programs(1) * BLOCK_B):
            o_b = start + tl.arange(0, BLOCK_B)
            m_b = o_b < B
            m = m_u[:, None] & m_b[None, :]
            length = row_lengths(p_lengths, o_b, m_b, T)
            inside, first, seen = visit(t, o_b, m_b, length, backward, p_resets, T, B)
            last = inside & tl.where(backward, t == 0, t == length - 1)
            row = (o_b + t * B.to(tl.int64)) * N + i_n
            o_row = row[None, :]
            state = i_n * B.to(tl.int64) + o_b
            o_state = state[None, :] * H + o_u[:, None]
            m_in, m_first = m & inside[None, :], m & (seen & first)[None, :]
            m_later = m & (seen & ~first)[None, :]
            # What only this program needs is read before it waits.
            x = load_slots(p_xg + o_row * (G * H) + o_u[:, None], m_in, H, G)
            h = tl.zeros((BLOCK_U, BLOCK_B), tl.float32)
            c = tl.zeros((BLOCK_U, BLOCK_B), tl.float32)
            if CELL == "lstm":
                c = carried(p_c, p_c0, o_state, m_later, m_first)
            elif (CELL == "gru") or (CELL == "gru_reset_before"):
                h = carried(p_h, p_h0, o_state, m_later, m_first)
            if p_count is not None:
                if start == i_g * BLOCK_B:
                    target = (stage - begin) * tl.num_programs(0)
                    doubt = wait(p_count, target, p_stuck, kind)
            p_rows = p_y + (row + tl.where(backward, rows, -rows)) * H
            p_first = None
            any_first = i == 0
            if p_h0 is not None:
                p_first = p_h0 + state * H
                if p_lengths is not None:
                    # Backward in time, a row's first step is its own last one.
                    any_first |= backward
            p_out = p_y + o_row * H + o_u[:, None]
            o_tape = o_row * (S * H) + o_u[:, None]
            is_last = start + tl.num_programs(1) * BLOCK_B >= B
            if CELL != "gru_reset_before":
                s = gate_products(
                    *(w, p_w, p_rows, seen & ~first, p_first, seen & first, any_first),
                    *(first_unit, b, doubt, H, H, 0, G),
                    *(SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, RESIDENT),
                )
                new_h, new_c, saved = cell_forward(x, s, h, c, CELL)
                emit(new_h, p_out, p_h, p_hn, o_state, m, inside, last)
                if CELL == "lstm":
                    tl.store(p_c + o_state, new_c, mask=m_in)
                    tl.store(p_cn + o_state, new_c.to(dtype), mask=m & last[None, :])
                finish(p_count, is_last, p_tape, o_tape, saved, m_in, H, S)
            elif part == 0:
                s_rz = gate_products(
                    *(w, p_w, p_rows, seen & ~first, p_first, seen & first, any_first),
                    *(first_unit, b, doubt, H, H, 0, 2),
                    *(SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, RESIDENT),
                )
                rz, reset = reset_before_gates(x[0], x[1], s_rz[0], s_rz[1], h)
                tl.store(p_reset + o_state, reset.to(dtype), mask=m_in)
                tl.store(p_z + o_state, rz[1], mask=m_in)
                finish(p_count, is_last, p_tape, o_tape, rz, m_in, H, 2)
            else:
                p_seen = p_reset + state * H
                s_n = gate_products(
                    *(w_n, p_w, p_seen, inside, None, None, False),
                    *(first_unit, b, doubt, H, H, 2, 3),
                    *(SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, RESIDENT),
                )
                z = tl.load(p_z + o_state, mask=m_in, other=0.0)
                n, after = reset_before_output(x[2], s_n[0], z, h)
                emit(after, p_out, p_h, p_hn, o_state, m, inside, last)
                finish(p_count, is_last, p_tape, o_tape + 2 * H, (n,), m_in, H, 1)


def grid_forward(a: Forward, form: Grid) -> None:
    """Fills y, the final states and the tape."""
    steps, batch, count, hidden = sizes(a)
    for final, start in ((a.hn, a.h0), (a.cn, a.c0)):
        # The state of rows without a step; the others are written at their last one.
        if final is not None and a.lengths is not None:
            final.zero_() if start is None else final.copy_(start)

    def state(dtype: torch.dtype, *cells: str) -> torch.Tensor | None:
        return torch.empty_like(a.hn, dtype=dtype) if a.cell in cells else None

    h = state(torch.float32, "gru", "gru_reset_before")
    c, z = state(torch.float32, "lstm"), state(torch.float32, "gru_reset_before")
    reset = state(a.y.dtype, "gru_reset_before")
    stages = STAGES[a.cell] * steps
    kind = stuck.number("grid_forward", steps, batch, count, hidden)
    for launch in launches(form, batch, count, hidden, stages, a.y.device):
        grid_forward_kernel[launch.grid](
            *(a.xg, a.w_hh, a.bias, a.h0, a.c0, a.lengths, a.resets, a.y, a.hn, a.cn, a.tape),
            *(h, c, z, reset, launch.count, stuck.word()),
            *(steps, batch, count, hidden, reverse_bits(a.reverse)),
            *(launch.first, launch.begin, launch.end, kind),
            CELL=a.cell,
            G=GATES[a.cell],
            S=SLOTS[a.cell],
            STAGES=STAGES[a.cell],
            RESIDENT=form.resident,
            num_stages=1,
            **form.options,
            launch_cooperative_grid=launch.count is not None,
        )
