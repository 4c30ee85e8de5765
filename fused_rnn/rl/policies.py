# SPDX-License-Identifier: MIT
"""Recurrent policies of sb3-contrib on fused layers: one call for a batch of episodes' pieces."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from ..nn.fuse import fuse


class FusedRecurrentPolicy:
    """A mixin that fuses the recurrent policy of sb3-contrib that is named behind it.

    `class Policy(FusedRecurrentPolicy, RecurrentActorCriticPolicy)`. Its LSTMs are fused, and
    sequences in which episodes start run in one call; sb3-contrib calls the LSTM for each step of
    such a batch. Saving, loading and `policy_kwargs` are sb3's own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The parameters, which the optimizer holds, stay the same objects.
        fuse(self)  # type: ignore[arg-type]

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: Any
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The LSTM's outputs and final states, as sb3-contrib asks for them.

        Args:
            features: rows of n_seq sequences of one length, (n_seq * T, I).
            lstm_states: h and c before the first step, (L, n_seq, H).
            episode_starts: 1 where a step begins an episode, else 0, (n_seq * T,).
            lstm: a fused LSTM.

        Returns:
            (n_seq * T, H) and the pair of final states.
        """
        sequences = lstm_states[0].shape[1]
        x = features.reshape((sequences, -1, lstm.input_size)).swapaxes(0, 1)
        starts = episode_starts.reshape((sequences, -1)).swapaxes(0, 1)
        # At the first step, where the buffer of RecurrentPPO puts all of them, they only cost the
        # state; resets would leave layers of PyTorch's, which have none.
        kept = (1.0 - starts[0]).view(1, sequences, 1)
        states = (kept * lstm_states[0], kept * lstm_states[1])
        later = starts != 0
        later[0] = False
        y, last = lstm(x, states, resets=later if later.any() else None)
        return y.transpose(0, 1).flatten(0, 1), last


@functools.cache
def policy(name: str) -> type:
    """The policy of sb3-contrib's by this name, on fused LSTMs."""
    from sb3_contrib.ppo_recurrent import policies

    doc = f"sb3-contrib's {name} on fused LSTMs; the same arguments, parameters and files."
    own = {"__doc__": doc, "__module__": __package__}
    return type(name, (FusedRecurrentPolicy, getattr(policies, name)), own)
