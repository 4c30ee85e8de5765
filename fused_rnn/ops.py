# SPDX-License-Identifier: MIT
"""The ops of the backends, their fake kernels, and the layouts they all share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native, schemas  # noqa: F401  # native's library brings what it serves

# G, in torch.nn's order: gru r z n, lstm i f g o.
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "gru_reset_before": 3, "lstm": 4}

# S: lstm i f g o c; gru r z n q with q = h W_hn^T + b_hn; the textbook gru r z n; a plain RNN
# reads all it needs from y.
_TAPE_SLOTS = {"rnn_tanh": 0, "rnn_relu": 0, "gru": 4, "gru_reset_before": 3, "lstm": 5}

COMPILED = ("native", "triton")
# Made of PyTorch's operations; see recomputed.py.
RECOMPUTED = ("torch", "reference")


class LayerOutput(NamedTuple):
    """What one layer returns; `cn` is None for cells without a cell state."""

    y: Tensor  # (T, B, N, P)
    hn: Tensor  # (N, B, P)
    cn: Tensor | None  # (N, B, H)


class Weights(NamedTuple):
    """The weights of one recurrence, absent ones None."""

    w_ih: Tensor  # (G*H, I)
    w_hh: Tensor  # (G*H, P)
    b_ih: Tensor | None  # (G*H,)
    b_hh: Tensor | None  # (G*H,)
    w_hr: Tensor | None  # (P, H)


class Layout(NamedTuple):
    """What a flat list of weights says about its recurrences."""

    hidden: int
    output: int
    bias: bool
    projection: bool

    @property
    def per_recurrence(self) -> int:
        """How many tensors of the list one recurrence owns."""
        return 2 + 2 * self.bias + self.projection


class OpPair(NamedTuple):
    """The two ops of a backend."""

    forward: torch._ops.OpOverload
    backward: torch._ops.OpOverload


def layout(weights: Sequence[Tensor], cell: str) -> Layout:
    """Sizes and options of the recurrences whose weights begin the flat list `weights`."""
    w_hh = weights[1]
    hidden, output = w_hh.shape[0] // GATES[cell], w_hh.shape[1]
    bias = len(weights) > 2 and weights[2].dim() == 1
    # A projection is smaller than the hidden size it projects, in torch.nn as here.
    return Layout(hidden, output, bias, cell == "lstm" and output != hidden)


def split(weights: Sequence[Tensor], recurrences: int) -> list[Weights]:
    """The flat list of one layer's weights, parted by recurrence."""
    per = len(weights) // recurrences
    return [_named(weights[n * per : (n + 1) * per]) for n in range(recurrences)]


def _named(weights: Sequence[Tensor]) -> Weights:
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = rest[:2] if len(rest) >= 2 else (None, None)
    return Weights(w_ih, w_hh, b_ih, b_hh, rest[-1] if len(rest) % 2 else None)


def batch_size(x: Tensor, lengths: Tensor | None) -> int:
    """B of an x (T, B, I), or of packed rows (rows, I), which come with lengths."""
    return x.shape[1] if x.dim() == 3 or lengths is None else lengths.shape[0]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type states and sums are kept in: float32 for the half types."""
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def tape_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type of saved values: that of sums on the CPU, that of the input elsewhere."""
    return sum_dtype(dtype) if _keeps_sums(device) else dtype


def tape_slots(cell: str, dtype: torch.dtype, device: torch.device) -> int:
    """The values saved for each unit and step.

    On the CPU, cells whose gradients use h itself keep it, behind the others, where y is a rounded
    half type. Elsewhere they read it from y.
    """
    kept = _keeps_sums(device) and cell != "lstm" and dtype.itemsize == 2
    return _TAPE_SLOTS[cell] + kept


def _keeps_sums(device: torch.device) -> bool:
    return device.type in ("cpu", "meta")


