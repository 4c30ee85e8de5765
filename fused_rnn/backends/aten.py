# SPDX-License-Identifier: MIT
"""PyTorch's own recurrent layers (cuDNN, oneDNN or its C++ loops) as a backend."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import _VF, Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..ops import LayerOutput, layout
from .backend import Backend, Query

FUNCTIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "rnn_tanh": _VF.rnn_tanh,
    "rnn_relu": _VF.rnn_relu,
    "gru": _VF.gru,
    "lstm": _VF.lstm,
}


class _Call(NamedTuple):
    """The arguments of PyTorch's function that padded and packed input share."""

    cell: str
    weights: list[Tensor]
    bias: bool
    bidirectional: bool
    layers: int

    def results(
        self, leading: list[Tensor], states: list[Tensor], *batch_first: bool
    ) -> list[Tensor]:
        """Outputs and final states; `leading` is the input, or packed data and its batch sizes."""
        hx = states[0] if len(states) == 1 else tuple(states)
        # Without dropout; in training mode, so that cuDNN keeps what its gradient needs.
        options = (self.bias, self.layers, 0.0, torch.is_grad_enabled(), self.bidirectional)
        return list(FUNCTIONS[self.cell](*leading, hx, self.weights, *options, *batch_first))


def aten_layers(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    *,
    cell: str,
    reverse: Sequence[int],
    layers: int = 1,
) -> LayerOutput:
    """The outputs and final states of one or both directions; arguments as in the reference.

    Those of several layers, one upon the other, are of the last and of all: cuDNN works at some of
    them side by side.
    """
    out, inner = x.dtype, x.dtype
    if x.device.type == "cpu" and out in (torch.bfloat16, torch.float16):
        # PyTorch would keep the state itself in the half type, and oneDNN may refuse it.
        inner = torch.float32
    sizes, count, batch = layout(weights, cell), len(reverse), x.shape[1]
    x = x.to(inner)
    rows = layers * count
    states = [x.new_zeros(rows, batch, sizes.output) if h0 is None else h0.to(inner)]
    if cell == "lstm":
        states.append(x.new_zeros(rows, batch, sizes.hidden) if c0 is None else c0.to(inner))
    # cuDNN refuses other states.
    states = [state.contiguous() for state in states]
    call = _Call(cell, [w.to(inner) for w in weights], sizes.bias, count == 2, layers)
    # Packing refuses a batch of no rows, and no row has a length.
    if lengths is None or batch == 0:
        y, *last = call.results([x], states, False)
    else:
        y, *last = _ragged(call, x, states, lengths)
    y = y.unflatten(2, (count, sizes.output)).to(out)
    return LayerOutput(y, last[0].to(out), last[1].to(out) if len(last) == 2 else None)


def _ragged(call: _Call, x: Tensor, states: list[Tensor], lengths: Tensor) -> list[Tensor]:
    """Results for rows of unlike length, packed; PyTorch asks for their lengths on the host."""
    # Packing refuses empty rows: they take one step of zeros, which is thrown away.
    some = (lengths > 0).unsqueeze(1)
    x = torch.where(some, x, 0)
    shown = lengths.clamp(1, x.shape[0])
    order = shown.argsort(descending=True, stable=True)
    back = order.argsort()
    packed = pack_padded_sequence(x.index_select(1, order), shown[order].cpu())
    data, *last = call.results(
        [packed.data, packed.batch_sizes], [state.index_select(1, order) for state in states]
    )
    y, _ = pad_packed_sequence(PackedSequence(data, packed.batch_sizes), total_length=x.shape[0])
    y, *final = (t.index_select(1, back) for t in (y, *last))
    kept = [torch.where(some, new, old) for new, old in zip(final, states, strict=True)]
    return [torch.where(some, y, 0), *kept]


def _layer(*given: Any, cell: str, reverse: Sequence[int], products: int) -> LayerOutput:
    # It has no resets, and its products are PyTorch's affair.
    return aten_layers(*given[:-1], cell=cell, reverse=reverse)


def _why_not(query: Query) -> str | None:
    if query.varied:
        return "PyTorch's layers have no cells with options"
    if query.cell == "gru_reset_before":
        return "PyTorch has no GRU with the reset gate before the product"
    if query.resets:
        return "PyTorch has no resets inside a sequence"
    if query.reverse not in ((0,), (0, 1)):
        return f"PyTorch runs one forward recurrence or both directions, not {query.reverse}"
    if query.dtype.is_floating_point and query.dtype.itemsize == 1:
        return f"PyTorch has no layer that computes in {query.dtype}"
    return None


TORCH = Backend("torch", _why_not, run=_layer, run_stack=aten_layers)
