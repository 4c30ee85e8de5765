# SPDX-License-Identifier: MIT
"""Which backend runs, and what is said about it."""

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

import fused_rnn
from fused_rnn.backends import choice, triton
from fused_rnn.backends.backend import Query
from fused_rnn.backends.choice import BACKENDS, choose, explain, use_backend
from fused_rnn.testing import assert_within_budget

PLAIN = Query("gru", torch.float32, "cpu")
CUDA = PLAIN._replace(device="cuda")
# The capability of device 0.
OLD, NEW = {0: (7, 5)}, {0: (9, 0)}


def only(monkeypatch: pytest.MonkeyPatch, **reasons: str) -> None:
    """Gives backends a reason not to run."""
    for name, reason in reasons.items():
        why_not = lambda query, reason=reason: reason  # noqa: E731
        monkeypatch.setitem(BACKENDS, name, BACKENDS[name]._replace(why_not=why_not))
    choice.warn_once.cache_clear()


def test_a_request_by_name_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    able = BACKENDS["native"]._replace(why_not=lambda query: None)
    monkeypatch.setitem(BACKENDS, "native", able)
    assert choose(PLAIN) == "native"
    with use_backend("torch"):
        assert choose(PLAIN) == "torch"
        assert choose(PLAIN, "reference") == "reference"
        with use_backend("auto"):
            assert choose(PLAIN) == "native"
        assert choose(PLAIN) == "torch"
    assert choose(PLAIN) == "native"


def test_a_context_ends_with_an_error_too() -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    with use_backend("torch"):
        assert choose(PLAIN) == "torch"


@pytest.mark.parametrize("name", ["cuda", "", "Native"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match="expected one of 'auto', 'native'"):
        choose(PLAIN, name)
    with pytest.raises(ValueError, match="backend"), use_backend(name):
        pass


@pytest.mark.parametrize(
    ("name", "query", "reason"),
    [
        ("triton", PLAIN, "on CUDA devices, not on cpu"),
        ("triton", CUDA._replace(dtype=torch.float64), "not torch.float64"),
        ("triton", CUDA._replace(projection=True), "no projection"),
        ("triton", CUDA._replace(reverse=(0,) * 63), "62 recurrences"),
        ("native", CUDA._replace(projection=True), "no projection"),
        ("native", PLAIN._replace(dtype=torch.complex64), "complex64"),
        ("torch", PLAIN._replace(cell="gru_reset_before"), "reset gate before"),
        ("torch", PLAIN._replace(resets=True), "no resets"),
        ("torch", PLAIN._replace(reverse=(1,)), "one forward"),
        ("torch", PLAIN._replace(dtype=torch.float8_e4m3fn), "computes in torch.float8"),
    ],
)
def test_a_backend_asked_for_runs_or_raises(name: str, query: Query, reason: str) -> None:
    with pytest.raises(RuntimeError, match=f"'{name}'.*{reason}"):
        choose(query, name)
    with use_backend(name), pytest.raises(RuntimeError, match=reason):
        choose(query)


def test_past_our_kernels_it_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, native="the build failed")
    with pytest.warns(RuntimeWarning, match="'torch' runs instead; native: the build failed"):
        assert choose(PLAIN) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(PLAIN) == "torch"
    with pytest.warns(RuntimeWarning, match="'reference' runs instead"):
        assert choose(PLAIN._replace(resets=True)) == "reference"


def test_modules_run_without_any_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, native="the build failed")
    module = fused_rnn.FusedLSTM(3, 4, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning):
        y, _ = module(x)
    assert_within_budget(y.detach(), module.to_torch()(x)[0].detach())


def test_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, native="the build failed")
    with pytest.warns(RuntimeWarning):
        lines = explain(PLAIN._replace(resets=True)).splitlines()
    assert lines[0] == "reference runs this"
    assert lines[1] == "  not native: the build failed"
    assert lines[2] == "  not triton: its kernels run on CUDA devices, not on cpu"
    assert "no resets" in lines[3]
    assert len(lines) == 4
    asked = explain(PLAIN, "reference").splitlines()
    assert asked[-1] == "  not torch: reference was asked for"
    with pytest.raises(RuntimeError, match="CUDA devices"):
        explain(PLAIN, "triton")


def test_it_imports_without_the_extension() -> None:
    """As in an installation without a compiler: modules work, doctor's question is answered."""
    script = """
import sys, warnings
sys.modules["fused_rnn._C"] = None
import torch, fused_rnn
from fused_rnn import extensions
assert "fused_rnn._C" in extensions.why_unavailable()
warnings.simplefilter("ignore")
for make in (fused_rnn.FusedRNN, fused_rnn.FusedGRU, fused_rnn.FusedLSTM):
    make(2, 3)(torch.randn(4, 1, 2))[0].sum().backward()
fused_rnn.FusedGRU(2, 3, reset_after=False)(torch.randn(4, 1, 2))[0].sum().backward()
print(fused_rnn.explain(fused_rnn.FusedGRU(2, 3), torch.randn(4, 1, 2)).splitlines()[0])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "torch runs this"


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({}, "sees no CUDA device"),
        (
            {"is_available": lambda: True, "get_device_capability": lambda _: (7, 5)},
            "capability 8.0",
        ),
        ({"is_available": lambda: True, "get_device_capability": lambda _: (9, 0)}, "imported"),
    ],
    ids=["device", "capability", "triton"],
)
def test_why_triton_cannot_run_here(
    replaced: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, function in replaced.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert reason in triton.why_unavailable.__wrapped__()


def test_triton_is_imported_for_its_own_inputs_only() -> None:
    script = """
import sys, torch, fused_rnn
print(fused_rnn.explain(fused_rnn.FusedGRU(2, 3), torch.randn(4, 1, 2)))
assert not any(name.partition(".")[0] == "triton" for name in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
