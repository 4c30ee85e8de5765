# SPDX-License-Identifier: MIT
"""FusedSLSTM: the LSTM with exponential gates."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._call import autocast, validation
from .._call.arguments import Arguments, Lengths, States
from .._call.pieces import Passed
from .._call.varied import varied_stack
from .._call.variety import PLAIN
from ..backends import choice
from ..ops import LayerOutput
from .sequence_forms import SequenceForms
from .variants import by_head, check_heads, parted


class FusedSLSTM(SequenceForms):
    """The sLSTM of Beck et al. (2024, "xLSTM", equations 8 to 17) in whole sequences.

    Its gate to write is not held to 0..1, i = exp(i~), and the output shows c over n, the sum of
    what was written. Both are kept in units of exp(m), so that nothing overflows: h does not depend
    on m. Gates have the order i f z o.

        m_t = max(m + log sigma(f~), i~), or i~ where nothing has been written
        c_t = f * c + i * tanh(z~), n_t = f * n + i
        h_t = sigma(o~) * c_t / n_t

    The paper's layer has other things around it (a convolution, norms), which are the caller's.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as torch.nn.LSTM has them.
        direction: "reverse" walks from each row's last step to its first.
        block_diagonal: number of heads, each with units of its own that see no other head's state.
        backend: "native" or "reference" runs there or raises; "auto" takes the first that can.

    Parameters of layer k, with the suffix _reverse of the other direction, are weight_ih_lk
    (4*H, I), weight_hh_lk (4*H, H/heads), bias_ih_lk and bias_hh_lk (4*H,), uniform in
    -1/sqrt(H)..1/sqrt(H) at first.

    Raises:
        ValueError: a size, a probability or a name is out of its range.
    """

    _kind = "SLSTM"
    proj_size = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        direction: str = "forward",
        block_diagonal: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: expected an integer from 1, got {size!r}")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a number in 0..1, got {dropout!r}")
        check_heads(block_diagonal, hidden_size)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional = bidirectional
        self.direction = self._check_direction(direction)
        self.block_diagonal = block_diagonal
        self.backend = choice.check_name(backend)
        self._names: list[str] = []
        rows, directions = 4 * hidden_size, len(self._reverse())
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else directions * hidden_size
            shapes = {
                "weight_ih": (rows, inputs),
                "weight_hh": (rows, hidden_size // block_diagonal),
            }
            vectors = {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
            for end in ("", "_reverse")[:directions]:
                for name, shape in (shapes | vectors).items():
                    value = torch.empty(shape, device=device, dtype=dtype)
                    self.register_parameter(f"{name}_l{layer}{end}", nn.Parameter(value))
                    self._names.append(f"{name}_l{layer}{end}")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(  # type: ignore[override]
        self, input: Any, hx: Any = None, *, lengths: Lengths = None, resets: Tensor | None = None
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """The outputs of all steps, and the final states h, c, n and m.

        Args:
            input: (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched, or packed.
            hx: initial states h, c, n and m, (L*D, B, H) each, without B for unbatched input. None
                is zeros.
            lengths: steps of each row, (B,) integers in 0..T in any order. None is T for all.
            resets: bool marks in the layout of the input's steps, before which a row is cut.

        Raises:
            ValueError: as torch.nn raises it, and for lengths or resets that do not fit.
            RuntimeError: as torch.nn raises it, or a backend asked for by name cannot run this.
        """
        y, (hn, cells) = super().forward(input, hx, lengths=lengths, resets=resets)
        return y, (hn, *cells.chunk(3, -1))

    def _weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]

    def _states(self, hx: Any) -> States:
        if len(hx) != 4:
            raise RuntimeError(f"slstm expects four hidden states, got {len(hx)}")
        h, *cells = hx
        for name, cell in zip("cnm", cells, strict=True):
            if cell.shape != h.shape:
                raise RuntimeError(
                    f"{name}: expected the shape of h, {tuple(h.shape)}, got {tuple(cell.shape)}"
                )
        return h, torch.cat(cells, -1)

    def _state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        rows = self.num_layers * len(self._reverse())
        return (rows, batch, self.hidden_size), (rows, batch, 3 * self.hidden_size)

    def _run_layers(
        self, given: Arguments, weights: list[Tensor], kept: list[Passed] | None = None
    ) -> LayerOutput:
        x, states = given.x, given.states
        lowered = autocast.lowered(x, states, weights)
        if lowered is not None:
            with torch.autocast(x.device.type, enabled=False):
                given = given.with_tensors(lowered.x, lowered.states)
                return self._run_layers(given, lowered.weights, kept)
        validation.check_sequence(x, weights[0], self.input_size)
        validation.check_devices(weights, x)
        validation.check_state_sizes(states, self._state_shapes(given.batch))
        for state in states:
            validation.check_state_like(state, x)
        heads, hidden = self.block_diagonal, self.hidden_size
        rows = (4 * hidden, self.input_size), (4 * hidden, hidden // heads)
        validation.check_first_weights(weights, *rows)
        per = 2 + 2 * self.bias
        own = [
            weight
            for at in range(0, len(weights), per)
            for weight in by_head(weights[at : at + per], heads, hidden)
        ]
        if states:
            h, cells = states
            parts = cells.unflatten(-1, (3, heads, -1)).movedim(3, 1).flatten(3).flatten(0, 1)
            given = given.with_tensors(x, (parted(h, heads), parts))
        y, hn, cn = varied_stack(
            given,
            own,
            PLAIN,
            cell="slstm",
            reverse=tuple(backward for backward in self._reverse() for _ in range(heads)),
            bias=self.bias,
            dropout=self.dropout,
            training=self.training,
            backend=self.backend,
            kept=kept,
        )
        if cn is None:
            raise RuntimeError("slstm: expected states c, n and m, got none")
        hn = hn.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
        cn = cn.unflatten(0, (-1, heads)).unflatten(-1, (3, -1)).movedim(1, 3).flatten(2)
        return LayerOutput(y, hn, cn)

    def extra_repr(self) -> str:
        """The sizes, and the options that are not the default."""
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "direction": "forward",
            "block_diagonal": 1,
            "backend": "auto",
        }
        own = {name: getattr(self, name) for name in defaults}
        text = "".join(f", {name}={own[name]!r}" for name in own if own[name] != defaults[name])
        return f"{self.input_size}, {self.hidden_size}{text}"
