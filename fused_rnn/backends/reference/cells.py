# SPDX-License-Identifier: MIT
"""One step of each cell: the equations of this package, in one place.

Throughout, xg = x_t W_ih^T + b_ih is the projected input, (B, G*H), and h is h_{t-1}, (B, P).
sigma is the logistic function, * between gates is elementwise, gates stand in torch.nn's order.
Of how many bfloat16 products each product of float32 is, `products` says; see products.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...ops import Weights
from .products import linear

# What a recurrence carries from step to step: (h,), for the LSTM (h, c); (B, P) and (B, H).
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Weights, int], State]


def rnn_tanh(xg: Tensor, state: State, weights: Weights, products: int = 6) -> State:
    """The state after one step of the Elman network.

    (1) h_t = tanh(xg + h W_hh^T + b_hh)
    """
    return (torch.tanh(xg + linear(state[0], weights.w_hh, weights.b_hh, products)),)


def rnn_relu(xg: Tensor, state: State, weights: Weights, products: int = 6) -> State:
    """The state after one step of the rectified Elman network.

    (1) h_t = relu(xg + h W_hh^T + b_hh)
    """
    return (torch.relu(xg + linear(state[0], weights.w_hh, weights.b_hh, products)),)


def gru(xg: Tensor, state: State, weights: Weights, products: int = 6) -> State:
    """The state after one step of the GRU of torch.nn and cuDNN, reset after the product.

    (1) r = sigma(xg_r + h W_hr^T + b_hr)
    (2) z = sigma(xg_z + h W_hz^T + b_hz)
    (3) q = h W_hn^T + b_hn
    (4) n = tanh(xg_n + r * q)
    (5) h_t = n + z * (h - n)

    b_hn stays inside q: the reset gate scales it, so it does not fold into the input bias.
    """
    (h,) = state
    x_r, x_z, x_n = xg.chunk(3, -1)
    h_r, h_z, q = linear(h, weights.w_hh, weights.b_hh, products).chunk(3, -1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * q)
    return (n + z * (h - n),)


def gru_reset_before(xg: Tensor, state: State, weights: Weights, products: int = 6) -> State:
    """The state after one step of the textbook GRU (Cho et al. 2014), reset before the product.

    (1) r = sigma(xg_r + h W_hr^T + b_hr)
    (2) z = sigma(xg_z + h W_hz^T + b_hz)
    (3) n = tanh(xg_n + (r * h) W_hn^T + b_hn)
    (4) h_t = n + z * (h - n)
    """
    (h,), w_hh, b_hh = state, weights.w_hh, weights.b_hh
    hidden = h.shape[-1]
    b_rz, b_n = (None, None) if b_hh is None else (b_hh[: 2 * hidden], b_hh[2 * hidden :])
    x_r, x_z, x_n = xg.chunk(3, -1)
    h_r, h_z = linear(h, w_hh[: 2 * hidden], b_rz, products).chunk(2, -1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + linear(r * h, w_hh[2 * hidden :], b_n, products))
    return (n + z * (h - n),)


def lstm(xg: Tensor, state: State, weights: Weights, products: int = 6) -> State:
    """The state after one step of the LSTM, with torch.nn's optional projection of the output.

    (1) i, f, o = sigma(xg_i,f,o + h W_hi,hf,ho^T + b_hi,hf,ho)
    (2) g = tanh(xg_g + h W_hg^T + b_hg)
    (3) c_t = f * c + i * g
    (4) h_t = o * tanh(c_t), or with a projection h_t = (o * tanh(c_t)) W_hr^T
    """
    h, c = state
    i, f, g, o = (xg + linear(h, weights.w_hh, weights.b_hh, products)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h if weights.w_hr is None else linear(h, weights.w_hr, None, products), c


STEPS: dict[str, Step] = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
    "lstm": lstm,
}