def _fake_forward(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    reverse: list[int],
    keep_tape: bool,
    products: int = 6,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check_devices(x, h0, c0, *weights, lengths, resets)
    *rows, _ = x.shape
    batch, count = batch_size(x, lengths), len(reverse)
    hidden, output, _, _ = layout(weights, cell)
    slots = tape_slots(cell, x.dtype, x.device) if keep_tape else 0
    tape = (*rows, count, slots, hidden) if slots else (0,)
    y = (*rows, count, output)
    return (
        x.new_empty(y),
        x.new_empty((count, batch, output)),
        x.new_empty((count, batch, hidden) if cell == "lstm" else (0,)),
        x.new_empty(tape, dtype=tape_dtype(x.dtype, x.device)),
        x.new_empty(y if keep_tape else (0,)),
    )


def _fake_without_tape(*args: Any) -> tuple[Tensor, ...]:
    given = (*args[:8], False)
    y, hn, cn, *kept = _fake_forward(*given)
    return y, hn, cn, *(y.new_empty(0) for _ in kept)


def _check_devices(x: Tensor, *others: Tensor | None) -> None:
    for other in others:
        if other is not None and other.device != x.device:
            raise RuntimeError(f"expected all tensors on {x.device} as x is, got {other.device}")


def _fake_backward(
    dy: Tensor | None,
    dhn: Tensor | None,
    dcn: Tensor | None,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    y: Tensor,
    tape: Tensor,
    cell: str,
    reverse: list[int],
    need_dx: bool,
    need_dstate: bool,
    need_dweights: bool,
    products: int = 6,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    batch, count = batch_size(x, lengths), len(reverse)
    hidden, output, _, _ = layout(weights, cell)
    return (
        x.new_empty(x.shape if need_dx else (0,)),
        x.new_empty((count, batch, output) if need_dstate else (0,)),
        x.new_empty((count, batch, hidden) if need_dstate and cell == "lstm" else (0,)),
        [w.new_empty(w.shape) for w in weights] if need_dweights else [],
    )


def _fake_stored_forward(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    reverse: list[int],
    hidden: int,
    output: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    _check_devices(x, h0, c0, *weights, lengths, resets)
    *rows, _ = x.shape
    count = len(reverse)
    # A step has neither T nor N.
    states = (rows[0],) if len(rows) == 1 and lengths is None else (count, batch_size(x, lengths))
    return (
        x.new_empty((*rows, count * output)),
        x.new_empty((*states, output)),
        x.new_empty((*states, hidden)) if cell == "lstm" else None,
    )


def _define(name: str, schema: str) -> torch._ops.OpOverload:
    """The op, which the library of compiled ones brings if it was loaded."""
    space = torch.ops.fused_rnn
    if not hasattr(space, name):
        torch.library.define(f"fused_rnn::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
    return getattr(space, name).default


def _pair(backend: str) -> OpPair:
    """Both ops of a backend with their fakes; its own file or library adds the kernels."""
    fake = _fake_without_tape if backend in RECOMPUTED else _fake_forward
    pair = OpPair(
        _define(f"{backend}_forward", schemas.FORWARD),
        _define(f"{backend}_backward", schemas.BACKWARD),
    )
    torch.library.register_fake(pair.forward, fake)
    torch.library.register_fake(pair.backward, _fake_backward)
    return pair


_LOADED = hasattr(torch.ops.fused_rnn, "copy")
_COMPILED = {name: _define(name, schema) for name, schema in schemas.COMPILED.items()}
PAIRS = {backend: _pair(backend) for backend in (*COMPILED, *RECOMPUTED)}

copy = _COMPILED["copy"]
if not _LOADED:
    torch.library.impl("fused_rnn::copy", "CompositeExplicitAutograd", Tensor.clone)
torch.library.register_autograd(copy, lambda _, grad: grad)

prepack = _COMPILED["native_prepack"]
prepacked_forward = _COMPILED["native_prepacked_forward"]
prepacked_step = _COMPILED["native_prepacked_step"]
stored_forward = _COMPILED["native_stored_forward"]
torch.library.register_fake(stored_forward, _fake_stored_forward)
prepack_linear = _COMPILED["native_prepack_linear"]
prepacked_linear = _COMPILED["native_prepacked_linear"]
log_softmax = _COMPILED["native_log_softmax"]
top = _COMPILED["native_top"]
best = _COMPILED["native_best"]
advance = _COMPILED["native_advance"]
outlive = _COMPILED["native_outlive"]
