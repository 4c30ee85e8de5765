# SPDX-License-Identifier: MIT
"""The architecture's list of what may import what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Ground floor upwards; a module imports from its own floor or a lower one.
FLOORS = (
    {"schemas", "native", "_C", "_C_cuda"},
    {"ops", "validation", "testing", "reference", "torch_backend", "triton", "exporting"},
    {"transforms", "packing", "recomputed", "precision", "products", "selection", "identity"}
    | {"rebinding", "flops", "overrides", "per_sample", "proven", "forms", "stored"}
    | {"calls", "pieces", "piecewise"},
    {"autograd", "backends"},
    {"stacks", "functional", "prepacking"},
    {"layer", "linear", "cells", "modules", "conversion", "flat_weights", "subclasses"}
    | {"quantized"},
    {"fuse", "recurrent", "patching", "quantization", "interop", "rl"},
    {"__init__"},
    {"text", "seq2seq", "cli", "__main__"},
)
BACKENDS = {"reference", "native", "torch_backend", "triton"}
# Applications know layers; `doctor` reports on the backends, and judges what it times.
LAYERS = {"layer", "linear", "cells", "modules", "fuse", "prepacking", "selection", "__init__"}
DOCTOR = {"backends", "native", "proven", "testing"}
# Functions that import what their argument names.
IMPORTERS = ("import_module", "_imported")
# The one file for each kind of peers that imports them.
PEERS = {
    "peers.py": {"onnx", "onnxruntime", "jax", "flashrnn"},
    "episodes.py": {"sb3_contrib", "stable_baselines3", "tensordict", "torchrl"},
    "search_peers.py": {"transformers", "joeynmt", "onmt", "speechbrain"},
}


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, `from` names included."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else ()
            name = ".".join((*base, *([node.module] if node.module else [])))
            yield from (f"{name}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTERS):
            yield from (str(name.value) for name in node.args if isinstance(name, ast.Constant))


def part(name: str) -> str:
    """The part of the package that holds a full name; its own names are __init__'s."""
    first = name.split(".")[1] if "." in name else "__init__"
    return first if any(first in floor for floor in FLOORS) else "__init__"


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


FILES = sorted((ROOT / "fused_rnn").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path: Path) -> None:
    own = path.relative_to(ROOT / "fused_rnn").with_suffix("").parts[0]
    outside = {name for name in imports(path) if name.partition(".")[0] in ("tests", "bench")}
    assert not outside
    if own not in ("interop", "rl"):
        others = set().union(*PEERS.values())
        assert not {name.partition(".")[0] for name in imports(path)} & others
    for other in {part(name) for name in imports(path) if name.startswith("fused_rnn")} - {own}:
        assert floor(other) <= floor(own), f"{own} imports {other}"
        if own in BACKENDS:
            assert other in ("ops", "_C", "_C_cuda"), f"backend {own} imports {other}"
        if floor(own) == len(FLOORS) - 1:
            allowed = (
                LAYERS | FLOORS[-1] | (DOCTOR if path.stem in ("doctor", "proving") else set())
            )
            assert other in allowed, f"application {path.name} imports {other}"


def test_every_module_has_its_floor() -> None:
    known = set().union(*FLOORS)
    assert {
        path.relative_to(ROOT / "fused_rnn").with_suffix("").parts[0] for path in FILES
    } <= known


def test_other_frameworks_are_imported_when_they_are_asked_for() -> None:
    names = ("onnx", "keras", "flax", "jax", "haiku", "equinox")
    code = f"import sys, fused_rnn.interop; print([n for n in {names} if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("home", PEERS)
def test_peers_are_imported_in_one_file(home: str) -> None:
    files = [*ROOT.glob("bench/*.py"), *ROOT.glob("tests/*.py")]
    files = [path for path in files if not path.name.startswith("test_interop_")]
    found = {path.name: {name.partition(".")[0] for name in imports(path)} for path in files}
    assert {name for name, modules in found.items() if modules & PEERS[home]} == {home}
    assert found[home] >= PEERS[home]
