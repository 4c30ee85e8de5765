# SPDX-License-Identifier: MIT
"""The options of a layer by which it computes what torch.nn's does not."""

from typing import Any, NamedTuple


class Variety(NamedTuple):
    """The options of a layer; with the defaults it computes as torch.nn's. See `FusedLSTM`."""

    coupled: bool = False
    forget_bias: float | None = None  # a start, no part of what is computed
    block_diagonal: int = 1
    recurrent_dropout: float = 0.0
    recurrent_dropout_mode: str = "variational"
    layer_norm: bool = False
    layer_norm_eps: float = 1e-5
    zoneout: float = 0.0
    zoneout_cell: float = 0.0
    peephole: bool = False
    activation: str = "tanh"
    gate_activation: str = "sigmoid"
    clip: float | None = None

    def differing(self) -> list[tuple[str, Any]]:
        """The options that are not the default, with their values."""
        own = zip(self._fields, self, PLAIN, strict=True)
        return [(name, value) for name, value, plain in own if value != plain]

    def computing(self) -> list[tuple[str, Any]]:
        """Those of them that change results by themselves."""
        return [(name, value) for name, value in self.differing() if name not in _INERT]

    @property
    def drops_weights(self) -> float:
        """The probability with which recurrent weights are dropped in training."""
        return self.recurrent_dropout if self.recurrent_dropout_mode == "weights" else 0.0

    @property
    def drops(self) -> float:
        """The probability with which the state or the candidate is dropped in training."""
        return self.recurrent_dropout - self.drops_weights

    def has_own_cells(self, training: bool) -> bool:
        """Whether cells compute something else than torch.nn's from the same weights."""
        of_cells = any(name not in _OF_WEIGHTS for name, _ in self.computing())
        return of_cells or (training and self.drops > 0)

    def has_torchs_weights(self) -> bool:
        """Whether the parameters are those that torch.nn's layer has."""
        plain = self.block_diagonal == 1 and not self.coupled
        return plain and not (self.layer_norm or self.peephole)

    def weights(self, cell: str, bias: bool) -> tuple[str, ...]:
        """The weights of one recurrence in their order, by the names of `ops.CellInputs`."""
        names = ["w_ih", "w_hh", *(["b_ih", "b_hh"] if bias else [])]
        if self.layer_norm:
            names += ["x_scale", "h_scale", *(["c_scale", "c_bias"] if cell == "lstm" else [])]
        return (*names, *(["peephole"] if self.peephole else []))


class _Plain(Variety):
    """No options.

    A type of its own: of a named tuple that is compared with itself torch.compile guards type and
    length and no values (PyTorch 2.13), so that others would take the graph of plain layers.
    """


PLAIN: Variety = _Plain()
_INERT = ("forget_bias", "recurrent_dropout_mode", "layer_norm_eps")
# Those that plain cells can do, with other weights.
_OF_WEIGHTS = ("coupled", "block_diagonal", "recurrent_dropout")
