# SPDX-License-Identifier: MIT
"""The recurrent networks of *Dive into Deep Learning*, fused, and as its reader has them."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fused_rnn.nn.fused_layer import FusedLayer
from fused_rnn.nn.layers import FusedLSTM
from fused_rnn.seq2seq import LanguageModel, LanguageModelConfig, Translator, TranslatorConfig

# The standard deviation of the weights where the book writes its networks out.
_SPREAD = 0.01


def language_model(
    vocab_size: int, cell: str, hidden_size: int, num_layers: int, *, written_out: bool
) -> LanguageModel:
    """Returns a model over one-hot vectors; written out, with the book's start and one bias."""
    model = LanguageModel(
        LanguageModelConfig(
            vocab_size,
            cell,
            hidden_size=hidden_size,
            num_layers=num_layers,
            embedding_size=0,
            dropout=0.0,
        )
    )
    if written_out:
        for name, parameter in model.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=_SPREAD)
        # torch.nn's second bias would double the step of the one that the book has.
        model.rnn.get_parameter("bias_hh_l0").requires_grad_(False)
    return model


def bidirectional_language_model(vocab_size: int, hidden_size: int) -> LanguageModel:
    """Returns the book's misuse: a model that reads ahead what it is to predict."""
    model = language_model(vocab_size, "lstm", hidden_size, 2, written_out=False)
    model.rnn = FusedLSTM(vocab_size, hidden_size, 2, bidirectional=True)
    model.output = nn.Linear(2 * hidden_size, vocab_size)
    return model


def translator(source: int, target: int, attention: str) -> Translator:
    """Returns the first edition's translator of these vocabulary sizes, with its start."""
    model = Translator(
        TranslatorConfig(
            source_vocab_size=source,
            target_vocab_size=target,
            hidden_size=32,
            num_layers=2,
            embedding_size=32,
            bidirectional=False,
            attention=attention,
            attend="before",
            dropout=0.1,
            outer_dropout=0.0,
        )
    )
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if "weight" in name and not isinstance(module, nn.Embedding):
                nn.init.xavier_uniform_(parameter)
    return model


class WrittenOut(nn.Module):
    """One layer, step by step and gate by gate, as the book's chapters write it.

    Args:
        layer: whose parameters it takes.
    """

    def __init__(self, layer: FusedLayer) -> None:
        super().__init__()
        self.kind, self.hidden_size = layer._cell(), layer.hidden_size
        self.w_ih, self.w_hh, self.b = (
            layer.get_parameter(name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
        )

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h, c = self._start(x, state)
        count = len(self.w_ih) // self.hidden_size
        inner, outer, biases = (part.chunk(count) for part in (self.w_ih, self.w_hh, self.b))
        gates = list(zip(inner, outer, biases, strict=True))

        def gate(number: int, row: Tensor, state: Tensor) -> Tensor:
            w_x, w_h, b = gates[number]
            return row @ w_x.t() + state @ w_h.t() + b

        outputs = []
        for row in x:
            if self.kind == "rnn_tanh":
                h = gate(0, row, h).tanh()
            elif self.kind == "gru_reset_before":
                r, z = gate(0, row, h).sigmoid(), gate(1, row, h).sigmoid()
                h = z * h + (1 - z) * gate(2, row, r * h).tanh()
            else:
                i, f, o = (gate(number, row, h).sigmoid() for number in (0, 1, 3))
                c = f * c + i * gate(2, row, h).tanh()
                h = o * c.tanh()
            outputs.append(h)
        last = h.unsqueeze(0)
        return torch.stack(outputs), (last, c.unsqueeze(0)) if self.kind == "lstm" else last

    def _start(self, x: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        zeros = x.new_zeros(x.size(1), self.hidden_size)
        if state is None:
            return zeros, zeros
        parts = state if isinstance(state, tuple) else (state, state)
        return parts[0][0], parts[1][0]


class TorchLayer(nn.Module):
    """A layer of torch.nn that takes lengths, by packing.

    Args:
        layer: the fused layer whose parameters it takes.
    """

    def __init__(self, layer: FusedLayer) -> None:
        super().__init__()
        self.layer = layer.to_torch()

    def forward(self, x: Tensor, hx: Any = None, lengths: Tensor | None = None) -> Any:
        if lengths is None:
            return self.layer(x, hx)
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        y, state = self.layer(packed, hx)
        return pad_packed_sequence(y, total_length=x.size(0))[0], state


def twin(model: nn.Module, *, written_out: bool = False) -> Any:
    """Returns a copy of a model with torch.nn's layers, or the book's, for the fused ones."""
    copy = deepcopy(model)
    for module in list(copy.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FusedLayer):
                setattr(module, name, WrittenOut(child) if written_out else TorchLayer(child))
    return copy
