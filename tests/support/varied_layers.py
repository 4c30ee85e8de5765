# SPDX-License-Identifier: MIT
"""Layers with options of every kind, for the tests of what all of them promise."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn._call import varied
from fused_rnn.backends.reference.draws import draw
from fused_rnn.ops import CellInputs, CellOptions, CellOutput
from fused_rnn.testing import assert_within_budget

T, B, INPUT, H, HEADS = 7, 4, 5, 12, 3
VARIANTS = {
    "coupled": ("LSTM", {"coupled": True}),
    "heads": ("GRU", {"block_diagonal": HEADS, "reset_after": False}),
    "both": ("LSTM", {"coupled": True, "block_diagonal": 4, "bidirectional": True}),
    "no bias": ("LSTM", {"coupled": True, "block_diagonal": 2, "bias": False}),
    "projected": ("LSTM", {"coupled": True, "proj_size": 3}),
    "dropped": ("RNN", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "weights"}),
    "normalised": ("LSTM", {"layer_norm": True}),
    "normalised heads": ("GRU", {"layer_norm": True, "block_diagonal": 2, "num_layers": 2}),
    "normalised, coupled": ("LSTM", {"layer_norm": True, "coupled": True, "bias": False}),
    "normalised RNN": ("RNN", {"layer_norm": True, "direction": "reverse"}),
    "held": ("LSTM", {"zoneout": 0.3, "zoneout_cell": 0.2, "num_layers": 2}),
    "held GRU": ("GRU", {"zoneout": 0.3, "bidirectional": True}),
    "state dropped": ("LSTM", {"recurrent_dropout": 0.4}),
    "candidate dropped": ("GRU", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "update"}),
    "peepholes": ("LSTM", {"peephole": True, "coupled": True, "block_diagonal": 3}),
    "hard gates": ("GRU", {"gate_activation": "hard_sigmoid", "activation": "relu"}),
    "clipped": ("LSTM", {"clip": 0.3, "peephole": True, "coupled": True, "num_layers": 2}),
    "clipped GRU": ("GRU", {"clip": 0.3, "bidirectional": True}),
    "clipped RNN": ("RNN", {"clip": 0.3, "direction": "reverse"}),
    "all": (
        "LSTM",
        {
            "layer_norm": True,
            "clip": 1.5,
            "zoneout": 0.2,
            "zoneout_cell": 0.1,
            "recurrent_dropout": 0.3,
            "recurrent_dropout_mode": "update",
            "peephole": True,
            "gate_activation": "hard_sigmoid",
            "bidirectional": True,
        },
    ),
}
# Those that draw random numbers in training.
RANDOM = ("dropped", "held", "held GRU", "state dropped", "candidate dropped", "all")
# Those that compute in evaluation what torch.nn's layers do.
PLAIN = ("dropped", "state dropped", "candidate dropped")


def make(name: str, backend: str = "auto", **more: Any) -> Any:
    kind, options = VARIANTS[name]
    return getattr(fused_rnn, f"Fused{kind}")(INPUT, H, backend=backend, **options, **more)


def agree(found: Any, truth: Any, reference: Any, **note: Any) -> None:
    for actual, expected, other in zip(found, truth, reference, strict=True):
        assert_within_budget(actual, expected, other, **note)


def gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """Of random cotangents, the same for the same shapes in every type."""
    torch.manual_seed(3)
    cotangents = [torch.randn(y.shape, dtype=torch.float64).to(y.dtype) for y in outputs]
    return list(torch.autograd.grad(outputs, leaves, cotangents))


def with_gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    return [*outputs, *gradients(outputs, leaves)]


def noted_masks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Takes the masks of each call, by their names."""
    found: dict[str, Tensor] = {}
    run = varied._run_cells

    def noted(how: Any, options: CellOptions, given: CellInputs) -> CellOutput:
        masks = draw(options, given)._asdict()
        found.clear()
        found.update({name: mask for name, mask in masks.items() if mask is not None})
        return run(how, options, given)

    monkeypatch.setattr(varied, "_run_cells", noted)
    return found
