# SPDX-License-Identifier: MIT
"""FusedRNN, FusedGRU and FusedLSTM: torch.nn's layers on this package's kernels."""

from typing import Any, ClassVar

import torch
from torch import nn

from .._call.arguments import States
from .fused_layer import FusedLayer

# The options that all three take.
_OF_ALL = (
    *("block_diagonal", "recurrent_dropout", "recurrent_dropout_mode"),
    *("layer_norm", "layer_norm_eps", "zoneout", "clip"),
)


class FusedRNN(FusedLayer):
    """torch.nn.RNN on fused kernels: h_t = act(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh).

    Arguments, parameters, results and errors are torch.nn.RNN's; see there. In addition:

    Args:
        direction: "reverse" walks from each row's last step to its first, as the second half of a
            bidirectional layer does; outputs stand at their inputs' steps. torch.nn has no such
            layer.
        block_diagonal: number of heads, each with units of its own that see no other head's state:
            weight_hh is (G*H, H/heads) (`variants`).
        recurrent_dropout: probability of dropout within the recurrence, in training.
        recurrent_dropout_mode: "variational" drops of the state that the product takes, one mask a
            row and sequence, and after a mark a new one (Gal and Ghahramani 2016); "weights" drops
            recurrent weights, one mask a call (Merity et al. 2018). A plain RNN has no "update".
        layer_norm: whether each gate's input part and recurrent part are normalised over its units,
            before biases are added, with parameters weight_ln_ih and weight_ln_hh (Ba et al. 2016,
            who normalise all gates together).
        layer_norm_eps: what is added to the variance.
        zoneout: probability with which a unit's h stays what it was: by a mask in training, else in
            expectation (Krueger et al. 2017).
        clip: positive bound of what is activated, biases included, to -clip..clip, as ONNX has it;
            gradients as torch.clamp has them. None is no bound.
        backend: "native", "triton", "torch" or "reference" runs there or raises; "auto" takes
            what `fused_rnn.use_backend` names, else the fastest that can.
    """

    _kind = "RNN"
    _torch_class = nn.RNN
    _varieties = _OF_ALL
    _modes = ("variational", "weights")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        direction: str = "forward",
        block_diagonal: int = 1,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_mode: str = "variational",
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        zoneout: float = 0.0,
        clip: float | None = None,
        backend: str = "auto",
        proj_size: None = None,
    ) -> None:
        _refuse_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        options = (num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype)
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(
            mode,
            input_size,
            hidden_size,
            *options,
            direction=direction,
            block_diagonal=block_diagonal,
            recurrent_dropout=recurrent_dropout,
            recurrent_dropout_mode=recurrent_dropout_mode,
            layer_norm=layer_norm,
            layer_norm_eps=layer_norm_eps,
            zoneout=zoneout,
            clip=clip,
            backend=backend,
        )
        self.nonlinearity = nonlinearity

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        return self.mode.lower()


class FusedGRU(FusedLayer):
    """torch.nn.GRU on fused kernels, or the textbook GRU.

    Arguments, parameters, results and errors are torch.nn.GRU's; see there. In addition:

    Args:
        reset_after: False resets the state before the product, as Cho et al. (2014) have it:
            another model under the same parameter names, which torch.nn cannot run.
        direction: "reverse" walks from each row's last step to its first, as the second half of a
            bidirectional layer does; outputs stand at their inputs' steps. torch.nn has no such
            layer.
        block_diagonal: number of heads, each with units of its own that see no other head's state:
            weight_hh is (G*H, H/heads) (`variants`).
        recurrent_dropout: probability of dropout within the recurrence, in training.
        recurrent_dropout_mode: "variational" drops of the state that the product takes, one mask a
            row and sequence, and after a mark a new one (Gal and Ghahramani 2016); "update" of the
            candidate, a mask a step (Semeniuta et al. 2016);
            "weights" drops recurrent weights, one mask a call (Merity et al. 2018).
        layer_norm: whether each gate's input part and recurrent part are normalised over its units,
            before biases are added, with parameters weight_ln_ih and weight_ln_hh (Ba et al. 2016,
            who normalise all gates together).
        layer_norm_eps: what is added to the variance.
        zoneout: probability with which a unit's h stays what it was: by a mask in training, else in
            expectation (Krueger et al. 2017).
        activation: of the candidate, "tanh" or "relu".
        gate_activation: "sigmoid" or "hard_sigmoid", relu6(x + 3) / 6 as in PyTorch and Keras 3.
        clip: positive bound of what gates and candidate are activated at, biases included, to
            -clip..clip, as ONNX has it; gradients as torch.clamp has them. None is no bound.
        backend: "native", "triton", "torch" or "reference" runs there or raises; "auto" takes
            what `fused_rnn.use_backend` names, else the fastest that can.
    """

    _kind = "GRU"
    _torch_class = nn.GRU
    _own_attributes: ClassVar[tuple[str, ...]] = ("backend", "reset_after", "direction")
    _varieties = (*_OF_ALL, "activation", "gate_activation")
    reset_after = True

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
        reset_after: bool = True,
        direction: str = "forward",
        block_diagonal: int = 1,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_mode: str = "variational",
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        zoneout: float = 0.0,
        activation: str = "tanh",
        gate_activation: str = "sigmoid",
        clip: float | None = None,
        backend: str = "auto",
        proj_size: None = None,
    ) -> None:
        _refuse_projection(proj_size)
        options = (num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype)
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            *options,
            direction=direction,
            block_diagonal=block_diagonal,
            recurrent_dropout=recurrent_dropout,
            recurrent_dropout_mode=recurrent_dropout_mode,
            layer_norm=layer_norm,
            layer_norm_eps=layer_norm_eps,
            zoneout=zoneout,
            activation=activation,
            gate_activation=gate_activation,
            clip=clip,
            backend=backend,
        )
        self.reset_after = reset_after
        if not reset_after and self._variety.has_own_cells(training=True):
            got = ", ".join(f"{name}={value}" for name, value in self._variety.computing())
            raise ValueError(f"reset_after: expected True beside {got}, got False")

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        return "gru" if self.reset_after else "gru_reset_before"


