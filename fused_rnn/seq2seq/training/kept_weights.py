# SPDX-License-Identifier: MIT
"""Weights that a training keeps beside its newest ones, to end with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_Weights = dict[str, Tensor]


class KeptWeights:
    """The weights of the best look at what is held out, or those of the last few looks.

    Args:
        best: whether the best are kept.
        last: how many of the last looks are kept; if any, training ends with their mean.
    """

    def __init__(self, *, best: bool, last: int) -> None:
        self._keeps_best, self._count = best, last
        self._best: _Weights = {}
        self._last: list[_Weights] = []

    def note(self, module: nn.Module, *, is_best: bool) -> None:
        """Keeps the weights of a look, as far as they are wanted."""
        if self._count:
            self._last = [*self._last, _copied(module)][-self._count :]
        if self._keeps_best and is_best:
            self._best = _copied(module)

    def put_back(self, module: nn.Module) -> None:
        """Gives a module the weights to end with; its own stay if none were kept."""
        if self._last:
            names = self._last[0]
            means = {n: torch.stack([own[n] for own in self._last]).mean(0) for n in names}
            module.load_state_dict(means)
        elif self._best:
            module.load_state_dict(self._best)

    def tensors(self) -> dict[str, Tensor]:
        """Returns what is kept, by name."""
        found = {f"best.{name}": value for name, value in self._best.items()}
        for index, own in enumerate(self._last):
            found.update({f"last.{index}.{name}": value for name, value in own.items()})
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Keeps what another kept when it gave these."""
        self._best, last = {}, dict[int, _Weights]()
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "best":
                self._best[name] = value
            elif kind == "last":
                index, _, name = name.partition(".")
                last.setdefault(int(index), {})[name] = value
        self._last = [last[index] for index in sorted(last)]


def _copied(module: nn.Module) -> _Weights:
    return {name: value.clone() for name, value in module.state_dict().items()}
