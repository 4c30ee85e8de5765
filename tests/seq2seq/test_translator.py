# SPDX-License-Identifier: MIT
"""Encoders, decoders and attention: the book's equations, lengths, steps and rows."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fused_rnn import use_backend
from fused_rnn.seq2seq import (
    ATTENDS,
    ATTENTIONS,
    CELLS,
    AttentionDecoder,
    Decoder,
    Encoder,
    EncoderDecoder,
    LanguageModel,
    LanguageModelConfig,
    RNNDecoder,
    RNNEncoder,
)
from fused_rnn.seq2seq.models.attention import Attention, attend
from fused_rnn.seq2seq.models.recurrence import hidden, map_state
from fused_rnn.testing import assert_within_budget

V, E, H = 11, 5, 6
LENGTHS = torch.tensor([7, 3, 0, 5])
pytestmark = pytest.mark.usefixtures("in_float64")

KINDS = ["fixed", *(f"{kind}-{attend}" for kind in ATTENTIONS for attend in ATTENDS)]


def build(kind: str, cell: str = "gru", layers: int = 2, both: bool = False) -> EncoderDecoder:
    encoder = RNNEncoder(V, E, H, layers, cell=cell, bidirectional=both)
    if kind == "fixed":
        return EncoderDecoder(encoder, RNNDecoder(V, E, H, layers, cell=cell)).eval()
    attention, when = kind.split("-")
    options: dict[str, Any] = {"memory_size": encoder.output_size} if both else {}
    decoder = AttentionDecoder(
        V, E, H, layers, cell=cell, attention=attention, attend=when, **options
    )
    return EncoderDecoder(encoder, decoder).eval()


def source() -> Tensor:
    return torch.randint(V, (4, 7))


def same(actual: Tensor, expected: Tensor, name: str = "result") -> None:
    assert_within_budget(actual, expected, name=name)


def test_interfaces_are_abstract() -> None:
    for interface in (Encoder, Decoder):
        with pytest.raises(TypeError, match="abstract"):
            interface()


def test_shapes_are_the_books() -> None:
    encoder = RNNEncoder(10, 8, 16, 2)
    x = torch.zeros((4, 7), dtype=torch.int64)
    outputs, state = encoder(x)
    assert outputs.shape == (7, 4, 16) and state.shape == (2, 4, 16)
    for decoder in (RNNDecoder(10, 8, 16, 2), AttentionDecoder(10, 8, 16, 2)):
        logits, after = decoder(x, decoder.init_state(encoder(x)))
        assert logits.shape == (4, 7, 10) and after.hidden.shape == (2, 4, 16)
    logits, _ = EncoderDecoder(encoder, decoder)(x, x, torch.tensor([7, 1, 2, 3]))
    assert logits.shape == (4, 7, 10)


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
@pytest.mark.parametrize("both", [False, True], ids=["one-way", "both-ways"])
def test_encoder_is_torchs_over_packed_sentences(cell: str, both: bool) -> None:
    encoder = RNNEncoder(V, E, H, 2, cell=cell, bidirectional=both)
    tokens, lengths = source(), torch.tensor([7, 3, 1, 5])
    outputs, state = encoder(tokens, lengths)
    twin = encoder.rnn.to_torch()
    packed = nn.utils.rnn.pack_padded_sequence(
        encoder.embedding(tokens.t()), lengths, enforce_sorted=False
    )
    y, last = twin(packed)
    same(outputs, nn.utils.rnn.pad_packed_sequence(y)[0], "outputs")
    if both:
        last = encoder.bridge(last)
    for part, expected in zip(
        *((s,) if isinstance(s, Tensor) else s for s in (state, last)), strict=True
    ):
        same(part, expected, "state")


def test_bridge() -> None:
    for cell in ("gru", "lstm"):
        encoder = RNNEncoder(V, E, H, 2, cell=cell, bidirectional=True)
        last = torch.randn(4, 3, H)
        state = encoder.bridge((last, last) if cell == "lstm" else last)
        for layer in range(2):
            both = torch.cat((last[2 * layer], last[2 * layer + 1]), -1)
            same(hidden(state)[layer], encoder.bridge.h[layer](both).tanh())
            if cell == "lstm":
                same(state[1][layer], encoder.bridge.c[layer](both))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("both", [False, True], ids=["one-way", "both-ways"])
def test_padding_and_neighbours_play_no_part(kind: str, both: bool) -> None:
    if kind.startswith("dot") and both:
        with pytest.raises(ValueError, match="expected memory_size 6 for 'dot', got 12"):
            build(kind, both=both)
        return
    model = build(kind, both=both)
    tokens, target = source(), torch.randint(V, (4, 5))
    logits = model(tokens, target, LENGTHS).logits
    assert bool(logits.isfinite().all())
    for row, length in enumerate(LENGTHS.tolist()):
        alone = tokens[row : row + 1, : max(length, 1)]
        own = model(alone, target[row : row + 1], LENGTHS[row : row + 1]).logits
        same(own[0], logits[row], f"row {row}")
    tokens[torch.arange(7) >= LENGTHS[:, None]] = 1
    same(model(tokens, target, LENGTHS).logits, logits, "other padding")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_equal_the_whole_for_every_row_of_a_sentence(kind: str, cell: str) -> None:
    """Teacher forcing in one go, and step by step with three rows a sentence, reordered."""
    model = build(kind, cell)
    tokens, target = source(), torch.randint(V, (3, 4, 5))
    whole = [model(tokens, rows, LENGTHS) for rows in target]
    state = model.reorder(model.encode(tokens, LENGTHS), torch.arange(4).repeat_interleave(3))
    order = torch.randperm(3, generator=torch.Generator().manual_seed(1))
    index = (torch.arange(4)[:, None] * 3 + order).flatten()
    for step in range(5):
        logits, state = model.step(target[:, :, step].t().flatten(), state)
        expected = torch.stack([w.logits[:, step] for w in whole], 1)  # (B, K, V)
        same(logits.unflatten(0, (4, 3)), expected, f"step {step}")
        if kind != "fixed":
            weights = torch.stack([w.state.weights[:, step] for w in whole], 1)
            same(model.attention(state).unflatten(0, (4, 3)), weights, "attention")
        state = model.reorder(state, index)
        target, whole = target[order], [whole[i] for i in order]


@pytest.mark.parametrize("kind", ["fixed", "additive-after", "general-before"])
def test_backends_agree(kind: str) -> None:
    model = build(kind, "lstm", both=True)
    tokens, target = source(), torch.randint(V, (4, 5))
    with use_backend("reference"):
        expected = model(tokens, target, LENGTHS).logits
    same(model(tokens, target, LENGTHS).logits, expected)
    model.encoder.rnn.backend = model.decoder.rnn.backend = "torch"
    same(model(tokens, target, LENGTHS).logits, expected)


def test_decoder_keeps_the_encoders_context() -> None:
    """The second edition's repair: what enters every step is the end of the source."""
    model = build("fixed")
    state = model.encode(source(), LENGTHS)
    context = hidden(state.hidden)[-1]
    for step in range(3):
        tokens = torch.randint(V, (4,))
        x = torch.cat((model.decoder.embedding(tokens), context), -1)
        y, last = model.decoder.rnn(x.unsqueeze(0), state.hidden)
        logits, state = model.step(tokens, state)
        same(logits, model.decoder.output(y[0]), f"step {step}")
        same(hidden(state.hidden), hidden(last))


