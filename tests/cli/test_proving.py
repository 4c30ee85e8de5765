# SPDX-License-Identifier: MIT
"""`fused-rnn doctor --prove`, the CPU's kernels in place of a GPU's."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import need

from fused_rnn import extensions
from fused_rnn.backends import proven
from fused_rnn.backends.choice import BACKENDS
from fused_rnn.cli import proving
from fused_rnn.cli.main import main
from fused_rnn.cli.proving import Seat, Shape

SHAPES = (Shape(5, 3, 8), Shape(7, 2, 20))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    need("native")
    monkeypatch.setattr(proving, "SHAPES", SHAPES)


def seat(**replaced: Any) -> Seat:
    """The CPU, on which one kernel runs everything."""
    kernel = "the one kernel"
    cpu = Seat(
        torch.device("cpu"),
        ("native",),
        synchronize=lambda: None,
        planned=lambda *_: kernel,
        ran=lambda backward: kernel,
        check_waits=lambda: None,
    )
    return cpu._replace(**replaced)


def run_wrongly(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[int, Any], Any], cell: str = "FusedGRU"
) -> None:
    """Has a layer's native outputs spoiled, which are counted."""
    layer = getattr(proving, cell)
    right, calls = layer.forward, []

    def forward(self: Any, x: Any) -> Any:
        y, state = right(self, x)
        if proving.choice.asked_for("auto") != "native":
            return y, state
        calls.append(None)
        return spoil(len(calls), y), state

    monkeypatch.setattr(layer, "forward", forward)


def test_all_is_right_here() -> None:
    lines: list[str] = []
    found = proving.prove(seat(), lines.append)
    assert set(found) == {"native"} and len(found["native"]) == 5 * 4
    assert set(found["native"].values()) == {""}
    assert re.fullmatch(r" +cell +type +native *", lines[0]) and len(lines) == 1 + 5 * 4
    assert all(line.rstrip().endswith("right") for line in lines[1:])


def test_what_is_wrong_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    run_wrongly(monkeypatch, lambda call, y: y * 1.1)
    lines: list[str] = []
    found = proving.prove(seat(), lines.append)["native"]
    assert {word for word, why in found.items() if why} == {
        f"{cell} {dtype}"
        for cell in ("gru", "gru_reset_before")
        for dtype in ("float64", "float32", "bfloat16", "float16")
    }
    assert re.match(r"T=5 B=3 H=8: .*max error .* of ", found["gru bfloat16"])
    assert f"    native: {found['gru bfloat16']}" in "\n".join(lines)


def test_a_second_call_must_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    run_wrongly(monkeypatch, lambda call, y: y if call % 2 else y.nextafter(y + 1))
    monkeypatch.setattr(proving, "DTYPES", (torch.float32,))
    assert "other bits" in proving.prove(seat(), len)["native"]["gru float32"]


def ran_out() -> None:
    raise RuntimeError("tier cluster: a wait ran out\nat a shape")


def test_a_wait_that_ran_out_is_told_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    run_wrongly(monkeypatch, lambda call, y: ran_out() if call > 1 else y)
    verdict = proving.prove(seat(), len)["native"]["gru float64"]
    assert verdict == "T=5 B=3 H=8: tier cluster: a wait ran out"


def test_a_wait_of_the_last_call_is_asked_for() -> None:
    verdicts = proving.prove(seat(check_waits=ran_out), len)["native"].values()
    assert set(verdicts) == {"T=5 B=3 H=8: tier cluster: a wait ran out"}


@pytest.mark.parametrize("pass_", [False, True], ids=["forward", "backward"])
def test_the_tier_planned_must_be_the_one_that_ran(pass_: bool) -> None:
    ran = seat(ran=lambda backward: "tier stepwise" if backward == pass_ else "the one kernel")
    verdicts = proving.prove(ran, len)["native"].values()
    assert set(verdicts) == {"T=5 B=3 H=8: planned was the one kernel; what ran is tier stepwise"}


def test_a_lost_device_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("an illegal access")

    lines: list[str] = []
    found = proving.prove(seat(synchronize=lost), lines.append)
    assert found == {"native": {"rnn_tanh float64": "T=5 B=3 H=8: an illegal access"}}
    assert lines[-1] == "  rnn_tanh float64: the device was lost, by native: an illegal access"


def test_types_that_a_backend_has_not_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    unable = BACKENDS["triton"]._replace(why_not=lambda query: "not here")
    monkeypatch.setitem(BACKENDS, "triton", unable)
    found = proving.prove(seat(backends=("native", "triton")), len)
    assert found["triton"] == {} and len(found["native"]) == 20


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line to the file that `auto` reads."""
    monkeypatch.setattr(proven, "_CACHE", tmp_path)
    monkeypatch.setattr(proven, "key_of", lambda index: proven.Key("a device", *"1234"))
    monkeypatch.setattr(proving, "cuda_seat", lambda index: seat())
    monkeypatch.setattr(extensions, "fallbacks", lambda: {"tier cluster": 3})
    for name, function in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda index=0: "a device",
        "get_device_capability": lambda index=0: (9, 0),
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    assert main(["doctor", "--prove"]) == 0
    shown = capsys.readouterr().out
    assert "Proving device 0, a device:" in shown
    assert "tier cluster was refused as too large 3 times" in shown
    (path,) = tmp_path.iterdir()
    assert f"Kept in {path}" in shown
    assert proven.why_unproven("native", "gru", "bfloat16", 0) is None
    assert "nothing proves it" in str(proven.why_unproven("triton", "gru", "bfloat16", 0))
    run_wrongly(monkeypatch, lambda call, y: y * 1.1)
    assert main(["doctor", "--prove"]) == 1
    assert "T=5 B=3 H=8" in str(proven.why_unproven("native", "gru", "bfloat16", 0))
    for function in (proven._verdicts, proven._why_unproven):
        function.cache_clear()


def test_without_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "--prove"]) == 1
    assert "no CUDA device to prove" in capsys.readouterr().out
