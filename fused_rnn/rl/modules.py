# SPDX-License-Identifier: MIT
"""torchrl's LSTMModule and GRUModule on fused layers: one call for trajectories that end inside."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import dispatch
from torch import Tensor
from torchrl import modules as theirs

from ..nn.fuse import fuse
from ..nn.sequence_forms import SequenceForms

# Those of torchrl's backends in whose place one call of the fused layer runs.
_REPLACED = ("pad", "auto")


class _Fused:
    """A mixin that fuses the recurrent module of torchrl that is named behind it."""

    _layer: str  # the attribute that holds it
    in_keys: list[Any]
    out_keys: list[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The parameters stay the same objects.
        fuse(self)  # type: ignore[arg-type]

    @dispatch  # type: ignore[untyped-decorator]
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The tensordict with outputs and next states, as torchrl's own module sets them.

        Args:
            tensordict: a step of any batch shape, or in recurrent mode (..., T), with the keys
                `in_keys`. Pieces begin at the steps that `is_init` marks, with the states stored
                there. In recurrent mode the next states stand at each piece's last step, and
                zeros elsewhere.
        """
        layer: Any = getattr(self, self._layer)
        own = isinstance(layer, SequenceForms) and self.recurrent_backend in _REPLACED  # type: ignore[attr-defined]
        if not (own and self.recurrent_mode and tensordict.ndim):  # type: ignore[attr-defined]
            return super().forward(tensordict)  # type: ignore[misc]
        shape = tensordict.shape
        flat = tensordict.unsqueeze(0) if len(shape) == 1 else tensordict
        flat = flat.flatten(0, -2) if len(shape) > 2 else flat
        x, *keys = self.in_keys[:-1]
        given = [flat.get(key, None) for key in keys]
        if any(state is None for state in given):
            if any(state is not None for state in given):
                raise RuntimeError(f"{keys}: expected all of them or none in the tensordict")
            given = []
        # (B, T, L*D, H) is (T, L*D, B, H) to the layer.
        at_marks = [state.permute(1, 2, 0, 3) for state in given]
        marks = flat["is_init"].squeeze(-1).T
        y, ends = layer._run_trajectories(flat[x].transpose(0, 1), marks, at_marks)
        results: list[Tensor] = [y.transpose(0, 1), *(end.permute(2, 0, 1, 3) for end in ends)]
        for key, result in zip(self.out_keys, results, strict=True):
            flat.set(key, result)
        if flat is not tensordict:
            tensordict.update(flat.select(*self.out_keys).reshape(shape))
        return tensordict


class LSTMModule(_Fused, theirs.LSTMModule):
    """torchrl's LSTMModule on a fused LSTM; the same arguments, keys, parameters and modes.

    With `recurrent_backend` "pad" (torchrl's default) or "auto" trajectories that begin inside a
    batch run in one call of the fused layer; "scan" and "triton" stay torchrl's own.
    """

    _layer = "lstm"


class GRUModule(_Fused, theirs.GRUModule):
    """torchrl's GRUModule on a fused GRU; the same arguments, keys, parameters and modes.

    With `recurrent_backend` "pad" (torchrl's default) or "auto" trajectories that begin inside a
    batch run in one call of the fused layer; "scan" and "triton" stay torchrl's own.
    """

    _layer = "gru"
