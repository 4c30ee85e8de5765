# SPDX-License-Identifier: MIT
"""One direction's weights in torch.nn's form, and the fused layers made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..nn.fused_layer import FusedLayer

L = TypeVar("L", bound=FusedLayer)


class Recurrence(NamedTuple):
    """The weights of one direction, their gates in torch.nn's order."""

    w_ih: Tensor  # (G*H, I)
    w_hh: Tensor  # (G*H, H)
    b_ih: Tensor | None  # (G*H,); None is zeros
    b_hh: Tensor | None
    peephole: Tensor | None = None  # (3*H,) of i f o, coupled (2*H,) of i o


def tensor(array: Any) -> Tensor:
    """The numbers of a framework's array, on the CPU, in memory of their own."""
    if isinstance(array, Tensor):
        return array.detach().cpu().clone()
    import numpy

    numbers = numpy.array(array)
    if numbers.dtype.name == "bfloat16":  # which torch.from_numpy does not know
        return torch.from_numpy(numbers.astype(numpy.float32)).bfloat16()
    return torch.from_numpy(numbers)


def gates(weight: Tensor, order: Sequence[int]) -> Tensor:
    """The blocks of rows of a weight in another order, that of torch.nn's gates.

    The last block is in the order; others that are not are left out.
    """
    blocks = weight.chunk(max(order) + 1)
    return torch.cat([blocks[at] for at in order])


def layer_of(
    cls: type[L],
    recurrences: Sequence[Recurrence],
    *,
    reverse: bool = False,
    batch_first: bool,
    **options: Any,
) -> L:
    """The layer, in evaluation mode, of one direction, or of forward and reverse side by side."""
    first = recurrences[0]
    made = torch.nn.utils.skip_init(
        cls,
        first.w_ih.size(1),
        first.w_hh.size(1),
        bias=any(bias is not None for r in recurrences for bias in (r.b_ih, r.b_hh)),
        batch_first=batch_first,
        bidirectional=len(recurrences) == 2,
        direction="reverse" if reverse else "forward",
        device="cpu",
        dtype=first.w_ih.dtype,
        **options,
    )
    own = dict(made.named_parameters())
    with torch.no_grad():
        for recurrence, end in zip(recurrences, ("", "_reverse"), strict=False):
            for name, value in zip(_NAMES, recurrence, strict=True):
                if f"{name}_l0{end}" in own:
                    own[f"{name}_l0{end}"].copy_(torch.zeros(()) if value is None else value)
    return made.eval()


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole")


def refuse(name: str, expected: object, got: object) -> ValueError:
    """The error for what no fused layer can express."""
    return ValueError(f"{name}: expected {expected}, which fused layers compute, got {got}")
