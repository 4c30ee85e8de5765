# SPDX-License-Identifier: MIT
"""The ops of the backends, and the layouts of weights and results that they all share."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import extensions  # noqa: F401  # native's library brings what it serves
from . import fakes, schemas, varied
from .shapes import LayerOutput, batch_size, contiguous, sum_dtype, tape_dtype, tape_slots
from .varied import CELL_STATES, CellInputs, CellOptions, CellOutput
from .weights import GATES, Layout, Weights, layout, split

__all__ = [
    "CELL_STATES",
    "COMPILED",
    "CellInputs",
    "CellOptions",
    "CellOutput",
    "GATES",
    "LayerOutput",
    "Layout",
    "OpPair",
    "PAIRS",
    "RECOMPUTED",
    "VARIED",
    "Weights",
    "advance",
    "batch_size",
    "best",
    "cells_backward",
    "contiguous",
    "copy",
    "layout",
    "linear",
    "log_softmax",
    "outer",
    "outlive",
    "prepack",
    "prepack_linear",
    "prepacked_forward",
    "prepacked_linear",
    "prepacked_step",
    "split",
    "stored_forward",
    "sum_dtype",
    "tape_dtype",
    "tape_slots",
    "top",
]

COMPILED = ("native", "triton")
# Made of PyTorch's operations; see recomputed.py.
RECOMPUTED = ("torch", "reference")


class OpPair(NamedTuple):
    """The two ops of a backend."""

    forward: torch._ops.OpOverload
    backward: torch._ops.OpOverload


def _define(name: str, schema: str) -> torch._ops.OpOverload:
    """The op of that name, which the library of compiled ops brings if it was loaded."""
    space = torch.ops.fused_rnn
    if not hasattr(space, name):
        torch.library.define(f"fused_rnn::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
    return getattr(space, name).default


def _pair(backend: str) -> OpPair:
    """Both ops of a backend with their fakes; its own file or library adds the kernels."""
    fake = fakes.forward_without_tape if backend in RECOMPUTED else fakes.forward
    pair = OpPair(
        _define(f"{backend}_forward", schemas.FORWARD),
        _define(f"{backend}_backward", schemas.BACKWARD),
    )
    torch.library.register_fake(pair.forward, fake)
    torch.library.register_fake(pair.backward, fakes.backward)
    return pair


_LOADED = hasattr(torch.ops.fused_rnn, "copy")
_COMPILED = {name: _define(name, schema) for name, schema in schemas.COMPILED.items()}
PAIRS = {backend: _pair(backend) for backend in (*COMPILED, *RECOMPUTED)}

# Of cells with options.
VARIED = {
    "native": OpPair(_COMPILED["native_varied_forward"], _COMPILED["native_varied_backward"]),
    "reference": OpPair(
        _define("reference_varied_forward", schemas.VARIED_FORWARD),
        _define("reference_varied_backward", schemas.VARIED_BACKWARD),
    ),
}
torch.library.register_fake(VARIED["native"].forward, varied.forward_fake)
torch.library.register_fake(VARIED["native"].backward, varied.backward_fake)
torch.library.register_fake(VARIED["reference"].forward, varied.forward_fake_without_tape)
torch.library.register_fake(VARIED["reference"].backward, varied.backward_fake_without_tape)

copy = _COMPILED["copy"]
if not _LOADED:
    torch.library.impl("fused_rnn::copy", "CompositeExplicitAutograd", Tensor.clone)
torch.library.register_autograd(copy, lambda _, grad: grad)

cells_backward = _COMPILED["native_cells_backward"]
torch.library.register_fake(cells_backward, fakes.cells_backward)
prepack = _COMPILED["native_prepack"]
prepacked_forward = _COMPILED["native_prepacked_forward"]
prepacked_step = _COMPILED["native_prepacked_step"]
stored_forward = _COMPILED["native_stored_forward"]
torch.library.register_fake(stored_forward, fakes.stored_forward)
prepack_linear = _COMPILED["native_prepack_linear"]
prepacked_linear = _COMPILED["native_prepacked_linear"]
linear = _COMPILED["native_linear"]
outer = _COMPILED["native_outer"]
torch.library.register_fake(linear, fakes.linear)
torch.library.register_fake(outer, fakes.outer)
log_softmax = _COMPILED["native_log_softmax"]
top = _COMPILED["native_top"]
best = _COMPILED["native_best"]
advance = _COMPILED["native_advance"]
outlive = _COMPILED["native_outlive"]
