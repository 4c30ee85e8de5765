# SPDX-License-Identifier: MIT
"""nvcc compiles every kernel, without spilling what has to stay in registers; no GPU is needed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import instructions
from bench.instructions import Kernel
from fused_rnn import extensions
from fused_rnn.extensions import CudaDevice, cuda_plan

ROOT = Path(__file__).parents[3]
H200 = CudaDevice(processors=132, shared_bytes=232448, cluster=16)
NO_CLUSTERS = H200._replace(cluster=1)
A10 = CudaDevice(processors=72, shared_bytes=101376)
# Launched once for all steps: what they spill is paid every step.
PERSISTENT = re.compile(r"(block|exact|cluster|grid)_(forward|backward)_kernel")


def kernels(architecture: str) -> dict[str, str]:
    """What ptxas says of each kernel, by mangled name."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        pytest.skip("nvcc is not installed")
    build = ROOT / "build" / f"cuda-{architecture}"
    command = ["make", "-C", str(ROOT / "csrc" / "cuda"), f"-j{os.cpu_count()}", f"NVCC={nvcc}"]
    command += [f"BUILD={build}", f"ARCHITECTURES={architecture}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, str] = {}
    for log in build.glob("*.log"):
        for part in log.read_text().split("Compiling entry function '")[1:]:
            found[part.partition("'")[0]] = part
    return found


def check(architecture: str) -> None:
    found = kernels(architecture)
    persistent = {name: text for name, text in found.items() if PERSISTENT.search(name)}
    assert len(persistent) >= 120
    for name, text in persistent.items():
        spilled = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", text)
        assert spilled and not any(int(count) for count in spilled), f"{name}: {text}"


def test_kernels_compile_for_hopper() -> None:
    check("90a")


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["80", "100a"])
def test_kernels_compile(architecture: str) -> None:
    check(architecture)


@pytest.mark.long
@pytest.mark.parametrize("kernel", instructions.KERNELS, ids=lambda kernel: kernel.source)
def test_a_step_takes_no_more_instructions(kernel: Kernel) -> None:
    """Loops over time are bound by how fast instructions are issued."""
    tool = instructions.disassembler()
    if tool is None:
        pytest.skip("cuobjdump is not installed")
    kernels("90a")
    assert instructions.count(kernel, tool, ROOT / "build" / "cuda-90a") <= kernel.limit


@pytest.mark.long
def test_the_extension_links(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    # With objects that were tested above; all architectures in one file take minutes more.
    kernels("90a")
    objects = tmp_path / "objects"
    objects.mkdir()
    for folder, built in (("cuda", "cuda-90a"), ("cpu", "cpu")):
        (objects / folder).symlink_to(ROOT / "build" / built, target_is_directory=True)
    own = {"FUSED_RNN_CUDA": "1", "FUSED_RNN_OBJECTS": str(objects)}
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-temp", str(tmp_path / "temp"), "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, cwd=ROOT, env=os.environ | own, check=True)
    assert list(tmp_path.glob("lib/fused_rnn/_C_cuda.*.so"))


@pytest.fixture
def planner() -> None:
    if extensions.why_unavailable() is not None:
        pytest.skip(f"native: {extensions.why_unavailable()}")


def plan(
    dtype: torch.dtype,
    hidden: int,
    device: CudaDevice = NO_CLUSTERS,
    batch: int = 16,
    *,
    backward: bool = False,
) -> str:
    sizes = {"steps": 64, "batch": batch, "recurrences": 2, "hidden": hidden}
    return cuda_plan("lstm", dtype, **sizes, device=device, backward=backward)