class FusedLSTM(FusedLayer):
    """torch.nn.LSTM on fused kernels.

    Arguments, parameters, results and errors are torch.nn.LSTM's; see there. In addition:

    Args:
        direction: "reverse" walks from each row's last step to its first, as the second half of a
            bidirectional layer does; outputs stand at their inputs' steps. torch.nn has no such
            layer.
        coupled: one gate to write and to forget, f = 1 - i: weights and biases have the rows of the
            gates i g o alone (`variants`).
        forget_bias: the forget gate's bias at the start, b_ih and b_hh together (Jozefowicz et al.
            2015); None is torch.nn's random start. Of a coupled LSTM, which has none, the other
            gate begins with its negative.
        block_diagonal: number of heads, each with units of its own that see no other head's state:
            weight_hh is (G*H, H/heads) (`variants`).
        recurrent_dropout: probability of dropout within the recurrence, in training.
        recurrent_dropout_mode: "variational" drops of the state that the product takes, one mask a
            row and sequence, and after a mark a new one (Gal and Ghahramani 2016); "update" of the
            candidate, a mask a step (Semeniuta et al. 2016);
            "weights" drops recurrent weights, one mask a call (Merity et al. 2018).
        layer_norm: whether each gate's input part and recurrent part are normalised over its units,
            before biases are added, and the cell where the output shows it, with parameters
            weight_ln_ih, weight_ln_hh, weight_ln_cell and bias_ln_cell (Ba et al. 2016, who
            normalise all gates together).
        layer_norm_eps: what is added to the variance.
        zoneout: probability with which a unit's h stays what it was: by a mask in training, else in
            expectation (Krueger et al. 2017).
        zoneout_cell: the same of c.
        peephole: whether i and f see the cell before, and o the cell after, by weight_peephole, the
            weights of i, f and o, (3*H,) (Gers et al. 2002); coupled those of i and o.
        activation: of the candidate and of the cell that the output shows, "tanh" or "relu".
        gate_activation: "sigmoid" or "hard_sigmoid", relu6(x + 3) / 6 as in PyTorch and Keras 3.
        clip: positive bound of what gates and candidate are activated at, biases and peepholes
            included, to -clip..clip, as ONNX Runtime has it (ONNX' text may be read to bound the
            cell that the output shows, too); gradients as torch.clamp has them. None is no bound.
        backend: "native", "triton", "torch" or "reference" runs there or raises; "auto" takes
            what `fused_rnn.use_backend` names, else the fastest that can.
    """

    _kind = "LSTM"
    _torch_class = nn.LSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        direction: str = "forward",
        coupled: bool = False,
        forget_bias: float | None = None,
        block_diagonal: int = 1,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_mode: str = "variational",
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        peephole: bool = False,
        activation: str = "tanh",
        gate_activation: str = "sigmoid",
        clip: float | None = None,
        backend: str = "auto",
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            *options,
            direction=direction,
            coupled=coupled,
            forget_bias=forget_bias,
            block_diagonal=block_diagonal,
            recurrent_dropout=recurrent_dropout,
            recurrent_dropout_mode=recurrent_dropout_mode,
            layer_norm=layer_norm,
            layer_norm_eps=layer_norm_eps,
            zoneout=zoneout,
            zoneout_cell=zoneout_cell,
            peephole=peephole,
            activation=activation,
            gate_activation=gate_activation,
            clip=clip,
            backend=backend,
        )
        self._start_forget_bias()

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as torch.nn does, but for the forget gate's bias."""
        super().reset_parameters()
        self._start_forget_bias()

    def _start_forget_bias(self) -> None:
        own = self._variety
        if own.forget_bias is None:
            return
        sign, gate = (-1, 0) if own.coupled else (1, 1)
        rows = slice(gate * self.hidden_size, (gate + 1) * self.hidden_size)
        with torch.no_grad():
            for name in self._flat_weights_names:
                if name.startswith("bias_ih"):
                    getattr(self, name)[rows] = sign * own.forget_bias
                elif name.startswith("bias_hh"):
                    getattr(self, name)[rows] = 0

    # For those who call torch.nn's checks themselves: here the state is a pair.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def _states(self, hx: Any) -> States:
        if len(hx) != 2:
            raise RuntimeError("lstm expects two hidden states")
        return (hx[0], hx[1])


def _refuse_projection(proj_size: object) -> None:
    if proj_size is not None:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
