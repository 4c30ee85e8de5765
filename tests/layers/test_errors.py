# SPDX-License-Identifier: MIT
"""Bad input to a layer: torch.nn's exceptions and messages; name, expected and got for our own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from twins import LAYERS, outcome, twins

import fused_rnn
from fused_rnn import extensions, ops


def pair(kind: str, *shape: int, **options: Any) -> Any:
    """Zeros as hx, or two of them."""
    h = torch.zeros(*shape, **options)
    return (h, h) if kind == "LSTM" else h


X = torch.randn(4, 2, 3)
# What is called on the module; both must raise the same, type and message.
SAME: dict[str, Callable[[str, nn.Module], Any]] = {
    "1-D": lambda kind, m: m(X[0, 0]),
    "4-D": lambda kind, m: m(X[None]),
    "float64": lambda kind, m: m(X.double()),
    "int64": lambda kind, m: m(X.long()),
    "float64, unbatched": lambda kind, m: m(X[0].double()),
    "features": lambda kind, m: m(torch.randn(4, 2, 4)),
    "features, unbatched": lambda kind, m: m(torch.randn(4, 2)),
    "no steps": lambda kind, m: m(X[:0]),
    "no steps, no rows": lambda kind, m: m(X[:0, :0]),
    "no steps, unbatched": lambda kind, m: m(X[:0, 0]),
    "hx 2-D": lambda kind, m: m(X, pair(kind, 2, 5)),
    "hx 3-D, unbatched": lambda kind, m: m(X[0], pair(kind, 1, 2, 5)),
    "hx layers": lambda kind, m: m(X, pair(kind, 2, 2, 5)),
    "hx rows": lambda kind, m: m(X, pair(kind, 1, 3, 5)),
    "hx size": lambda kind, m: m(X, pair(kind, 1, 2, 6)),
    "hx size, unbatched": lambda kind, m: m(X[0], pair(kind, 1, 6)),
    "dtype before sizes": lambda kind, m: m(torch.randn(4, 2, 4).double()),
    "axes before dtype": lambda kind, m: m(X[None].double()),
    "hx axes before dtype": lambda kind, m: m(X.double(), pair(kind, 2, 5)),
    "not a tensor": lambda kind, m: m([1, 2]),
    "input on another device": lambda kind, m: m(X.to("meta")),
    "hx on another device": lambda kind, m: m(X, pair(kind, 1, 2, 5, device="meta")),
}


@pytest.mark.parametrize("fault", SAME)
@pytest.mark.parametrize("kind", LAYERS)
def test_as_in_torch(kind: str, fault: str) -> None:
    ours, theirs = twins(kind, 3, 5, dtype=torch.float32)
    found = outcome(lambda: SAME[fault](kind, ours))
    assert found is not None
    assert found == outcome(lambda: SAME[fault](kind, theirs))


def test_second_state_of_the_lstm() -> None:
    ours, theirs = twins("LSTM", 3, 5, dtype=torch.float32)
    h = torch.zeros(1, 2, 5)
    for hx in ((h, h[0]), (h, h[:, :1]), (h, h[..., :1]), (h, h, h), torch.zeros(2, 2, 5)):
        found = outcome(lambda hx=hx: ours(X, hx))
        assert found is not None
        assert found == outcome(lambda hx=hx: theirs(X, hx))


def test_states_with_projection() -> None:
    ours, theirs = twins("LSTM", 3, 5, proj_size=2, dtype=torch.float32)
    h, c = torch.zeros(1, 2, 2), torch.zeros(1, 2, 5)
    for hx in ((c, c), (h, h), (c, h)):
        found = outcome(lambda hx=hx: ours(X, hx))
        assert found is not None
        assert found == outcome(lambda hx=hx: theirs(X, hx))


@pytest.mark.parametrize("kind", LAYERS)
def test_hx_of_another_dtype(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        ours(X, pair(kind, 1, 2, 5, dtype=torch.float64))


@pytest.mark.parametrize("kind", LAYERS)
def test_parameters_on_another_device(kind: str) -> None:
    for module in twins(kind, 3, 5, dtype=torch.float32, device="meta"):
        with pytest.raises(RuntimeError, match="Input and parameter tensors are not at the same"):
            module(X)


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l0"])
@pytest.mark.parametrize("kind", LAYERS)
def test_one_parameter_on_another_device(kind: str, name: str) -> None:
    # Kernels for meta tensors would take it, and hand out uninitialised memory.
    modules = [cls(3, 5) for cls in LAYERS[kind]]
    for module in modules:
        setattr(module, name, nn.Parameter(getattr(module, name).to("meta")))
    found = [outcome(lambda module=module: module(X)) for module in modules]
    assert found[0] is not None
    assert found[0] == found[1]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
@pytest.mark.parametrize("kind", LAYERS)
def test_an_absent_parameter_is_named(kind: str, name: str, autocast: bool) -> None:
    for module in twins(kind, 3, 5, dtype=torch.float32):
        setattr(module, name, None)
        with torch.autocast("cpu", enabled=autocast), pytest.raises(TypeError, match="got None"):
            module(X)
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    setattr(ours, name, None)
    with pytest.raises(TypeError, match=f"^{name}: expected a tensor, got None$"):
        ours(X)


def with_weights_of(module: nn.Module, other: nn.Module) -> nn.Module:
    for name, p in other.named_parameters():
        setattr(module, name, nn.Parameter(p.detach()))
    return module


# Arguments of the layers and of those whose weights they get.
OTHER_SIZES: list[tuple[str, dict[str, int], dict[str, int]]] = [
    *((kind, {}, {"hidden_size": 4}) for kind in LAYERS),
    *((kind, {}, {"hidden_size": 6}) for kind in LAYERS),
    *((kind, {}, {"input_size": 2}) for kind in LAYERS),
    *((kind, {"num_layers": 2}, {"hidden_size": 4}) for kind in LAYERS),
    ("LSTM", {"proj_size": 3}, {"proj_size": 2}),
    ("LSTM", {"proj_size": 3}, {"hidden_size": 4}),
]


@pytest.mark.parametrize(("kind", "options", "changed"), OTHER_SIZES, ids=str)
def test_weights_of_another_size(
    kind: str, options: dict[str, int], changed: dict[str, int]
) -> None:
    """All of them: they fit one another, but not what the attributes say."""
    options = {"input_size": 3, "hidden_size": 5} | options
    # In float32 torch.nn's LSTM reads past its weights instead.
    other = LAYERS[kind][1](**(options | changed), dtype=torch.float64)
    modules = [with_weights_of(module, other) for module in twins(kind, **options)]
    for backend in ("auto", "reference", "torch"):
        with fused_rnn.use_backend(backend):
            found, expected = (outcome(lambda m=m: m(X.double())) for m in modules)
        assert found is not None and expected is not None
        assert found[0] is expected[0] is RuntimeError
        assert "weight_ih_l0 and weight_hh_l0: expected shapes" in found[1]


BAD_LENGTHS: dict[str, tuple[Any, type[Exception], str]] = {
    "float": ([4.0, 2.0], ValueError, "lengths: expected integers, got torch.float32"),
    "bool": (torch.tensor([True, True]), ValueError, "lengths: expected integers, got torch.bool"),
    "too many": ([4, 2, 1], ValueError, r"lengths: expected shape \(2,\), got \(3,\)"),
    "matrix": (torch.ones(2, 1).int(), ValueError, r"lengths: expected shape .*\(2, 1\)"),
    "negative": ([4, -1], ValueError, "lengths: expected values in 0..4, got -1"),
    "too long": ([5, 2], ValueError, "lengths: expected values in 0..4, got 5"),
    "far too long": (torch.tensor([2**62, 2]), ValueError, "lengths: expected values in 0..4"),
    "device": (torch.ones(2, device="meta").int(), RuntimeError, "not at the same device"),
}


@pytest.mark.parametrize("fault", BAD_LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_lengths(kind: str, fault: str) -> None:
    lengths, error, message = BAD_LENGTHS[fault]
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    with pytest.raises(error, match=message):
        ours(X, lengths=lengths)
    ours.batch_first = True
    with pytest.raises(error, match=message):
        ours(X.transpose(0, 1), lengths=lengths)


BAD_RESETS: dict[str, tuple[Any, type[Exception], str]] = {
    "int": (torch.zeros(4, 2).int(), ValueError, "resets: expected dtype torch.bool, got"),
    "shape": (torch.zeros(2, 4).bool(), ValueError, r"resets: expected shape \(4, 2\), got"),
    "axes": (torch.zeros(4).bool(), ValueError, r"resets: expected shape \(4, 2\), got \(4,\)"),
    "device": (torch.zeros(4, 2).bool().to("meta"), RuntimeError, "not at the same device"),
    "list": ([True] * 4, TypeError, "resets: expected a bool tensor, got list"),
}


@pytest.mark.parametrize("fault", BAD_RESETS)
@pytest.mark.parametrize("kind", LAYERS)
def test_resets(kind: str, fault: str) -> None:
    resets, error, message = BAD_RESETS[fault]
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    with pytest.raises(error, match=message):
        ours(X, resets=resets)


@pytest.mark.parametrize("kind", LAYERS)
def test_resets_of_another_layout(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"expected shape \(4,\), got \(4, 1\)"):
        ours(X[:, 0], resets=torch.zeros(4, 1).bool())
    with pytest.raises(ValueError, match=r"expected shape \(1,\), got \(2,\)"):
        ours(X[:, 0], lengths=[1, 2])
    ours.batch_first = True
    with pytest.raises(ValueError, match=r"expected shape \(4, 2\), got \(2, 4\)"):
        ours(X, resets=torch.zeros(2, 4).bool())


WEIGHTS = [torch.randn(20, 3), torch.randn(20, 5), torch.randn(20), torch.randn(20)]


def call_native(**changed: Any) -> object:
    arguments = {"x": X, "h0": None, "c0": None, "weights": WEIGHTS, "lengths": None}
    arguments |= {"resets": None, "cell": "lstm", "reverse": [0], "keep_tape": True}
    return ops.PAIRS["native"].forward(**(arguments | changed))


# What modules check before the kernels do, and what only others pass.
KERNELS_REFUSE: dict[str, Callable[[], object]] = {
    "h0: expected shape (1, 2, 5), got (1, 2, 6)": lambda: call_native(h0=torch.zeros(1, 2, 6)),
    "h0: expected dtype Float, got Double": lambda: call_native(h0=torch.zeros(1, 2, 5).double()),
    "x: expected dtype float32, float64, bfloat16 or float16, got Long": (
        lambda: call_native(x=X.long())
    ),
    "x: expected a contiguous tensor, got strides (3, 12, 1)": (
        lambda: call_native(x=torch.randn(2, 4, 3).transpose(0, 1))
    ),
    "products: expected 6, 3 or 1, got 5": lambda: call_native(products=5),
    "k: expected 1 to 4, got 5": lambda: ops.top(torch.randn(3, 4), 5),
    "dtype: expected float32, float64, bfloat16 or float16, got int32": (
        lambda: extensions.serving(torch.int32)
    ),
}


@pytest.mark.parametrize("message", KERNELS_REFUSE)
def test_messages_of_the_kernels(message: str) -> None:
    need("native")
    with pytest.raises(RuntimeError) as caught:
        KERNELS_REFUSE[message]()
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", LAYERS)
def test_keywords_are_keywords(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    with pytest.raises(TypeError, match="positional arguments"):
        ours(X, None, [4, 2])


@pytest.mark.parametrize("kind", LAYERS)
def test_a_failed_call_leaves_the_module_usable(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    expected: Tensor = theirs(x)[0]
    for bad in (x[:0], x.float(), x[..., :2]):
        assert outcome(lambda bad=bad: ours(bad)) is not None
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-12, atol=1e-12)
