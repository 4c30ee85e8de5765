# SPDX-License-Identifier: MIT
"""Packages of AOTInductor in a C++ program without Python, on the library of compiled ops."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.export import Dim

import fused_rnn
from fused_rnn.ops import schemas
from fused_rnn.testing import assert_within_budget

FOLDER = Path(__file__).parent / "serving"
LIBRARY = Path(fused_rnn.__file__).with_name("libfused_rnn_ops.so")


class Tagger(nn.Module):
    """Layers as a model has them: two directions, layers on top of each other, ragged batches."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = fused_rnn.FusedLSTM(8, 32, num_layers=2, bidirectional=True)
        self.decoder = fused_rnn.FusedGRU(64, 16, reset_after=False)
        self.step = fused_rnn.FusedGRUCell(16, 16)
        self.logits = nn.Linear(16, 5)

    def forward(self, x: Tensor, lengths: Tensor, resets: Tensor) -> tuple[Tensor, ...]:
        features, (hn, cn) = self.encoder(x, lengths=lengths)
        decoded, last = self.decoder(features, resets=resets)
        return self.logits(decoded), hn, cn, self.step(last[0], decoded[0])


def quantized() -> nn.Module:
    return fused_rnn.quantize(Tagger().eval())


MODELS: dict[str, Callable[[], nn.Module]] = {"float32": Tagger, "int8": quantized}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("native")
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    build = tmp_path_factory.mktemp("serve")
    options = {"CMAKE_PREFIX_PATH": torch.utils.cmake_prefix_path, "FUSED_RNN": LIBRARY.parent}
    configure = ["cmake", "-S", FOLDER, "-B", build]
    configure += [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run([*configure, "-DCMAKE_BUILD_TYPE=Release"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    return build / "serve"


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_a_program_without_python(name: str, program: Path, tmp_path: Path) -> None:
    model = MODELS[name]().eval()
    steps, batch = Dim("steps", min=2), Dim("batch", min=2)

    def inputs(T: int, B: int) -> tuple[Tensor, ...]:
        lengths = torch.randint(0, T + 1, (B,))
        return torch.randn(T, B, 8), lengths, torch.rand(T, B) < 0.2

    with torch.no_grad():
        exported = torch.export.export(
            model,
            inputs(7, 3),
            dynamic_shapes=({0: steps, 1: batch}, {0: batch}, {0: steps, 1: batch}),
        )
    package = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(tmp_path / "model.pt2")
    )
    files = [tmp_path / "inputs.pt", tmp_path / "outputs.pt"]
    for T, B in ((7, 3), (40, 2)):
        given = inputs(T, B)
        torch.save(list(given), files[0])
        # Nothing of Python's is in reach.
        bare = {"PATH": "/nowhere", "TMPDIR": str(tmp_path)}
        subprocess.run([program, package, *files], env=bare, check=True)
        with torch.no_grad():
            expected = model(*given)
        for index, (found, one) in enumerate(zip(torch.load(files[1]), expected, strict=True)):
            assert_within_budget(found, one.double(), one, name=f"output {index}")


@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils are not installed")
def test_the_libraries_need_nothing_of_python() -> None:
    need("native")
    libraries = list(LIBRARY.parent.glob("libfused_rnn_ops*.so"))
    assert LIBRARY in libraries
    for library in libraries:
        found = subprocess.run(
            ["nm", "--dynamic", library], check=True, capture_output=True, text=True
        ).stdout
        names = [line.split()[-1] for line in found.splitlines()]
        assert not [name for name in names if name.startswith(("Py", "_Py"))]


def test_the_library_brings_the_schemas_that_python_has() -> None:
    """They are made of one file when it is built; a library that was left behind would differ."""
    need("native")
    for name, schema in schemas.COMPILED.items():
        found = getattr(torch.ops.fused_rnn, name).default._schema
        assert str(found) == str(torch._C.parse_schema(f"fused_rnn::{name}{schema}"))
