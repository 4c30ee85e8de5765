# SPDX-License-Identifier: MIT
"""All steps of a small recurrence, backward: one program per block of rows, weights read once.

It stops at the gradients of the gates; those of weights and input are products over all steps.
"""

import triton
import triton.language as tl

from ...ops import GATES
from .common import (
    cell_backward,
    load_before,
    load_saved,
    reset_before_gates_backward,
    reset_before_output_backward,
    row_lengths,
    store_inside,
    visit,
)
from .configurations import Block
from .gates import spread
from .problem import GRADS, SLOTS, Backward, reverse_bits, sizes


@triton.jit(do_not_specialize=["T", "B", "N", "reverse"])
def block_backward_kernel(
    p_dy,  # (T, B, N, H)
    p_dhn,  # (N, B, H)
    p_dcn,
    p_w,  # (N, G, H, H)
    p_h0,  # (N, B, H)
    p_c0,
    p_lengths,  # (B,)
    p_resets,  # (T, B)
    p_y,  # (T, B, N, H)
    p_tape,  # (T, B, N, S, H)
    p_dg,  # (T, B, N, D, H)
    p_dh0,  # (N, B, H)
    p_dc0,
    T,
    B,
    N,
    H,
    reverse,
    CELL: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
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

    # Transposed: (H before, H of the gate).
    w = ()
    for g in tl.static_range(G):
        o_w = ((i_n * G + g) * H + o_u[None, :]) * H + o_u[:, None]
        w = w + (tl.load(p_w + o_w, mask=m_u[:, None] & m_u[None, :], other=0.0),)
    dh = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    dc = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    if p_dhn is not None:
        dh = tl.load(p_dhn + o_state, mask=m, other=0.0).to(tl.float32)
    if p_dcn is not None:
        dc = tl.load(p_dcn + o_state, mask=m, other=0.0).to(tl.float32)

    for i in range(T):
        t = tl.where(backward, i, T - 1 - i)
        inside, first, seen = visit(t, o_b, m_b, length, backward, p_resets, T, B)
        o_row = (row + t * rows)[None, :]
        o_before = o_row + tl.where(backward, rows, -rows)
        m_in = m & inside[None, :]
        h = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
        c = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
        if CELL == "lstm":
            p_c = p_tape + o_before * (S * H) + 4 * H + o_u[:, None]
            c = load_before(p_c, p_c0, o_state, seen, first, m)
        elif (CELL == "gru") or (CELL == "gru_reset_before"):
            h = load_before(p_y + o_before * H + o_u[:, None], p_h0, o_state, seen, first, m)
        v = load_saved(p_tape, p_y, o_row, o_u, m_in, H, S)
        d = dh
        if p_dy is not None:
            d += tl.load(p_dy + o_row * H + o_u[:, None], mask=m_in, other=0.0).to(tl.float32)
        if CELL == "gru_reset_before":
            dn, dz, direct = reset_before_output_backward(v[1], v[2], h, d)
            d_reset = tl.dot(w[2], dn.to(dtype), input_precision="ieee")
            d_reset = spread(d_reset, BLOCK_H, BLOCK_B)
            if PADDED:
                d_reset = tl.where(m_u[:, None], d_reset, 0.0)
            dr, more = reset_before_gates_backward(v[0], h, d_reset)
            dv, dc_before, direct = (dn, dr, dz), dc, direct + more
            fed = (dr.to(dtype), dz.to(dtype))
        else:
            dv, direct, dc_before = cell_backward(v, h, c, d, dc, CELL)
            fed = ()
            for g in tl.static_range(G):
                # The GRU's slots n r z q: its gates r z n meet dr, dz and dq.
                fed = fed + (dv[g + D - G].to(dtype),)
        sums = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
        for g in tl.static_range(2 if CELL == "gru_reset_before" else G):
            sums = tl.dot(w[g], fed[g], sums, input_precision="ieee")
        through = direct + spread(sums, BLOCK_H, BLOCK_B)
        store_inside(p_dg + o_row * (D * H) + o_u[:, None], dv, m_in, m, H, D)
        if PADDED:
            # Units past the last keep zeros: sums of infinite gradients would meet all others.
            through = tl.where(m_u[:, None], through, 0.0)
        dh = tl.where(inside[None, :], tl.where(seen[None, :], through, 0.0), dh)
        dc = tl.where(inside[None, :], tl.where(seen[None, :], dc_before, 0.0), dc)
    if p_dh0 is not None:
        tl.store(p_dh0 + o_state, dh.to(dtype), mask=m)
    if p_dc0 is not None:
        tl.store(p_dc0 + o_state, dc.to(dtype), mask=m)


def block_backward(a: Backward, form: Block) -> None:
    """Fills the gradients of the gates and of the initial states."""
    steps, batch, count, hidden = sizes(a)
    block_backward_kernel[(triton.cdiv(batch, form.block_b), count)](
        *(a.dy, a.dhn, a.dcn, a.w_hh, a.h0, a.c0, a.lengths, a.resets),
        *(a.y, a.tape, a.dg, a.dh0, a.dc0),
        *(steps, batch, count, hidden, reverse_bits(a.reverse)),
        CELL=a.cell,
        G=GATES[a.cell],
        S=SLOTS[a.cell],
        D=GRADS[a.cell],
        PADDED=hidden != form.block_h,
        num_stages=1,
        **form.options,
    )
