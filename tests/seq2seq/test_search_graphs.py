# SPDX-License-Identifier: MIT
"""A search whose steps are one graph finds what others find: recorded on the CPU, and real."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import recorded_graph
import torch
from torch import Tensor

from fused_rnn.seq2seq import (
    AttentionDecoder,
    EncoderDecoder,
    LanguageModel,
    LanguageModelConfig,
    RNNDecoder,
    RNNEncoder,
    beam_search,
    greedy_search,
    sample,
)
from fused_rnn.seq2seq.search import graphs

V, BOS, EOS, PAD = 17, 2, 3, 1
MODELS = ("gru", "lstm", "context", "after", "before")
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"beam_size": 3, "n_best": 2},
    "min-length": {"beam_size": 2, "min_length": 6},
    "banned": {"beam_size": 3, "ban": (4, 5), "check_every": 3},
    "sample": {"num_samples": 3},
    "sample-generator": {"num_samples": 2, "top_k": 5},
}


def model_of(name: str, device: str = "cpu") -> tuple[Any, Any]:
    """A model that ends its sentences now and then, and a state of three rows."""
    torch.manual_seed(1)
    if name in ("gru", "lstm"):
        model: Any = LanguageModel(LanguageModelConfig(V, name, hidden_size=8, num_layers=2))
        model = model.to(device)
        state = model.initial_state(3)
    else:
        kinds = {"context": {}, "after": {"attend": "after"}, "before": {"attend": "before"}}
        decoder = RNNDecoder if name == "context" else AttentionDecoder
        model = EncoderDecoder(RNNEncoder(V, 6, 8), decoder(V, 6, 8, **kinds[name])).to(device)
        source, lengths = torch.randint(4, V, (3, 5)), torch.tensor([5, 2, 4])
        with torch.no_grad():
            state = model.encode(source.to(device), lengths.to(device))
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3
    return model, state


def run(search: str, model: Any, state: Any, **more: Any) -> Any:
    options = {"bos": BOS, "eos": EOS, "pad": PAD, "max_length": 20, **SEARCHES[search], **more}
    torch.manual_seed(5)
    if search == "sample-generator":
        options["generator"] = torch.Generator(next(model.parameters()).device).manual_seed(7)
    functions = {"greedy": greedy_search, "sample": sample, "sample-generator": sample}
    return functions.get(search, beam_search)(model, state, **options)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Graphs on the CPU; the list holds a 1 for each capture."""
    captures: list[int] = []

    def record(*arguments: Any) -> Any:
        captures.append(1)
        return recorded_graph.record(*arguments)

    monkeypatch.setattr(graphs, "has_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "record", record)
    yield captures


def same(found: Any, expected: Any) -> None:
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert (one is None) == (other is None), name
        assert one is None or torch.equal(one, other), name


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", MODELS)
def test_recorded_steps_find_the_same(
    name: str, search: str, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, state = model_of(name)
    look = {"return_attention": True} if name in ("after", "before") else {}
    found = run(search, model, state, **look)
    assert recorded == [1]
    monkeypatch.undo()
    same(found, run(search, model, state, **look))


def test_a_prefix_is_walked_before(recorded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = model_of("gru")
    prefix = torch.tensor([[5, 6, PAD], [7, PAD, PAD], [PAD, 8, 9]])
    found = run("beam", model, state, prefix=prefix)
    assert recorded == [1] and found.tokens[0, 0, :2].tolist() == [5, 6]
    monkeypatch.undo()
    same(found, run("beam", model, state, prefix=prefix))


@pytest.mark.parametrize(
    "options", [{"stop": "exact"}, {"no_repeat_ngram": 2}, {"max_length": graphs.WORTH}], ids=str
)
def test_some_searches_have_no_graph(options: dict[str, Any], recorded: list[int]) -> None:
    model, state = model_of("gru")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("beam", model, state, **options)
    assert recorded == []


class Plain:
    """A model that promises nothing; or, once it does, grows its state."""

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat((state, tokens.unsqueeze(1)), 1)
        return -(torch.arange(V) - state.sum(1, keepdim=True) % V).abs().float(), state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


def test_a_model_must_promise_to_be_capturable(recorded: list[int]) -> None:
    graphs._warn.cache_clear()
    start = torch.zeros(2, 1, dtype=torch.int64)
    options = {"bos": BOS, "eos": None, "pad": PAD, "max_length": 12}
    with pytest.warns(RuntimeWarning, match="Plain does not promise to be capturable"):
        greedy_search(Plain(), start, **options)
    model = Plain()
    model.capturable = True
    with pytest.raises(ValueError, match=r"state: expected torch.int64 \(2, 2\) at every step"):
        greedy_search(model, start, **options)
    assert recorded == [1]


def test_the_host_may_not_wait() -> None:
    one = torch.ones(())
    for wait in (one.item, lambda: torch.tensor([1.0]), lambda: one.nonzero()):
        with pytest.raises(RuntimeError, match="makes the host wait"):
            recorded_graph.record(wait, one.device, None)


def test_a_state_may_change_places(recorded: list[int]) -> None:
    """Its parts are all read before any is written."""
    swapped = graphs.Captured(
        lambda pair: ((pair[1], pair[0]), None), (torch.ones(2), torch.zeros(2))
    )
    swapped()
    assert [part.tolist() for part in swapped.carried] == [[0, 0], [1, 1]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu(name: str, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = model_of(name, "cuda")
    captures: list[Any] = []
    capture = graphs.record

    def record(*arguments: Any) -> Any:
        captures.append(arguments)
        return capture(*arguments)

    monkeypatch.setattr(graphs, "record", record)
    # Twice, as memory is used again.
    found = [run(search, model, state) for _ in range(2)]
    assert len(captures) == 2
    monkeypatch.setattr(graphs, "has_graphs", lambda device: False)
    for one in found:
        same(one, run(search, model, state))
