# SPDX-License-Identifier: MIT
"""The linear layer behind a recurrence, where steps come one at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import prepack_linear, prepacked_linear
from .prepacking import Prepackable


class Linear(Prepackable, nn.Linear):
    """torch.nn.Linear, which can take weights packed beforehand; see `fused_rnn.prepacked`."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns `input` (..., I) times the weights, with the bias: (..., O)."""
        # Looked up first: computed weights cost an evaluation, and are never held.
        packs = None if self._held() is None else self._packs(self._weights(), input)
        if packs is None or not self._fits(input):
            return super().forward(input)
        rows = input.reshape(-1, self.in_features).contiguous()
        y = prepacked_linear(rows, packs[0], self.out_features)
        return y.view(*input.shape[:-1], self.out_features)

    def _fits(self, input: Tensor) -> bool:
        """Whether the kernel takes an input; torch.nn tells what is wrong with the others."""
        weight = self.weight
        same = input.dtype == weight.dtype and input.device == weight.device
        right = input.dim() > 0 and input.size(-1) == self.in_features
        return same and right and not torch._C._is_any_autocast_enabled()

    def _weights(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def _prepack(self, weights: Sequence[Tensor]) -> list[Tensor]:
        bias = None if self.bias is None else weights[1]
        return [prepack_linear(weights[0], bias)]
