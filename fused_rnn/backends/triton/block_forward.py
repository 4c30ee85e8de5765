# SPDX-License-Identifier: MIT
"""All steps of a small recurrence, forward: one program per block of rows, weights read once."""

import triton
import triton.language as tl

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
from .configurations import Block
from .gates import apart, gate_rows, spread
from .problem import SLOTS, Forward, reverse_bits, sizes


@triton.jit
def gates_matrix(p_w, H, FIRST: tl.constexpr, LAST: tl.constexpr, BLOCK_H: tl.constexpr):
    """A matrix (H*P, H) of the gates from FIRST to before LAST, those of a unit side by side."""
    o_u, gate = gate_rows(0, LAST - FIRST, BLOCK_H)
    o_k = tl.arange(0, BLOCK_H)[None, :]
    m = ((o_u < H) & (gate < LAST - FIRST))[:, None] & (o_k < H)
    return tl.load(p_w + ((gate + FIRST) * H + o_u)[:, None] * H + o_k, mask=m, other=0.0)


@triton.jit
def recurrent_sums(
    w,  # (H*P, H)
    h,
    b,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """The sums W_g h + b_g, (H, B), for the gates from FIRST to before LAST."""
    sums = tl.dot(w, h, input_precision="ieee")
    if LAST - FIRST == 1:
        sums = spread(sums, BLOCK_H, BLOCK_B)
    parts = apart(sums, LAST - FIRST, BLOCK_H, BLOCK_B)
    out = ()
    for g in tl.static_range(FIRST, LAST):
        out = out + (parts[g - FIRST] + b[g],)
    return out


@triton.jit(do_not_specialize=["T", "B", "N", "reverse"])
def block_forward_kernel(
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
    T,
    B,
    N,
    H,
    reverse,
    CELL: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PADDED: tl.constexpr,  # H < BLOCK_H
):
    i_n = tl.program_id(1)
    backward = ((reverse >> i_n) & 1) != 0
    o_b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    o_u = tl.arange(0, BLOCK_H)
    m_b, m_u = o_b < B, o_u < H
    m = m_u[:, None] & m_b[None, :]
    dtype = p_y.dtype.element_ty
    row = o_b.to(tl.int64) * N + i_n
    rows = B.to(tl.int64) * N
    o_state = (i_n.to(tl.int64) * B + o_b)[None, :] * H + o_u[:, None]
    length = row_lengths(p_lengths, o_b, m_b, T)

    p_w += i_n * G * H * H
    if CELL == "gru_reset_before":
        w = gates_matrix(p_w, H, 0, 2, BLOCK_H)
        w_n = gates_matrix(p_w, H, 2, 3, BLOCK_H)
    else:
        w = gates_matrix(p_w, H, 0, G, BLOCK_H)
    if p_bias is not None:
        b = load_slots(p_bias + (i_n * G * H + o_u)[:, None], m_u[:, None], H, G)
    else:
        b = (0.0,) * G
    h = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    c = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    if p_h0 is not None:
        h = tl.load(p_h0 + o_state, mask=m, other=0.0).to(tl.float32)
    if p_c0 is not None:
        c = tl.load(p_c0 + o_state, mask=m, other=0.0).to(tl.float32)

    o_row = (row + tl.where(backward, T - 1, 0) * rows)[None, :]
    x = load_slots(p_xg + o_row * (G * H) + o_u[:, None], m, H, G)
    for i in range(T):
        t = tl.where(backward, T - 1 - i, i)
        inside, first, seen = visit(t, o_b, m_b, length, backward, p_resets, T, B)
        before_h, before_c = tl.where(seen[None, :], h, 0.0), tl.where(seen[None, :], c, 0.0)
        o_row = (row + t * rows)[None, :]
        o_next = o_row + tl.where(backward, -rows, rows)
        if CELL == "gru_reset_before":
            s = recurrent_sums(w, before_h.to(dtype), b, 0, 2, BLOCK_H, BLOCK_B)
            rz, reset = reset_before_gates(x[0], x[1], s[0], s[1], before_h)
            if PADDED:
                reset = tl.where(m_u[:, None], reset, 0.0)
            s = recurrent_sums(w_n, reset.to(dtype), b, 2, 3, BLOCK_H, BLOCK_B)
            n, new_h = reset_before_output(x[2], s[0], rz[1], before_h)
            new_c, saved = c, (rz[0], rz[1], n)
        else:
            s = recurrent_sums(w, before_h.to(dtype), b, 0, G, BLOCK_H, BLOCK_B)
            new_h, new_c, saved = cell_forward(x, s, before_h, before_c, CELL)
        # The next step's gates are on their way while this step's results are stored.
        x = load_slots(p_xg + o_next * (G * H) + o_u[:, None], m & (i + 1 < T), H, G)
        if PADDED:
            # Units past the last keep zeros: sums with infinite states would meet all others.
            new_h = tl.where(m_u[:, None], new_h, 0.0)
        h = tl.where(inside[None, :], new_h, h)
        c = tl.where(inside[None, :], new_c, c)
        y = tl.where(inside[None, :], new_h, 0.0)
        tl.store(p_y + o_row * H + o_u[:, None], y.to(dtype), mask=m)
        if p_tape is not None:
            store_slots(p_tape + o_row * (S * H) + o_u[:, None], saved, m, H, S)
    tl.store(p_hn + o_state, h.to(dtype), mask=m)
    if p_cn is not None:
        tl.store(p_cn + o_state, c.to(dtype), mask=m)


def block_forward(a: Forward, form: Block) -> None:
    """Fills y, the final states and the tape."""
    steps, batch, count, hidden = sizes(a)
    block_forward_kernel[(triton.cdiv(batch, form.block_b), count)](
        *(a.xg, a.w_hh, a.bias, a.h0, a.c0, a.lengths, a.resets, a.y, a.hn, a.cn, a.tape),
        *(steps, batch, count, hidden, reverse_bits(a.reverse)),
        CELL=a.cell,
        G=GATES[a.cell],
        S=SLOTS[a.cell],
        PADDED=hidden != form.block_h,
        num_stages=1,
        **form.options,
    )
