# SPDX-License-Identifier: MIT
"""Schemas and fake kernels of the backends, and the layouts they all share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# G, in torch.nn's order: gru r z n, lstm i f g o.
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "gru_reset_before": 3, "lstm": 4}

# S: lstm i f g o c; gru r z n q with q = h W_hn^T + b_hn; the textbook gru r z n; a plain RNN
# reads all it needs from y.
_TAPE_SLOTS = {"rnn_tanh": 0, "rnn_relu": 0, "gru": 4, "gru_reset_before": 3, "lstm": 5}

COMPILED = ("native", "triton")
# Made of PyTorch's operations; see recomputed.py.
RECOMPUTED = ("torch", "reference")

# On the CPU x, y, resets and tape may be packed: (rows, ...) for (T, B, ...), with falling lengths.
# Tape and saved_y are for the backward pass, and empty without keep_tape. Saved_y is y again: the
# tensor y belongs to the caller, who may write to it.
_FORWARD = (
    "(Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, Tensor? lengths, Tensor? resets, "
    "str cell, int[] reverse, bool keep_tape, int products=6) "
    "-> (Tensor y, Tensor hn, Tensor cn, Tensor tape, Tensor saved_y)"
)
_BACKWARD = (
    "(Tensor? dy, Tensor? dhn, Tensor? dcn, Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, "
    "Tensor? lengths, Tensor? resets, Tensor y, Tensor tape, str cell, int[] reverse, "
    "bool need_dx, bool need_dstate, bool need_dweights, int products=6) "
    "-> (Tensor dx, Tensor dh0, Tensor dc0, Tensor[] dweights)"
)
# Without derivatives, on the CPU. Weights packed beforehand are one tensor of bytes.
_UNDERIVED = {
    "native_prepack": "(Tensor[] weights, str cell, int[] reverse) -> Tensor",
    "native_prepacked_forward": (
        "(Tensor x, Tensor? h0, Tensor? c0, Tensor prepacked, Tensor? lengths, Tensor? resets) "
        "-> (Tensor y, Tensor hn, Tensor? cn)"
    ),
    "native_prepacked_step": (
        "(Tensor x, Tensor? h0, Tensor? c0, Tensor prepacked) -> (Tensor hn, Tensor? cn)"
    ),
    # Weights of fewer bits: panels, with int8 scales and sums, then biases; see quantized.py.
    "native_stored_forward": (
        "(Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, Tensor? lengths, Tensor? resets, "
        "str cell, int[] reverse, int hidden, int output) -> (Tensor y, Tensor hn, Tensor? cn)"
    ),
    "native_prepack_linear": "(Tensor weight, Tensor? bias) -> Tensor",
    "native_prepacked_linear": "(Tensor x, Tensor prepacked, int columns) -> Tensor",
    "native_log_softmax": "(Tensor x) -> (Tensor log_probs, Tensor peaks)",
    "native_top": "(Tensor x, int k) -> (Tensor values, Tensor places)",
    "native_best": (
        "(Tensor logits, int k, Tensor? excluded) -> (Tensor values, Tensor places, Tensor peaks)"
    ),
    "native_advance": (
        "(Tensor values, Tensor places, Tensor peaks, Tensor live, Tensor(a!) counts, "
        "Tensor(b!) broken, Tensor(c!) tokens, Tensor(d!) parents, Tensor(e!) gains, "
        "Tensor(f!) ended, Tensor(g!) end_parents, Tensor(h!) end_gains, int step, int? eos, "
        "bool retire) -> (Tensor live, Tensor rows, Tensor last)"
    ),
    "native_outlive": (
        "(Tensor values, Tensor places, Tensor peaks, Tensor alive, Tensor reached, "
        "Tensor lengths, Tensor? limits, Tensor(a!) broken, int? eos) "
        "-> (Tensor alive, Tensor reached, Tensor lengths)"
    ),
}


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


def _define(backend: str) -> OpPair:
    """Both ops of `backend`, defined with their fakes; its library adds the kernels."""
    for kind, schema, fake in (
        ("forward", _FORWARD, _fake_without_tape if backend in RECOMPUTED else _fake_forward),
        ("backward", _BACKWARD, _fake_backward),
    ):
        name = f"fused_rnn::{backend}_{kind}"
        torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(name, fake)
    space = torch.ops.fused_rnn
    return OpPair(
        getattr(space, f"{backend}_forward").default, getattr(space, f"{backend}_backward").default
    )


def _define_copy() -> torch._ops.OpOverload:
    """A copy that compilers keep: of their own kind they leave some out, or make them too late."""
    name = "fused_rnn::copy"
    torch.library.define(name, "(Tensor x) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "CompositeExplicitAutograd", Tensor.clone)
    torch.library.register_autograd(name, lambda _, grad: grad)
    return torch.ops.fused_rnn.copy.default


copy = _define_copy()
PAIRS = {backend: _define(backend) for backend in (*COMPILED, *RECOMPUTED)}

for _name, _schema in _UNDERIVED.items():
    torch.library.define(f"fused_rnn::{_name}", _schema, tags=torch.Tag.pt2_compliant_tag)
torch.library.register_fake("fused_rnn::native_stored_forward", _fake_stored_forward)
prepack = torch.ops.fused_rnn.native_prepack.default
prepacked_forward = torch.ops.fused_rnn.native_prepacked_forward.default
prepacked_step = torch.ops.fused_rnn.native_prepacked_step.default
stored_forward = torch.ops.fused_rnn.native_stored_forward.default
prepack_linear = torch.ops.fused_rnn.native_prepack_linear.default
prepacked_linear = torch.ops.fused_rnn.native_prepacked_linear.default
log_softmax = torch.ops.fused_rnn.native_log_softmax.default
top = torch.ops.fused_rnn.native_top.default
best = torch.ops.fused_rnn.native_best.default
advance = torch.ops.fused_rnn.native_advance.default
outlive = torch.ops.fused_rnn.native_outlive.default