def test_attention_before_is_bahdanaus() -> None:
    decoder = AttentionDecoder(V, E, H, 2, attend="before").eval()
    encoded = RNNEncoder(V, E, H, 2)(source(), LENGTHS)
    state = decoder.init_state(encoded, LENGTHS)
    tokens = torch.randint(V, (4,))
    query, memory, look = encoded.state[-1], encoded.outputs.transpose(0, 1), decoder.look
    energy = (look.query(query)[:, None] + look.key(memory)).tanh() @ look.energy.weight[0]
    energy[torch.arange(7) >= LENGTHS[:, None]] = -1e6
    weights = energy.softmax(-1)
    weights[LENGTHS == 0] = 0
    x = torch.cat(((weights[:, :, None] * memory).sum(1), decoder.embedding(tokens)), -1)
    y, _ = decoder.rnn(x[None], encoded.state)
    logits, state = decoder.step(tokens, state)
    same(logits, decoder.output(y[0]))
    same(decoder.attention(state), weights)


@pytest.mark.parametrize("kind", ["dot", "general"])
def test_attention_after_is_luongs(kind: str) -> None:
    decoder = AttentionDecoder(V, E, H, attention=kind).eval()
    encoded = RNNEncoder(V, E, H)(source(), LENGTHS)
    target = torch.randint(V, (4, 5))
    y = decoder.rnn(decoder.embedding(target.t()), encoded.state)[0].transpose(0, 1)
    memory = encoded.outputs.transpose(0, 1)
    keys = memory if kind == "dot" else memory @ decoder.look.key.weight.t()
    scores = torch.einsum("bth,bsh->bts", y, keys) / math.sqrt(H)
    scores[(torch.arange(7) >= LENGTHS[:, None])[:, None].expand_as(scores)] = -1e6
    weights = scores.softmax(-1)
    weights[LENGTHS == 0] = 0
    joined = torch.cat((y, weights @ memory), -1)
    expected = decoder.output(decoder.combine(joined).tanh())
    same(decoder(target, decoder.init_state(encoded, LENGTHS)).logits, expected)


