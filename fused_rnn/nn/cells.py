# SPDX-License-Identifier: MIT
"""FusedRNNCell, FusedGRUCell and FusedLSTMCell: single steps, on the layers' own kernels."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function_variadic

from .._call import autocast, per_sample, torch_function, validation
from .._call.arguments import Arguments
from .._call.dispatch import run_layer
from .._call.per_sample import Watchable
from ..backends import choice
from ..backends.backend import query_of
from ..ops import contiguous, prepack, prepacked_step
from .conversion.convertible import Convertible
from .prepacking import Prepackable

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class FusedCell(Convertible, Prepackable, Watchable, nn.RNNCellBase):
    """The base of the three cells; parameters and their first values come from nn.RNNCellBase."""

    _kind: ClassVar[str]
    _gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: Any,
        dtype: torch.dtype | None,
        backend: str,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, self._gates, device=device, dtype=dtype)
        self.backend = choice.check_name(backend)

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        return self._kind.removesuffix("Cell").lower()

    def _step(self, input: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The new states, (h,) or (h, c), of rows, (B, I), or of a single one, (I,)."""
        validation.check_cell_dims(self._kind, input, states)
        if input.dim() == 2:
            return self._run_step(input, states, self._weights())
        states = [state.unsqueeze(0) for state in states]
        states = self._run_step(input.unsqueeze(0), states, self._weights())
        return tuple(state.squeeze(0) for state in states)

    def _run_step(
        self, x: Tensor, states: Sequence[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        if self._watchers or has_torch_function_variadic(x, *states, *weights):
            found = self._run_asked(x, states, weights)
            if found is not None:
                return found
        return self._run_plain(x, states, weights)

    def _run_asked(
        self, x: Tensor, states: Sequence[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...] | None:
        """The new states for what only acts as a tensor, or where each row's gradients are asked.

        None where neither is so.
        """
        if not all(isinstance(t, Tensor) for t in (x, *states, *weights)):
            torch_function.check((x, *states, *weights), self._cell())
            return torch_function.foreign_step(self._cell(), x, states, weights, self.hidden_size)
        batch = x.size(0)
        rows = per_sample.expanded(weights, batch, None, packed=False)
        rows = rows or self._watched(weights, batch, None, x)
        if rows is None:
            return None

        def one_row(x: Tensor, states: list[Tensor], weights: list[Tensor], *_: None) -> Any:
            return self._run_plain(x, states, weights)

        return tuple(per_sample.by_row(one_row, 0, rows, x, states))

    def _run_plain(
        self, x: Tensor, states: Sequence[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        lowered = autocast.lowered(x, states, weights)
        if lowered is not None:
            with torch.autocast(x.device.type, enabled=False):
                return self._run_plain(*lowered)
        validation.check_cell(x, states, weights, self.hidden_size)
        h0, c0 = (*states, None, None)[:2]
        packs = self._packs(weights, x, *states)
        if packs is not None:
            self._explain_packed()
            hn, cn = prepacked_step(*contiguous(x, h0, c0), packs[0])
            return (hn,) if cn is None else (hn, cn)
        cell = self._cell()
        query = query_of(cell, x, self.hidden_size)
        backend = choice.BACKENDS[choice.choose(query, self.backend)]
        # A layer of one direction and one step.
        given = Arguments(
            x.unsqueeze(0),
            None if h0 is None else h0.unsqueeze(0),
            None if c0 is None else c0.unsqueeze(0),
            None,
            None,
        )
        _, hn, cn = run_layer(given, weights, cell=cell, reverse=(0,), backend=backend)
        return (hn.squeeze(0),) if cn is None else (hn.squeeze(0), cn.squeeze(0))

    def _prepack(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return [prepack(weights, self._cell(), (0,))]

    def _weights(self) -> list[Tensor]:
        weights: list[Any]
        parameters = self._parameters
        try:
            weights = [parameters[name] for name in _NAMES]
        except KeyError:
            # Some are parametrized, or plain tensors: replicas, weight drop, weight_norm.
            weights = [getattr(self, name) for name in _NAMES]
        validation.check_present(weights[:2], _NAMES)
        b_ih, b_hh = weights[2:]
        if b_ih is None and b_hh is None:
            return weights[:2]
        if b_ih is None:
            weights[2] = torch.zeros_like(b_hh)
        elif b_hh is None:
            weights[3] = torch.zeros_like(b_ih)
        return weights


class FusedRNNCell(FusedCell):
    """torch.nn.RNNCell on fused kernels; arguments, parameters, results and errors are its own.

    Args:
        backend: "native", "triton", "torch" or "reference" runs there or raises; "auto" takes
            what `fused_rnn.use_backend` names, else the fastest that can.
    """

    _kind = "RNNCell"
    _gates = 1
    _torch_class = nn.RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, backend)
        self.nonlinearity = nonlinearity

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return f"rnn_{self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state, (B, H) or (H,).

        Args:
            input: (B, I), or (I,) unbatched.
            hx: state, (B, H), or (H,) unbatched. None is zeros.
        """
        return self._step(input, () if hx is None else (hx,))[0]


class FusedGRUCell(FusedCell):
    """torch.nn.GRUCell on fused kernels; arguments, parameters, results and errors are its own.

    Args:
        reset_after: False resets the state before the product, as Cho et al. (2014) have it:
            another model under the same parameter names, which torch.nn cannot run.
        backend: "native", "triton", "torch" or "reference" runs there or raises; "auto" takes
            what `fused_rnn.use_backend` names, else the fastest that can.
    """

    _kind = "GRUCell"
    _gates = 3
    _torch_class = nn.GRUCell
    _own_attributes: ClassVar[tuple[str, ...]] = ("backend", "reset_after")
    reset_after = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, backend)
        self.reset_after = reset_after

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        return "gru" if self.reset_after else "gru_reset_before"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state, (B, H) or (H,).

        Args:
            input: (B, I), or (I,) unbatched.
            hx: state, (B, H), or (H,) unbatched. None is zeros.
        """
        return self._step(input, () if hx is None else (hx,))[0]


class FusedLSTMCell(FusedCell):
    """torch.nn.LSTMCell on fused kernels; arguments, parameters, results and errors are its own.

    Args:
        backend: "native", "triton", "torch" or "reference" runs there or raises; "auto" takes
            what `fused_rnn.use_backend` names, else the fastest that can.
    """

    _kind = "LSTMCell"
    _gates = 4
    _torch_class = nn.LSTMCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, backend)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The next state and cell, each (B, H) or (H,).

        Args:
            input: (B, I), or (I,) unbatched.
            hx: pair of state and cell, each (B, H), or (H,) unbatched. None is zeros.
        """
        if isinstance(hx, Tensor):
            raise TypeError("hx: expected a pair of tensors, got Tensor")
        if hx is not None and len(hx) != 2:
            raise RuntimeError("lstm_cell expects two hidden states")
        h, c = self._step(input, () if hx is None else hx)
        return h, c
