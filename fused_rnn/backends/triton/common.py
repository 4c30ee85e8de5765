# SPDX-License-Identifier: MIT
"""Pointwise mathematics of the cells, and which steps count, shared by all Triton kernels.

The equations are those of reference/cells.py; everything here is float32. A tile is (H, B): units
by rows, so that the weights are the left operand of every product.
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """The logistic function 1 / (1 + exp(-x)), without overflow on either side."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """The hyperbolic tangent by exp(-2 |x|); near zero, where that cancels, its Taylor series."""
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    s = x * x
    # The next term is below 2^-26 of the sum for |x| < 1/4.
    near = x * (1.0 - s * (1 / 3 - s * (2 / 15 - s * (17 / 315 - s * (62 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def cell_forward(x, s, h, c, CELL: tl.constexpr):
    """One step of every cell with a single product: the new h and c, and the tape's slots.

    x: projected gates; s: recurrent sums, with b_hn in the GRU's; h, c: the state before.
    """
    if CELL == "lstm":
        i, f, g, o = sigmoid(x[0] + s[0]), sigmoid(x[1] + s[1]), tanh(x[2] + s[2]), x[3] + s[3]
        o = sigmoid(o)
        c = f * c + i * g
        return o * tanh(c), c, (i, f, g, o, c)
    elif CELL == "gru":
        r, z = sigmoid(x[0] + s[0]), sigmoid(x[1] + s[1])
        n = tanh(x[2] + r * s[2])
        return n + z * (h - n), c, (r, z, n, s[2])
    elif CELL == "rnn_tanh":
        return tanh(x[0] + s[0]), c, ()
    else:
        # A NaN passes, as it does in torch.
        a = x[0] + s[0]
        return tl.where(a < 0, 0.0, a), c, ()


@triton.jit
def cell_backward(v, h, c, dh, dc, CELL: tl.constexpr):
    """The gradients of a step: the gates' slots, what reaches h directly, and dc before the step.

    v: the tape's slots, for a plain RNN (h_t,); h, c: the state before; dh, dc: of the state after.
    The slots of the GRU are n r z q, so that what the input needs and what h needs each lie
    together; the other cells keep torch.nn's order.
    """
    if CELL == "lstm":
        tanh_c = tanh(v[4])
        dc += dh * v[3] * (1.0 - tanh_c * tanh_c)
        di = dc * v[2] * v[0] * (1.0 - v[0])
        df = dc * c * v[1] * (1.0 - v[1])
        dg = dc * v[0] * (1.0 - v[2] * v[2])
        do = dh * tanh_c * v[3] * (1.0 - v[3])
        return (di, df, dg, do), tl.zeros_like(dh), dc * v[1]
    elif CELL == "gru":
        dn = dh * (1.0 - v[1]) * (1.0 - v[2] * v[2])
        dz = dh * (h - v[2]) * v[1] * (1.0 - v[1])
        dr = dn * v[3] * v[0] * (1.0 - v[0])
        return (dn, dr, dz, dn * v[0]), dh * v[1], dc
    elif CELL == "rnn_tanh":
        return (dh * (1.0 - v[0] * v[0]),), tl.zeros_like(dh), dc
    else:
        return (tl.where(v[0] <= 0, 0.0, dh),), tl.zeros_like(dh), dc


@triton.jit
def reset_before_gates(x_r, x_z, s_r, s_z, h):
    """The gates (r, z) and the reset state r * h of the textbook GRU, eq. 1 and 2."""
    r, z = sigmoid(x_r + s_r), sigmoid(x_z + s_z)
    return (r, z), r * h


@triton.jit
def reset_before_output(x_n, s_n, z, h):
    """The gate n and h_t of the textbook GRU, eq. 3 and 4; s_n is the product with r * h."""
    n = tanh(x_n + s_n)
    return n, n + z * (h - n)


@triton.jit
def reset_before_output_backward(z, n, h, dh):
    """The gradients dn, dz and what reaches h directly, of the textbook GRU's eq. 3 and 4."""
    return dh * (1.0 - z) * (1.0 - n * n), dh * (h - n) * z * (1.0 - z), dh * z


@triton.jit
def reset_before_gates_backward(r, h, d_reset):
    """The gradient dr and what reaches h through r * h, from the gradient of that product."""
    return d_reset * h * r * (1.0 - r), d_reset * r


@triton.jit
def row_lengths(p_lengths, o_b, m_b, T):
    """Steps of each row, (B,), clamped to 0..T."""
    if p_lengths is None:
        return tl.zeros_like(o_b) + T
    else:
        length = tl.load(p_lengths + o_b, mask=m_b, other=0)
        return tl.minimum(tl.maximum(length, 0), T).to(tl.int32)


@triton.jit
def visit(t, o_b, m_b, length, backward, p_resets, T, B):
    """Flags of each row's visit to step t, (B,): it is inside, it is the first, it sees a state.

    Going back, the cut before step t + 1 lies between the visits of t + 1 and t.
    """
    inside = m_b & (t < length)
    first = tl.where(backward, t == length - 1, t == 0)
    if p_resets is None:
        return inside, first, inside
    else:
        mark = t + backward.to(tl.int32)
        m_mark = m_b & (mark < length)
        o_mark = o_b + mark * B.to(tl.int64)
        cut = tl.load(p_resets + o_mark, mask=m_mark, other=0) != 0
        return inside, first, inside & ~cut


@triton.jit
def load_slots(p, m, H, COUNT: tl.constexpr):
    """COUNT tiles that lie H apart, in float32."""
    out = ()
    for s in tl.static_range(COUNT):
        out = out + (tl.load(p + s * H, mask=m, other=0.0).to(tl.float32),)
    return out


@triton.jit
def store_slots(p, values, m, H, COUNT: tl.constexpr):
    """Stores COUNT tiles H apart."""
    for s in tl.static_range(COUNT):
        tl.store(p + s * H, values[s].to(p.dtype.element_ty), mask=m)


@triton.jit
def load_saved(p_tape, p_y, o_row, o_u, m, H, S: tl.constexpr):
    """A step's slots of the tape; of a cell that keeps none, its output."""
    if S > 0:
        return load_slots(p_tape + o_row * (S * H) + o_u[:, None], m, H, S)
    else:
        return load_slots(p_y + o_row * H + o_u[:, None], m, H, 1)


@triton.jit
def load_before(p_step, p_start, o_start, seen, first, m):
    """A state as a step saw it: zeros, that of the step before, or the initial one."""
    before = tl.load(p_step, mask=m & (seen & ~first)[None, :], other=0.0).to(tl.float32)
    if p_start is not None:
        m_start = m & (seen & first)[None, :]
        start = tl.load(p_start + o_start, mask=m_start, other=0.0).to(tl.float32)
        before = tl.where(first[None, :], start, before)
    return before


@triton.jit
def store_inside(p, values, m_in, m, H, COUNT: tl.constexpr):
    """Stores COUNT tiles H apart, zeros where the rows have ended."""
    for s in tl.static_range(COUNT):
        tl.store(p + s * H, tl.where(m_in, values[s], 0.0).to(p.dtype.element_ty), mask=m)
