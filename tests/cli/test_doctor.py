# SPDX-License-Identifier: MIT
"""`fused-rnn doctor`."""

import re
from typing import Any

import pytest
import torch

from fused_rnn import extensions
from fused_rnn.backends import choice
from fused_rnn.backends.backend import Query
from fused_rnn.cli import doctor
from fused_rnn.cli.main import main


def test_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert torch.__version__ in shown and "devices" in shown
    for name, backend in choice.BACKENDS.items():
        reason = backend.why_not(Query("gru", torch.float32, "cpu"))
        (line,) = re.findall(rf"^  cpu +{name} .*$", shown, re.MULTILINE)
        assert line.endswith("runs" if reason is None else f"no: {reason}")
    if extensions.why_unavailable() is None:
        assert f"in use: {extensions.instruction_set()}" in shown
        for dtype in extensions.DTYPES:
            name = str(dtype).removeprefix("torch.")
            (line,) = re.findall(rf"^  {name} .*$", shown, re.MULTILINE)
            assert f"served by {extensions.serving(dtype)[0]}" in line
            rates = dict(re.findall(r"(\w+) (\d+)[,;]", line))
            assert extensions.serving(dtype)[0] in rates and "portable" in rates
            assert all(int(rate) > 0 for rate in rates.values())
        assert re.search(rf"^AMX +{extensions.why_not_amx() or 'yes'}", shown, re.MULTILINE)


def test_reason_without_kernels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extensions, "why_unavailable", lambda: "it was not built")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"native kernels +none: it was not built", shown)
    assert re.search(r"cpu +native +no: it was not built", shown)


def test_shape(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 0.1)
    assert main(["doctor", "--shape", "3,5,7,9"]) == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"^  Fused(\w+) +(\w+) +([\d.]+) +([\d.]+) +([\d.]+)x  \w+$", shown, re.M)
    assert [row[:2] for row in rows] == [
        (cell, mode) for cell in ("RNN", "GRU", "LSTM") for mode in ("infer", "train")
    ]
    for *_, ours, theirs, ratio in rows:
        assert float(theirs) / float(ours) == pytest.approx(float(ratio), rel=0.1, abs=0.02)


def test_what_is_wrong_is_not_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 0.1)
    right = doctor.FusedGRU.forward

    def wrong(*arguments: Any) -> Any:
        y, h = right(*arguments)
        query = Query("gru", torch.float32, "cpu")
        return (y if choice.choose(query) == "reference" else y * 1.001), h

    monkeypatch.setattr(doctor.FusedGRU, "forward", wrong)
    assert main(["doctor", "--shape", "3,5,7,9"]) == 1
    rows = re.findall(r"^  Fused(\w+) .*(x  \w+|wrong: .*)$", capsys.readouterr().out, re.M)
    assert [cell for cell, end in rows if end.startswith("wrong: ")] == ["GRU", "GRU"]
    assert len(rows) == 6


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,0", "a,b,c,d", "1,2,3,4.5"])
def test_bad_shape(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", "--shape", text])
    assert exit_.value.code == 2
    assert "expected B,T,I,H as in 32,64,256,256" in capsys.readouterr().err
