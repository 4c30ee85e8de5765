# SPDX-License-Identifier: MIT
"""One step of a recurrence, with the projection of its input, in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...ops import GATES
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
from .exchange import gate_products
from .problem import SLOTS, Step


@triton.jit(do_not_specialize=["B", "N", "backward"])
def step_kernel(
    p_x,  # (B, I)
    p_w_ih,  # (G, H, I)
    p_w_hh,  # (G, H, H)
    p_b_ih,  # (G, H)
    p_b_hh,
    p_h0,  # (B, H)
    p_c0,
    p_lengths,  # (B,)
    p_resets,
    p_y,  # (B, N, H), from this recurrence on
    p_hn,  # (B, H)
    p_cn,
    p_tape,  # (B, N, S, H), from this recurrence on
    p_z,  # (B, H) float32, of the textbook GRU
    p_reset,  # (B, H), its r * h
    B,
    N,
    inputs,
    H,
    backward,
    CELL: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    PART: tl.constexpr,  # the textbook GRU's r * h, 0, and what follows the product with it, 1
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    FIRST: tl.constexpr = 2 if PART == 1 else 0
    LAST: tl.constexpr = 2 if CELL == "gru_reset_before" and PART == 0 else G
    first_unit = tl.program_id(0) * BLOCK_U
    o_u = first_unit + tl.arange(0, BLOCK_U)
    o_b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    m_u, m_b = o_u < H, o_b < B
    m = m_u[:, None] & m_b[None, :]
    dtype = p_y.dtype.element_ty
    row = o_b.to(tl.int64)
    o_state = row[None, :] * H + o_u[:, None]
    o_row = row[None, :] * N
    length = row_lengths(p_lengths, o_b, m_b, 1)
    inside, _, seen = visit(0, o_b, m_b, length, backward != 0, p_resets, 1, B)

    b_x, b_h = (0.0,) * G, (0.0,) * G
    if p_b_ih is not None:
        b_x = load_slots(p_b_ih + o_u[:, None], m_u[:, None], H, G)
        b_h = load_slots(p_b_hh + o_u[:, None], m_u[:, None], H, G)
    x = gate_products(
        *((), p_w_ih, p_x + row * inputs, inside, None, None, False),
        *(first_unit, b_x, 0.0, H, inputs, FIRST, LAST, SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, False),
    )
    zeros = tl.zeros((BLOCK_U, BLOCK_B), tl.float32)
    h, c, start_h, start_c = zeros, zeros, zeros, zeros
    if p_h0 is not None:
        start_h = tl.load(p_h0 + o_state, mask=m, other=0.0).to(tl.float32)
        h = tl.where(seen[None, :], start_h, 0.0)
    if p_c0 is not None:
        start_c = tl.load(p_c0 + o_state, mask=m, other=0.0).to(tl.float32)
        c = tl.where(seen[None, :], start_c, 0.0)
    if PART == 1:
        s = gate_products(
            *((), p_w_hh, p_reset + row * H, inside, None, None, False),
            *(first_unit, b_h, 0.0, H, H, FIRST, LAST, SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, False),
        )
    elif p_h0 is not None:
        s = gate_products(
            *((), p_w_hh, p_h0 + row * H, seen, None, None, False),
            *(first_unit, b_h, 0.0, H, H, FIRST, LAST, SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, False),
        )
    else:
        s = ()
        for g in tl.static_range(LAST):
            s = s + (zeros + b_h[g],)

    p_saved = None
    if p_tape is not None:
        p_saved = p_tape + o_row * (S * H) + o_u[:, None]
    if LAST < G:
        rz, reset = reset_before_gates(x[0], x[1], s[0], s[1], h)
        tl.store(p_reset + o_state, tl.where(inside[None, :], reset, 0.0).to(dtype), mask=m)
        tl.store(p_z + o_state, rz[1], mask=m)
        if p_saved is not None:
            store_slots(p_saved, rz, m, H, 2)
    else:
        if PART == 1:
            z = tl.load(p_z + o_state, mask=m, other=0.0)
            n, h = reset_before_output(x[0], s[0], z, h)
            if p_saved is not None:
                store_slots(p_saved + 2 * H, (n,), m, H, 1)
        else:
            h, c, saved = cell_forward(x, s, h, c, CELL)
            if p_saved is not None:
                store_slots(p_saved, saved, m, H, S)
        y = tl.where(inside[None, :], h, 0.0)
        tl.store(p_y + o_row * H + o_u[:, None], y.to(dtype), mask=m)
        tl.store(p_hn + o_state, tl.where(inside[None, :], h, start_h).to(dtype), mask=m)
        if p_cn is not None:
            tl.store(p_cn + o_state, tl.where(inside[None, :], c, start_c).to(dtype), mask=m)


def step(a: Step, form: Grid) -> None:
    """Fills y, the final states and the tape, a launch for each recurrence and exchange."""
    batch, inputs = a.x.shape
    _, count, hidden = a.y.shape
    textbook = a.cell == "gru_reset_before"
    z = torch.empty((batch, hidden), dtype=torch.float32, device=a.x.device) if textbook else None
    reset = a.x.new_empty((batch, hidden)) if textbook else None
    for n, w in enumerate(a.weights):
        h0, c0, cn, tape = (
            None if t is None else t[n] for t in (a.h0, a.c0, a.cn, _from_recurrence(a.tape))
        )
        for part in range(1 + textbook):
            step_kernel[(triton.cdiv(hidden, form.block_u), triton.cdiv(batch, form.block_b))](
                *(a.x, w.w_ih, w.w_hh, w.b_ih, w.b_hh, h0, c0, a.lengths, a.resets),
                *(a.y[:, n], a.hn[n], cn, tape, z, reset),
                *(batch, count, inputs, hidden, int(bool(a.reverse[n]))),
                CELL=a.cell,
                G=GATES[a.cell],
                S=SLOTS[a.cell],
                PART=part,
                num_stages=3,
                **form.options,
            )


def _from_recurrence(tape: Tensor | None) -> Tensor | None:
    """The tape with the recurrence in front."""
    return None if tape is None else tape.transpose(0, 1)