def test_attention_over_equal_keys_is_the_books() -> None:
    memory = torch.arange(40.0).reshape(1, 10, 4).repeat(2, 1, 1)
    mask = torch.arange(10) < torch.tensor([[2], [6]])
    for kind in ATTENTIONS:
        look = Attention(kind, 2, 2)
        scores = look(torch.randn(2, 1, 2), look.keys(torch.ones(2, 10, 2)))
        seen = attend(scores, memory, mask)
        same(seen.context[:, 0], torch.tensor([[2.0, 3, 4, 5], [10, 11, 12, 13]]), kind)
        same(seen.weights.sum(-1), torch.ones(2, 1), "weights")


def test_attention_of_a_state_that_has_not_looked() -> None:
    model = build("dot-after")
    state = model.encode(source(), LENGTHS)
    with pytest.raises(ValueError, match="right after a step"):
        model.attention(state)
    _, state = model.step(torch.zeros(4, dtype=torch.int64), state)
    assert model.attention(state).shape == (4, 7)
    with pytest.raises(ValueError, match="right after a step"):
        model.attention(model.reorder(state, torch.arange(4)))
    with pytest.raises(ValueError, match="expected one with attention, got RNNDecoder"):
        build("fixed").attention(state)


def test_tied_weights_are_one() -> None:
    for decoder in (RNNDecoder(V, H, H, tied=True), AttentionDecoder(V, H, H, tied=True)):
        assert decoder.output.weight is decoder.embedding.weight
    model = LanguageModel(LanguageModelConfig(V, hidden_size=H, embedding_size=H, tied=True))
    assert model.output.weight is model.embedding.weight
    for size in (0, E):
        with pytest.raises(ValueError, match="tied: expected embedding_size equal to hidden"):
            LanguageModelConfig(V, hidden_size=H, embedding_size=size, tied=True)
    with pytest.raises(ValueError, match="tied: expected embedding_size equal to hidden"):
        RNNDecoder(V, E, H, tied=True)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(cell="sru"), "cell: expected one of"),
        (dict(attention="cosine"), "attention: expected one of"),
        (dict(attend="during"), "attend: expected one of"),
        (dict(backend="fast"), "backend: expected one of"),
    ],
)
def test_bad_options(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionDecoder(V, E, H, **wrong)


@pytest.mark.parametrize("cell", CELLS)
def test_language_models_rows(cell: str) -> None:
    model = LanguageModel(LanguageModelConfig(V, cell, hidden_size=H, num_layers=2)).eval()
    tokens = torch.tensor([1, 2, 3])
    logits, state = model.step(tokens, model.initial_state(3))
    same(logits, model.step(tokens).logits)
    index = torch.tensor([2, 2, 0, 1])
    moved = model.step(tokens[index], model.reorder(state, index)).logits
    same(moved, model.step(tokens, map_state(Tensor.clone, state)).logits[index])


def test_gradients_reach_every_parameter() -> None:
    for kind in KINDS:
        model = build(kind, both=not kind.startswith("dot"))
        model(source(), torch.randint(V, (4, 5)), LENGTHS).logits.square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), f"{kind} {name}"