@pytest.mark.usefixtures("planner")
def test_plans() -> None:
    assert "tier block, 4 blocks of 256 threads, 8 rows" in plan(torch.bfloat16, 128)
    # Half a pass each, where that lets more groups of rows run at once.
    assert "tier grid, 36 blocks of 256 threads, 8 rows" in plan(torch.float16, 129)
    assert "tier grid, 128 blocks of 256 threads, 8 rows" in plan(torch.float16, 512)
    assert "tier grid, 130 blocks of 256 threads, 16 rows" in plan(torch.float16, 1025)
    assert "above 2048" in plan(torch.float16, 2049)
    assert "128 blocks would have to run at once, on 72" in plan(torch.float16, 1024, A10)
    assert "48 rows" in plan(torch.bfloat16, 512, batch=90)
    assert "above 64" in plan(torch.bfloat16, 1024, batch=65)
    assert "64 rows" in plan(torch.bfloat16, 1056, batch=64)
    assert "64 rows" in plan(torch.bfloat16, 1056, batch=64, backward=True)
    assert "above 64" in plan(torch.bfloat16, 1040, batch=65)
    assert "tier exact, 32 blocks of 512 threads, 1 rows" in plan(torch.float32, 64)
    assert "4 rows" in plan(torch.float32, 64, batch=128)
    assert plan(torch.float32, 100, A10).startswith("tier stepwise")
    assert plan(torch.float64, 300).startswith("tier stepwise")


@pytest.mark.usefixtures("planner")
def test_plans_of_clusters() -> None:
    half = torch.bfloat16
    assert "tier block" in plan(half, 128, H200)
    assert "tier cluster, 64 blocks in clusters of 16 of 128 threads, 8 rows" in plan(
        half, 256, H200
    )
    assert "tier cluster, 64 blocks in clusters of 16 of 256 threads, 8 rows" in plan(
        half, 512, H200
    )
    # Equal shares: the smaller cluster.
    assert "in clusters of 8 of 256 threads, 8 rows" in plan(half, 256, H200, batch=56)
    for backward in (False, True):
        found = plan(half, 768, H200, backward=backward)
        assert "tier cluster, 64 blocks in clusters of 16 of 384 threads, 8 rows" in found
    assert "tier grid, 98 blocks of 256" in plan(half, 769, H200)
    # Three clusters for each direction, whose rows are too many for shared memory.
    assert "tier grid" in plan(half, 768, H200, batch=32)


@pytest.mark.usefixtures("planner")
def test_plans_of_two_dimensions() -> None:
    half = torch.bfloat16
    by_ranks = "tier grid, 112 blocks in clusters of 8 of 256 threads, 16 rows"
    for hidden in (769, 896):
        assert by_ranks in plan(half, hidden, H200, backward=True)
    # More than seven clusters for each direction; more rows than all of them take.
    assert "tier grid, 114 blocks of 256 threads" in plan(half, 900, H200, backward=True)
    assert "tier grid, 98 blocks of 256" in plan(half, 769, NO_CLUSTERS, backward=True)
    assert "64 rows" in plan(half, 769, H200, 64, backward=True)
    assert plan(half, 769, H200, 65, backward=True).startswith("tier stepwise")
    fours = H200._replace(cluster=4)
    assert "in clusters of 4 of 256 threads" in plan(half, 769, fours, backward=True)


@pytest.mark.usefixtures("planner")
def test_plans_of_unknown_things() -> None:
    with pytest.raises(RuntimeError, match="dtype: expected float32"):
        plan(torch.int8, 64)


@pytest.mark.parametrize(
    ("built", "capability", "able"),
    [
        ("80 90a 100a", (7, 5), False),
        ("80 90a 100a", (8, 0), True),
        ("80 90a 100a", (8, 9), True),
        ("80 90a 100a", (9, 0), True),
        ("80 90a 100a", (10, 0), True),
        ("80 90a 100a", (10, 3), False),
        ("80 90a 100a", (12, 0), False),
        ("90a", (8, 0), False),
        ("90a", (10, 0), False),
        ("86", (8, 0), False),
        ("80 90a 100a", (8, 7), False),
        ("80 87", (8, 7), True),
        ("87", (8, 9), False),
    ],
)
def test_devices_that_were_built_for(
    built: str, capability: tuple[int, int], able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extensions, "_CUDA_REASON", None)
    monkeypatch.setattr(extensions, "_cuda_build_info", lambda: {"CUDA architectures": built})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    reason = extensions._why_not_built_for.__wrapped__(0)
    expected = f"built for {built}, device 0 has compute capability " + "{}.{}".format(*capability)
    assert reason is None if able else expected in str(reason)
