# SPDX-License-Identifier: MIT
"""Looks into the object files of the CPU kernels: names they define, and their inner loops.

Usage: objects.py isa_SET.o... [--tools PREFIX] [--spilling SET...]"""

import argparse
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

# Multiply-adds of float or pairs of bfloat16, and of double; vector registers that meet the stack.
X86 = (
    r"\b(vfmadd\d+ps|vdpbf16ps|mulps)\b",
    r"\b(vfmadd\d+pd|mulpd)\b",
    r"\b(v?mov[au]p[sd]|v?movdq\w+)\b.*\(%rsp",
)
ARM = (
    r"\b(fmla\s+v\d+\.4s|bfdot|bfmmla)\b",
    r"\b(fmla\s+v\d+\.2d)\b",
    r"\b(ldr|ldp|str|stp)\s+q\d+.*\[sp",
)
# Sets with 16 registers, of which 12 hold sums; of 32, 24 do.
FEW_REGISTERS = ("avx2", "portable")
TILED = ("amx", "amx_twin")
# Those of weights of 8 and 16 bits, and what they multiply integers by; on portable code each
# float32 product calls a function and keeps all sums on the stack. So do wide vectors in plain C++.
STORED = "stored_"
CALLING = ("stored_portable", "stored_amx_twin")
INTEGERS = r"\b(vpmaddubsw|vpdpbusd|smull)\b"
TILE = re.compile(r"tile<(?:fused_rnn::)?(float|double|Bf16), (\d+), (\d+)>\(")
STORED_TILE = re.compile(r"multiply_tile<(\d+), (\d+)(?:, fused_rnn::(Bf16|Half))?>\(")


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def foreign_names(path: Path, tools: str = "") -> list[str]:
    """Names an object defines for others outside its instruction set's own namespace."""
    name = path.stem.removeprefix("isa_")
    own = f"9fused_rnn3cpu{len(name)}{name}"
    table = "_ZN9fused_rnn3cpu{}k{}E".format(len(camel := name.title().replace("_", "")) + 1, camel)
    symbols = [line.split()[-2:] for line in output(f"{tools}nm", str(path)).splitlines()]
    known = [(kind, symbol) for kind, symbol in symbols if kind.isupper() and kind != "U"]
    assert ("D", table) in known or ("R", table) in known, f"{path} defines no table of kernels"
    return [symbol for kind, symbol in known if own not in symbol and symbol != table]


def tiles(path: Path, tools: str = "") -> Iterator[tuple[str, int, int, str]]:
    """The micro-kernels of an object: dtype, rows, vectors, instructions."""
    for part in output(f"{tools}objdump", "-dC", "--no-show-raw-insn", str(path)).split("\n\n"):
        head, _, body = part.partition("\n")
        if (found := TILE.search(head)) and "TileTable" not in head:
            yield found[1], int(found[2]), int(found[3]), body
        elif found := STORED_TILE.search(head):
            yield found[3] or "int8", int(found[1]), int(found[2]), body


def inner_loops(body: str) -> Iterator[list[str]]:
    """The loops of a function that hold no other: lines from a jump's target back to the jump."""
    lines = body.splitlines()
    places = {line.partition(":")[0].strip(): number for number, line in enumerate(lines)}
    ends = [number for number, line in enumerate(lines) if re.search(r"\t(j|b)\S*\s", line)]
    loops = []
    for end in ends:
        target = re.search(r"\t(?:j|b)\S*\s+(?:\w+, )?([0-9a-f]+) <", lines[end])
        start = places.get(target[1]) if target else None
        if start is not None and start <= end:
            loops.append((start, end))
    for start, end in loops:
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops):
            yield lines[start : end + 1]


def complaints(path: Path, tools: str = "", spilling: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with an object file; sets in `spilling` may run out of registers."""
    name = path.stem.removeprefix("isa_")
    for symbol in foreign_names(path, tools):
        yield f"{path} defines {symbol}, outside of its namespace"
    arm = "aarch64" in output(f"{tools}objdump", "-f", str(path))
    single, double, stack = ARM if arm else X86
    count = 0
    for dtype, rows, vectors, body in tiles(path, tools):
        count += 1
        what = f"{path}: tile<{dtype}, {rows}, {vectors}>"
        kind = {"double": double, "int8": INTEGERS}.get(dtype, single)
        products = len(re.findall(kind, body))
        if name not in CALLING and products < rows * vectors:
            yield f"{what} has {products} multiply-adds, expected {rows * vectors} or more"
        for loop in inner_loops(body):
            spills = [line for line in loop if re.search(stack, line)]
            if (
                name not in (*spilling, *CALLING)
                and spills
                and re.search("|".join((single, double, INTEGERS)), "\n".join(loop))
            ):
                yield f"{what} meets the stack {len(spills)} times a step: {spills[0]}"
    if name in TILED:
        # Their sums are in tile registers, which hold nothing else and are never spilled.
        if count:
            yield f"{path} has {count} micro-kernels on vectors, expected none"
        return
    if name.startswith(STORED):
        # Of int8 and of both 16-bit types, on one vector at least.
        if count < 3:
            yield f"{path} has {count} micro-kernels, expected those of three types"
        return
    sums = 12 if name in FEW_REGISTERS and not arm else 24
    expected = sum(min(sums // vectors, 12) for vectors in range(1, 5))
    if count % expected or count < 2 * expected:
        yield f"{path} has {count} micro-kernels, expected {expected} of each dtype"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", default="", help="prefix of nm and objdump")
    parser.add_argument("--spilling", default=[], nargs="+", metavar="SET", help="may spill")
    parser.add_argument("objects", type=Path, nargs="+")
    options = parser.parse_args()
    found = [
        text
        for path in options.objects
        for text in complaints(path, options.tools, options.spilling)
    ]
    raise SystemExit("\n".join(found) or None)


if __name__ == "__main__":
    main()
