# SPDX-License-Identifier: MIT
"""`auto` on a CUDA device: kernels only where they are proven, device by device."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fused_rnn import extensions
from fused_rnn.backends import choice, proven, triton
from fused_rnn.backends.choice import Query, choose, explain, why_not
from fused_rnn.backends.proven import Proof

CARD, H200 = 0, 1
CAPABILITIES = {CARD: (7, 5), H200: (9, 0)}
HALF = Query("gru", torch.bfloat16, "cuda", device_index=H200, hidden=512)
EXACT = HALF._replace(dtype=torch.float32)
ROOT = Path(__file__).parents[3]


def forget() -> None:
    """Empties what is remembered of devices."""
    for function in (proven._why_unproven, proven._verdicts, proven._library):
        function.cache_clear()
    for function in (
        extensions._why_not_built_for,
        extensions._largest_kept,
        triton.why_unavailable,
    ):
        function.cache_clear()
    choice.warn_once.cache_clear()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A display card beside an H200, kernels built for the latter, and an empty cache."""
    monkeypatch.setattr(extensions, "_CUDA_REASON", None)
    monkeypatch.setattr(extensions, "_cuda_build_info", lambda: {"CUDA architectures": "80 90a"})
    monkeypatch.setattr(
        extensions, "cuda_device", lambda _: extensions.CudaDevice(132, 227 * 1024, 16)
    )
    monkeypatch.setattr(proven, "_CACHE", tmp_path / "cache" / "fused_rnn")
    monkeypatch.setattr(proven, "_driver", lambda: "13000 580.1")
    for name, function in {
        "is_available": lambda: True,
        "device_count": lambda: len(CAPABILITIES),
        "current_device": lambda: CARD,
        "get_device_capability": lambda index=CARD: CAPABILITIES[index],
        "get_device_name": lambda index=CARD: f"a device of {CAPABILITIES[index]}",
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    forget()
    yield
    forget()


def prove(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    table = tuple(Proof((9, 0), name, "gpu-first.jsonl", "0123456789ab") for name in names)
    monkeypatch.setattr(proven, "PROVEN", table)
    forget()


def test_without_proof_torch_runs_and_the_ways_to_try_are_named() -> None:
    with pytest.warns(RuntimeWarning, match="'torch' runs instead") as said:
        assert choose(HALF) == "torch"
    text = str(said[0].message)
    assert 'backend="native"' in text and "`python -m fused_rnn doctor --prove`" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(HALF) == "torch"
    lines = explain(HALF, "torch").splitlines()
    assert lines[1].startswith("  not native: nothing proves it yet on devices of compute cap")
    with pytest.warns(RuntimeWarning, match="'reference' runs instead"):
        assert choose(HALF._replace(resets=True)) == "reference"


def test_what_is_asked_for_runs_unproven() -> None:
    assert choose(HALF, "native") == "native"
    with choice.use_backend("native"):
        assert choose(HALF) == "native"


def test_the_table_proves_a_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    prove(monkeypatch, "native")
    assert choose(HALF) == "native"
    monkeypatch.setitem(CAPABILITIES, H200, (8, 0))
    forget()
    with pytest.warns(RuntimeWarning, match=r"capability 8\.0"):
        assert choose(HALF) == "torch"


def test_every_proof_names_a_result_and_a_commit() -> None:
    for proof in proven.PROVEN:
        lines = (ROOT / "bench" / "results" / proof.results).read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert any(
            (row["served_by"], row["commit"]) == (proof.backend, proof.commit) and row["p50"]
            for row in rows
        )


def test_a_verdict_is_kept_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"native": {"gru bfloat16": "", "lstm bfloat16": "y: got nan"}}
    path = proven.save(H200, found)
    assert list(path.parent.iterdir()) == [path]
    for _ in range(2):
        assert choose(HALF) == "native"
        with pytest.warns(RuntimeWarning, match="found on this device: y: got nan"):
            assert choose(HALF._replace(cell="lstm")) == "torch"
        assert why_not("native", HALF._replace(cell="rnn_relu")) is not None
        forget()
    # A failure here counts more than what is known of others.
    prove(monkeypatch, "native")
    assert "y: got nan" in str(why_not("native", HALF._replace(cell="lstm")))
    assert why_not("native", HALF._replace(cell="rnn_relu")) is None


@pytest.mark.parametrize("part", ["device", "driver", "torch", "triton", "library"])
def test_a_verdict_holds_for_its_key_alone(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proven.save(H200, {"native": {"gru bfloat16": ""}})
    assert why_not("native", HALF) is None
    key = proven.key_of(H200)._replace(**{part: "another"})
    monkeypatch.setattr(proven, "key_of", lambda index: key)
    forget()
    assert why_not("native", HALF) is not None


def test_other_kernels_have_another_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are in the library, not in the module that Python imports."""
    module = ModuleType("_C_cuda")
    module.__file__ = str(tmp_path / "_C_cuda.so")
    monkeypatch.setattr(extensions, "_CUDA", module)
    found = set()
    for kernels in (b"these", b"others"):
        (tmp_path / "libfused_rnn_ops_cuda.so").write_bytes(kernels)
        proven._library.cache_clear()
        found.add(proven._library())
    assert len(found) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"verdicts": []}', '{"verdicts": {"native": 1}}']
)
def test_a_broken_file_proves_nothing(text: str) -> None:
    path = proven.save(H200, {"native": {"gru bfloat16": ""}})
    path.write_text(text)
    forget()
    assert "nothing proves it yet" in str(why_not("native", HALF))


def test_a_file_that_cannot_be_written_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*paths: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(proven.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        proven.save(H200, {})
    assert not list(proven._CACHE.iterdir())


def test_a_display_card_decides_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    prove(monkeypatch, "native", "triton")
    card = HALF._replace(device_index=CARD)
    assert "device 0 has compute capability 7.5" in str(why_not("native", card))
    assert "compute capability 8.0" in str(why_not("triton", card))
    assert why_not("native", HALF) is None
    assert "compute capability" not in str(why_not("triton", HALF))
    # The current device, where none is named.
    assert "device 0" in str(why_not("native", HALF._replace(device_index=None)))


def test_large_float32_layers_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    prove(monkeypatch, "native", "triton")
    monkeypatch.setattr(triton, "_why_unavailable", lambda index: None)
    if extensions.why_unavailable() is not None:
        pytest.skip(f"native: {extensions.why_unavailable()}")
    assert why_not("native", EXACT._replace(hidden=128)) is None
    for name, kept in (("native", 128), ("triton", 32)):
        said = f"of more than {kept} units it reads the weights in torch.float32 anew for each step"
        assert why_not(name, EXACT) == said
        # No plan is known to be too large, and none is PyTorch's.
        assert why_not(name, EXACT._replace(hidden=None)) is None
        assert why_not(name, EXACT._replace(resets=True)) is None
        assert why_not(name, HALF) is None
    with pytest.warns(RuntimeWarning, match="anew for each step"):
        assert choose(EXACT) == "torch"
    assert f"not native: {said.replace('32 units', '128 units')}" in explain(EXACT)


def test_a_choice_in_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler does not look into what asks devices; sizes it does not know yet may differ."""

    def sign(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        query = EXACT._replace(hidden=w.shape[0])
        return x if choose(query) == "native" else -x

    # The compiler would ask for the state of its random numbers.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    x = torch.ones(1)
    torch._dynamo.reset()
    assert torch.compile(sign, fullgraph=True, backend="eager")(x, torch.ones(64)) == -1
    prove(monkeypatch, "native")
    if extensions.why_unavailable() is not None:
        pytest.skip(f"native: {extensions.why_unavailable()}")
    torch._dynamo.reset()
    compiled = torch.compile(sign, fullgraph=True, backend="eager", dynamic=True)
    for hidden, expected in ((64, 1), (128, 1), (200, -1), (100, 1)):
        assert compiled(x, torch.ones(hidden)) == expected
