# SPDX-License-Identifier: MIT
"""torch.set_default_device names another device than that of the input: it has no say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from twins import CELLS, LAYERS, state, tensors, twins

from fused_rnn import functional
from fused_rnn.seq2seq import (
    AttentionDecoder,
    EncoderDecoder,
    LanguageModel,
    LanguageModelConfig,
    RNNEncoder,
    Trainer,
    TrainingOptions,
    beam_search,
    evaluate,
    exhaustive_search,
    generate,
    greedy_search,
    masked_cross_entropy,
    sample,
    score,
)

BACKENDS = ("native", "torch", "reference")


def alike(call: Callable[[], Any]) -> None:
    """Raises unless a call gives the same where the default device has no memory."""
    results = []
    for device in ("cpu", "meta"):
        torch.manual_seed(1)
        with torch.device(device):
            results.append(tensors(call()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def trained(module: nn.Module, *args: Any, **options: Any) -> Any:
    """Results of a call, and the gradients of its weights."""
    outputs = tensors(module(*args, **options))
    loss = sum(output.sin().sum() for output in outputs if output.is_floating_point())
    return outputs, torch.autograd.grad(loss, list(module.parameters()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind: str, backend: str) -> None:
    need(backend)
    module, _ = twins(kind, 3, 5, num_layers=2, bidirectional=True, dropout=0.5)
    module.backend = backend
    x, hx = torch.randn(4, 3, 3, dtype=torch.float64), state(kind, 4, 3, 5)
    marks = None if backend == "torch" else torch.rand(4, 3) < 0.4
    lengths = torch.tensor([4, 0, 2])
    inputs: list[tuple[Any, dict[str, Any]]] = [
        (x, {"resets": marks}),
        (x, {"lengths": lengths}),
        (x, {"lengths": [4, 0, 2]}),
        (x, {"lengths": lengths.int(), "hx": hx}),
        (x[:, 0], {"lengths": 3}),
        (x[:, 0], {"lengths": torch.tensor(3)}),
        (pack_padded_sequence(x, [4, 2, 2]), {}),
        (pack_padded_sequence(x, [2, 4, 2], enforce_sorted=False), {"hx": hx}),
    ]
    for given, options in inputs:
        alike(lambda given=given, options=options: trained(module, given, **options))


@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    x = torch.randn(2, 3, dtype=torch.float64)
    alike(lambda: trained(module, x))
    alike(lambda: trained(module, x[0], state(kind, 5, device="cpu")))


def test_functions_and_second_derivatives() -> None:
    weights = list(nn.LSTM(3, 5, dtype=torch.float64).parameters())
    x, leaf = torch.randn(4, 3, dtype=torch.float64), weights[1]

    def twice() -> Any:
        y, _ = functional.lstm(x, None, weights, lengths=3)
        (grad,) = torch.autograd.grad(y.sin().sum(), leaf, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), leaf)

    alike(twice)


def model() -> EncoderDecoder:
    torch.manual_seed(0)
    encoder = RNNEncoder(9, 4, 6, cell="lstm")
    return EncoderDecoder(encoder, AttentionDecoder(9, 4, 6, cell="lstm")).eval()


SEARCHES: dict[str, Callable[..., Any]] = {
    "greedy": greedy_search,
    "beam": lambda *a, **k: beam_search(*a, beam_size=3, n_best=2, no_repeat_ngram=2, **k),
    "exhaustive": lambda *a, **k: exhaustive_search(*a, **{**k, "max_length": 3}),
    "sample": lambda *a, **k: sample(*a, num_samples=2, top_k=4, top_p=0.9, **k),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches(name: str) -> None:
    own = model()
    tokens, lengths = torch.randint(9, (3, 5)), torch.tensor([5, 2, 0])
    prefix = torch.tensor([[4], [2], [3]])

    def found() -> Any:
        with torch.no_grad():
            start = own.encode(tokens, lengths)
            options = dict(bos=0, eos=1, pad=8, ban=(5,))
            more = {} if name == "exhaustive" else {"prefix": prefix}
            result = SEARCHES[name](own, start, max_length=9, **options, **more)
            return tuple(result), score(own, start, result.tokens, bos=0, eos=1, pad=8)

    alike(found)


def test_a_language_model_trains_and_goes_on() -> None:
    text: Tensor = torch.randint(9, (90,))
    config = LanguageModelConfig(9, "gru", hidden_size=6, embedding_size=4, dropout=0.2)

    def run() -> Any:
        with torch.device("cpu"):
            own = LanguageModel(config)
        # Adam of older releases of PyTorch puts its count of steps on the default device.
        options = TrainingOptions(steps=4, batch_size=3, num_steps=5, optimizer="sgd")
        trainer = Trainer(own, text, options)
        while not trainer.finished:
            trainer.train_step()
        trainer.validate(text[:20])
        kept = [tensor for name, tensor in sorted(trainer.tensors().items()) if "loss" in name]
        trainer.restore(trainer.position(), trainer.tensors())
        written = generate(own, text[:3], 5)
        loss = evaluate(own, text[:20]).loss_sum
        return *kept, *own.parameters(), torch.tensor([*written, loss], device="cpu")

    alike(run)


def test_a_masked_loss() -> None:
    logits, targets = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    lengths = torch.tensor([4, 0, 2])
    alike(lambda: masked_cross_entropy(logits, targets, lengths))
