# SPDX-License-Identifier: MIT
"""Instructions of a time step of the CUDA kernels, counted in what nvcc makes of them.

`python -m bench.instructions` compiles them for compute capability 9.0 and writes
bench/results/instructions.md; no GPU is needed.
"""

import re
import shutil
import subprocess
from importlib import util
from pathlib import Path
from typing import NamedTuple

from bench.machine import ROOT

BUILD = ROOT / "build" / "cuda-90a"
RESULT = ROOT / "bench" / "results" / "instructions.md"
_LSTM_BF16 = "ILNS_4CellE4ENS_4Bf16E"  # the first template arguments, as they are mangled


class Kernel(NamedTuple):
    """What is counted of LSTM in bfloat16, by the object and the mangled name it stands in."""

    tier: str
    shape: str
    source: str
    name: str
    # Of the loops that hold all products: the innermost is a pass of sixteen rows, of which a step
    # of the grid tier has one where B is at most 16; else the outermost, a step.
    innermost: bool
    limit: int  # what the tests allow
    target: int  # what was found to be possible, see bench/LOG.md


KERNELS = (
    Kernel("cluster forward", "H 512", "cluster_forward", "Li3ELi16EE", False, 410, 450),
    Kernel("cluster backward", "H 512", "cluster_backward", "Li3ELi16EE", False, 530, 650),
    Kernel("grid forward", "H 1024, B 16", "grid_forward", "Li8ELi0EE", True, 580, 600),
    Kernel(
        "grid backward by two dimensions",
        "H 1024, B 16",
        "grid_cluster_backward",
        "Li8ELb0EE",
        True,
        800,
        800,
    ),
    Kernel("block forward", "H 128", "block_forward", "Li8ELb1EE", False, 410, 550),
    Kernel("block backward", "H 128", "block_backward", "Li8ELb1EE", False, 660, 880),
)


def disassembler() -> str | None:
    """Path of cuobjdump: the system's, CUDA's or the one that Triton brings; None without any."""
    triton = util.find_spec("triton")
    places = [Path("/usr/local/cuda/bin")]
    if triton is not None and triton.origin is not None:
        places.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    found = (shutil.which("cuobjdump", path=place) for place in places)
    return shutil.which("cuobjdump") or next(filter(None, found), None)


def loops(disassembly: str) -> list[tuple[int, int]]:
    """Instructions and matrix products of each loop: of what lies between a branch back and where
    it goes.
    """
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", disassembly, re.MULTILINE)
    code = [(int(address, 16), text) for address, text in lines]
    found = []
    for end, text in code:
        target = re.search(r"\bBRA\S*\s.*?0x([0-9a-f]+)", text)
        if target is None or int(target[1], 16) > end:
            continue
        inside = [one for at, one in code if int(target[1], 16) <= at <= end]
        found.append((len(inside), sum("HMMA" in one for one in inside)))
    return found


def step_loop(disassembly: str, innermost: bool) -> int:
    """Instructions of the innermost or outermost loop that holds as many products as any.

    Raises:
        ValueError: no loop has a product.
    """
    counted = loops(disassembly)
    most = max((products for _, products in counted), default=0)
    if most == 0:
        raise ValueError("disassembly: expected a loop with matrix products, got none")
    whole = [length for length, products in counted if products == most]
    return min(whole) if innermost else max(whole)


def count(kernel: Kernel, tool: str, build: Path = BUILD) -> int:
    """Instructions of a step of `kernel`, whose object is in `build`.

    Raises:
        ValueError: the object has not one such kernel.
    """
    path = build / f"{kernel.source}.o"
    listed = subprocess.run([tool, "-elf", path], capture_output=True, text=True, check=True)
    pattern = rf"\.text\.(\S*{kernel.source}_kernel{_LSTM_BF16}{kernel.name}\S*)"
    names = set(re.findall(pattern, listed.stdout))
    if len(names) != 1:
        raise ValueError(f"{path}: expected one kernel {kernel.source}, got {sorted(names)}")
    command = [tool, "-sass", "-fun", names.pop(), str(path)]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return step_loop(sass, kernel.innermost)


def table(counts: dict[Kernel, int]) -> str:
    """The counts as a page."""
    lines = [
        "# Instructions of a time step",
        "",
        "Static counts, LSTM in bfloat16, compute capability 9.0: the loop over steps, of grid",
        "that over passes of sixteen rows, one of them a step. `python -m bench.instructions`.",
        "",
        "| tier and pass | layer | now | target |",
        "| --- | --- | ---: | ---: |",
    ]
    for kernel, found in counts.items():
        lines.append(f"| {kernel.tier} | {kernel.shape} | {found} | {kernel.target} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Compiles, counts and writes the page."""
    tool = disassembler()
    if tool is None:
        raise SystemExit("cuobjdump: expected it on PATH, in CUDA or in Triton, found none")
    objects = sorted({f"{BUILD}/{kernel.source}.o" for kernel in KERNELS})
    folder = str(ROOT / "csrc" / "cuda")
    variables = [f"BUILD={BUILD}", "ARCHITECTURES=90a"]
    subprocess.run(["make", "-C", folder, *variables, *objects], check=True)
    RESULT.write_text(table({kernel: count(kernel, tool) for kernel in KERNELS}))


if __name__ == "__main__":
    main()
