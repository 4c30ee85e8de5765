# SPDX-License-Identifier: MIT
"""FLOPs of the ops, as torch.utils.flop_counter counts them: two for each multiply-add.

They are those of all rows that an op is given. `lengths` makes no difference, as numbers that a
tensor holds make none elsewhere; packed input has no other rows than those that are there.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import (
    GATES,
    PAIRS,
    VARIED,
    batch_size,
    cells_backward,
    linear,
    outer,
    prepacked_forward,
    prepacked_linear,
    prepacked_step,
)

_COUNTER = "torch.utils.flop_counter"

# Where packed weights have the sizes of their layer, as csrc/cpu/ops_prepacked.cpp writes them:
# T B I H P N, and the cell by its number.
_SIZES = slice(64, 64 + 7 * 8)


def forward_flops(x: Tensor, weights: Sequence[Tensor], **_: object) -> int:
    """The FLOPs of a forward pass over a layer."""
    return 2 * _rows(x) * sum(w.numel() for w in weights if w.dim() == 2)


def backward_flops(
    x: Tensor,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    cell: str,
    reverse: Sequence[int],
    need_dx: bool,
    need_dstate: bool,
    need_dweights: bool,
    **_: object,
) -> int:
    """The FLOPs of a backward pass over a layer."""
    rows, count = _rows(x), len(reverse)
    w_ih, w_hh, *w_hr = (w.numel() for w in weights[: len(weights) // count] if w.dim() == 2)
    # What goes back to the state before the first step, which not all calls ask for.
    first = 0 if need_dstate else batch_size(x, lengths) * w_hh
    products = rows * (w_hh + sum(w_hr)) - first
    if cell == "gru_reset_before":
        # The reset gate's gradient takes a third of that all the same.
        products += first // GATES[cell]
    if need_dx:
        products += rows * w_ih
    if need_dweights:
        products += rows * (w_ih + w_hh + sum(w_hr))
    return 2 * count * products


def varied_forward_flops(x: Tensor, w_hh: Tensor, **_: object) -> int:
    """The FLOPs of the recurrences of a layer of cells with options."""
    return 2 * x.shape[:2].numel() * w_hh.numel()


def varied_backward_flops(x: Tensor, h0: Tensor | None, w_hh: Tensor, **_: object) -> int:
    """The FLOPs of their backward pass, but for the gradients of weights."""
    steps = x.shape[0] - (h0 is None)
    return 2 * steps * x.shape[1] * w_hh.numel()


def recomputed_backward_flops(x: Tensor, w_hh: Tensor, **given: Any) -> int:
    """The FLOPs of their backward pass with the gradients of weights."""
    return varied_backward_flops(x, given["h0"], w_hh) + varied_forward_flops(x, w_hh)


def prepacked_flops(x: Tensor, prepacked: Tensor, **_: object) -> int:
    """The FLOPs of a forward pass or a step over packed weights."""
    sizes: list[int] = prepacked[_SIZES].view(torch.int64).tolist()
    inputs, hidden, output, count, kinds = sizes[2:]
    gates = list(GATES.values())[kinds & 0xFF]
    projection = 0 if output == hidden else output
    return 2 * _rows(x) * count * hidden * (gates * (inputs + output) + projection)


def packed_linear_flops(x: Tensor, columns: int, **_: object) -> int:
    """The FLOPs of a linear map over packed weights."""
    return 2 * x.numel() * columns


def linear_flops(x: Tensor, w: Tensor, **_: object) -> int:
    """The FLOPs of a linear map."""
    return 2 * x.shape[0] * w.numel()


def outer_flops(a: Tensor, b: Tensor) -> int:
    """The FLOPs of sums of outer products."""
    return 2 * a.numel() * b.shape[2]


def _rows(x: Tensor) -> int:
    return x.shape[:-1].numel()


_FORMULAS: list[tuple[torch._ops.OpOverload, Callable[..., int]]] = [
    *((pair.forward, forward_flops) for pair in PAIRS.values()),
    *((pair.backward, backward_flops) for pair in PAIRS.values()),
    (cells_backward, backward_flops),
    *((pair.forward, varied_forward_flops) for pair in VARIED.values()),
    (VARIED["native"].backward, varied_backward_flops),
    (VARIED["reference"].backward, recomputed_backward_flops),
    (prepacked_forward, prepacked_flops),
    (prepacked_step, prepacked_flops),
    (prepacked_linear, packed_linear_flops),
    (linear, linear_flops),
    (outer, outer_flops),
]


def register() -> None:
    """Makes torch.utils.flop_counter count all ops that multiply matrices, once it is imported."""
    if _COUNTER in sys.modules:
        _add_formulas()
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """An import hook that adds the formulas once torch.utils.flop_counter is imported.

    To import it for them would cost a third of a second where it brings Triton, and a counter takes
    no formula that comes after it.
    """

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The spec of torch.utils.flop_counter, whose loader adds the formulas; else None."""
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_add(module: ModuleType) -> None:
                run(module)
                _add_formulas()

            spec.loader.exec_module = run_and_add  # type: ignore[method-assign]
        return spec


def _add_formulas() -> None:
    register_flop_formula = import_module(_COUNTER).register_flop_formula
    for op, formula in _FORMULAS:
        register_flop_formula(op._overloadpacket, get_raw=True)(_named(op, formula))


def _named(op: torch._ops.OpOverload, formula: Callable[..., int]) -> Callable[..., int]:
    """A formula that takes an op's arguments by name, as one that takes them by place."""
    names = [argument.name for argument in op._schema.arguments]

    def flops(*args: Any, out_val: object = None, **keywords: Any) -> int:
        named: dict[str, Any] = dict(zip(names, args, strict=False))
        return formula(**named, **keywords)

    return flops
