# SPDX-License-Identifier: MIT
"""All steps of a large recurrence, backward: programs own parts of dh and exchange dG.

It stops at the gradients of the gates; those of weights and input are products over all steps.
"""

import torch
import triton
import triton.language as tl

from ...ops import GATES
from . import configurations, stuck
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
from .configurations import Grid, operands_at_once
from .exchange import launches, signal, summed_products, transposed_tile, wait
from .grid_forward import STAGES
from .problem import GRADS, SLOTS, Backward, reverse_bits, sizes


@triton.jit
def load_carried(p_final, p_state, o_state, stage, m):
    """The gradient that earlier stages left for a state; at the first, that of the final state."""
    carried = tl.load(p_state + o_state, mask=m & (stage > 0), other=0.0)
    if p_final is not None:
        carried += tl.load(p_final + o_state, mask=m & (stage == 0), other=0.0).to(tl.float32)
    return carried


@triton.jit
def store_carried(p_state, o_state, before, after, inside, seen, m):
    """Stores the gradient `before` of the state a step saw; past a row's end `after` stays."""
    carried = tl.where(inside[None, :], tl.where(seen[None, :], before, 0.0), after)
    tl.store(p_state + o_state, carried, mask=m)


@triton.jit(do_not_specialize=["T", "B", "N", "reverse", "n_first", "begin", "end", "kind"])
def grid_backward_kernel(
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
    p_dh,  # (N, B, H) float32, what reaches h past the products
    p_dc,
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
    D: tl.constexpr,
    FED: tl.constexpr,  # gates whose gradients reach h at once
    SLOT: tl.constexpr,  # of the first of them
    AHEAD: tl.constexpr,  # of them whose operands are in shared memory at once
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
    w = ()
    if RESIDENT:
        for g in tl.static_range(G):
            w = w + (transposed_tile(p_w, first_unit, g, 0, H, SPLIT, BLOCK_K, BLOCK_U),)
    if p_count is not None:
        p_count += tl.program_id(2) * tl.num_programs(1) + i_g

    for stage in range(begin, end):
        # Visit T is past the last step and only sums up what reached the initial states.
        i, part = stage // STAGES, stage % STAGES
        t = tl.where(backward, i, T - 1 - i)
        later = tl.where(backward, i - 1, T - i)
        doubt = 0.0
        for start in range(i_g * BLOCK_B, B, tl.num_programs(1) * BLOCK_B):
            o_b = start + tl.arange(0, BLOCK_B)
            m_b = o_b < B
            m = m_u[:, None] & m_b[None, :]
            length = row_lengths(p_lengths, o_b, m_b, T)
            inside, first, seen = visit(t, o_b, m_b & (i < T), length, backward, p_resets, T, B)
            _, _, carries = visit(later, o_b, m_b & (i > 0), length, backward, p_resets, T, B)
            row = (o_b + t * B.to(tl.int64)) * N + i_n
            o_row, o_before = row[None, :], (row + tl.where(backward, rows, -rows))[None, :]
            o_state = (i_n * B.to(tl.int64) + o_b)[None, :] * H + o_u[:, None]
            m_in = m & inside[None, :]
            # What only this program needs is read before it waits.
            h = tl.zeros((BLOCK_U, BLOCK_B), tl.float32)
            c = tl.zeros((BLOCK_U, BLOCK_B), tl.float32)
            dc = tl.zeros((BLOCK_U, BLOCK_B), tl.float32)
            if CELL == "lstm":
                p_c = p_tape + o_before * (S * H) + 4 * H + o_u[:, None]
                c = load_before(p_c, p_c0, o_state, seen, first, m)
                dc = load_carried(p_dcn, p_dc, o_state, stage, m)
            elif (CELL == "gru") or (CELL == "gru_reset_before"):
                h = load_before(p_y + o_before * H + o_u[:, None], p_h0, o_state, seen, first, m)
            v = load_saved(p_tape, p_y, o_row, o_u, m_in, H, S)
            dh = load_carried(p_dhn, p_dh, o_state, stage, m)
            if p_count is not None:
                if start == i_g * BLOCK_B:
                    target = (stage - begin) * tl.num_programs(0)
                    doubt = wait(p_count, target, p_stuck, kind)
            p_out, m_out = p_dg + o_row * (D * H) + o_u[:, None], m & (i < T)
            if part == 0:
                p_rows = p_dg + ((o_b + later * B.to(tl.int64)) * N + i_n) * D * H
                # The slots n r z q of the GRUs: gates r z n meet dr, dz and dq, if there is one.
                dh += summed_products(
                    *(w, p_w, p_rows, carries, first_unit, H, 0, FED, SLOT, AHEAD),
                    *(SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, RESIDENT),
                )
                dh += doubt
                if p_dh0 is not None:
                    tl.store(p_dh0 + o_state, dh.to(dtype), mask=m & (i == T))
                if p_dc0 is not None:
                    tl.store(p_dc0 + o_state, dc.to(dtype), mask=m & (i == T))
                d = dh
                if p_dy is not None:
                    p_d = p_dy + o_row * H + o_u[:, None]
                    d += tl.load(p_d, mask=m_in, other=0.0).to(tl.float32)
                if CELL == "gru_reset_before":
                    dn, dz, direct = reset_before_output_backward(v[1], v[2], h, d)
                    # dr waits for all of dn.
                    store_inside(p_out, (dn,), m_in, m_out, H, 1)
                    store_inside(p_out + 2 * H, (dz,), m_in, m_out, H, 1)
                else:
                    dv, direct, dc_before = cell_backward(v, h, c, d, dc, CELL)
                    store_inside(p_out, dv, m_in, m_out, H, D)
                    if CELL == "lstm":
                        store_carried(p_dc, o_state, dc_before, dc, inside, seen, m)
                store_carried(p_dh, o_state, direct, dh, inside, seen, m)
            if CELL == "gru_reset_before":
                if part == 1:
                    d_reset = summed_products(
                        *(w, p_w, p_dg + row * D * H, inside, first_unit, H, 2, 3, 0, 1),
                        *(SPLIT, BLOCK_K, BLOCK_U, BLOCK_B, RESIDENT),
                    )
                    dr, more = reset_before_gates_backward(v[0], h, d_reset + doubt)
                    store_inside(p_out + H, (dr,), m_in, m_out, H, 1)
                    dh += tl.where(seen[None, :], more, 0.0)
                    tl.store(p_dh + o_state, dh, mask=m)
        if p_count is not None:
            signal(p_count)


def grid_backward(a: Backward, form: Grid) -> None:
    """Fills the gradients of the gates and of the initial states."""
    steps, batch, count, hidden = sizes(a)
    dh = torch.empty((count, batch, hidden), dtype=torch.float32, device=a.y.device)
    dc = torch.empty_like(dh) if a.cell == "lstm" else None
    gates, grads, stages = GATES[a.cell], GRADS[a.cell], STAGES[a.cell]
    device = configurations.device_of(a.y.device)
    ahead = operands_at_once(form, a.cell, a.y.dtype, device)
    kind = stuck.number("grid_backward", steps, batch, count, hidden)
    for launch in launches(form, batch, count, hidden, stages * steps + 1, a.y.device):
        grid_backward_kernel[launch.grid](
            *(a.dy, a.dhn, a.dcn, a.w_hh, a.h0, a.c0, a.lengths, a.resets),
            *(a.y, a.tape, a.dg, a.dh0, a.dc0, dh, dc, launch.count, stuck.word()),
            *(steps, batch, count, hidden, reverse_bits(a.reverse)),
            *(launch.first, launch.begin, launch.end, kind),
            CELL=a.cell,
            G=gates,
            S=SLOTS[a.cell],
            D=grads,
            FED=gates if stages == 1 else 2,
            SLOT=int(a.cell in ("gru", "gru_reset_before")),
            AHEAD=ahead,
            STAGES=stages,
            RESIDENT=form.resident,
            num_stages=1,
            **form.options,
            launch_cooperative_grid=launch.count is not None,
        )
