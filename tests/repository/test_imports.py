# SPDX-License-Identifier: MIT
"""The architecture's list of what may import what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What stands at the top of the package, ground floor upwards: a module imports from its own floor
# or a lower one.
FLOORS = (
    {"extensions", "testing", "_C", "_C_cuda"},
    {"ops"},
    {"backends"},
    {"_call"},
    {"functional", "nn"},
    {"interop", "rl"},
    {"__init__", "_moved"},
    {"text"},
    {"seq2seq"},
    {"cli", "__main__"},
)
# Inside these, parts know one another by way of the floors below alone.
BACKENDS = {"native", "aten", "reference", "triton"}
# Applications know modules, and what a search asks of its rows; `doctor` reports on the backends,
# and judges what it times.
APPLICATIONS = {"text", "seq2seq", "cli", "__main__"}
KNOWN = APPLICATIONS | {"nn", "ops.selection", "__init__", "_moved"}
DOCTOR = {"backends", "extensions", "testing"}
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


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.partition(".")[0] == "fused_rnn"}


FILES = sorted((ROOT / "fused_rnn").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path: Path) -> None:
    own = path.relative_to(ROOT / "fused_rnn").with_suffix("").parts[0]
    assert not {name for name in imports(path) if name.partition(".")[0] in ("tests", "bench")}
    if own not in ("interop", "rl"):
        others = set().union(*PEERS.values())
        assert not {name.partition(".")[0] for name in imports(path)} & others
    for name in own_imports(path):
        assert floor(part(name)) <= floor(own), f"{own} imports {name}"


@pytest.mark.parametrize("own", sorted(APPLICATIONS))
def test_applications_know_modules(own: str) -> None:
    for path in FILES:
        if path.relative_to(ROOT / "fused_rnn").with_suffix("").parts[0] != own:
            continue
        known = KNOWN | (DOCTOR if path.stem in ("doctor", "proving") else set())
        for name in own_imports(path):
            found = part(name), ".".join(name.split(".")[1:3])
            assert not known.isdisjoint(found), f"application {path.name} imports {name}"


@pytest.mark.parametrize("own", sorted(BACKENDS))
def test_backends_do_not_know_one_another(own: str) -> None:
    folder = ROOT / "fused_rnn" / "backends"
    files = [path for path in FILES if own in path.relative_to(folder.parent).with_suffix("").parts]
    assert files
    for path in files:
        for name in own_imports(path) - {"fused_rnn.extensions"}:
            known = (f"fused_rnn.backends.{own}", "fused_rnn.backends.backend")
            assert name.startswith(known) or part(name) == "ops", f"backend {own} imports {name}"


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
    files = [*ROOT.glob("bench/*.py"), *ROOT.glob("tests/**/*.py")]
    files = [path for path in files if not path.name.startswith("test_interop_")]
    found = {path.name: {name.partition(".")[0] for name in imports(path)} for path in files}
    assert {name for name, modules in found.items() if modules & PEERS[home]} == {home}
    assert found[home] >= PEERS[home]
