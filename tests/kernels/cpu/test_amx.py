# SPDX-License-Identifier: MIT
"""Products on tiles: float32 in parts, special values, rows that share a tile, permission."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from cases import CELLS, DTYPES, Case, judge, make, need, rows_of, run
from torch import Tensor

from fused_rnn import extensions, ops
from fused_rnn.testing import assert_within_budget

TILED = [name for name in DTYPES if name != "fp64"]
INFINITE = float("inf")
tiled = pytest.mark.parametrize("instruction_set", ["amx", "amx_twin"], indirect=True)


@pytest.fixture(autouse=True)
def available() -> Iterator[None]:
    need("native")
    yield
    extensions.set_instruction_set("auto")


def need_amx() -> None:
    """Skips the test where no AMX is, with the reason."""
    if extensions.why_not_amx():
        pytest.skip(f"amx: {extensions.why_not_amx()}")


def equal(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    for name, tensor in truth.items():
        assert torch.equal(found[name].nan_to_num(7), tensor.nan_to_num(7)), name


def close(found: Tensor, truth: Tensor, name: str) -> None:
    """What float32 gives, to its rounding."""
    assert_within_budget(found, truth.double(), truth, name=name)


@pytest.mark.parametrize("dtype", TILED)
def test_the_twin_gives_the_bits_of_the_processor(dtype: str) -> None:
    need_amx()
    # Nothing but products, sums and choices: compilers have no freedom in it.
    case = Case("rnn_relu", 6, 37, 45, 70, dtype, reverse=(0, 1), lengths=True, resets=True)
    inputs = make(case)
    for scale in (1.0, 1e-18, 1e-37, 1e18):
        scaled = inputs._replace(x=inputs.x * scale, h0=inputs.h0 * scale)
        extensions.set_instruction_set("amx")
        found = run(case, scaled, "native")
        extensions.set_instruction_set("amx_twin")
        equal(run(case, scaled, "native"), found)


@tiled
@pytest.mark.parametrize("dtype", TILED)
@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_a_tile_do_not_meet(instruction_set: str, cell: str, dtype: str) -> None:
    case = Case(cell, 3, 35, 20, 40, dtype)
    inputs = make(case)
    whole = run(case, inputs, "native")
    for rows in (slice(0, 1), slice(14, 19), slice(1, 34)):
        part = run(case, rows_of(inputs, rows), "native")
        names = [name for name in whole if not name.startswith("dweights")]
        equal(part, {name: whole[name][:, rows] for name in names})


@tiled
@pytest.mark.parametrize("value", [INFINITE, -INFINITE, float("nan"), 3e38, -3.4e38])
def test_what_is_no_number_stays_where_float32_puts_it(instruction_set: str, value: float) -> None:
    # One step: sums of the reference, in another order, may overflow where ours do not.
    case = Case("rnn_relu", 1, 5, 40, 33, "fp32", bias=False)
    inputs = make(case)
    # Whole in one part, so that infinity would meet zeros in the others; with room for products.
    inputs.weights[0].copy_(torch.where(inputs.weights[0] > 0, 0.5, -0.25))
    plain = run(case, inputs, "native")
    inputs.x[0, 2, 7] = value
    found, truth = run(case, inputs, "native"), run(case, inputs, "reference")
    for name in ("y", "dx", "dh0", "dweights[0]", "dweights[1]"):
        close(found[name], truth[name], name)
    others = [0, 1, 3, 4]
    assert torch.equal(found["y"][:, others], plain["y"][:, others])


@tiled
def test_weights_that_are_no_numbers(instruction_set: str) -> None:
    case = Case("rnn_relu", 3, 18, 20, 33, "fp32", bias=False)
    inputs = make(case)
    inputs.weights[0][3, 4] = INFINITE
    inputs.weights[1][5, 6] = float("nan")
    found, truth = run(case, inputs, "native"), run(case, inputs, "reference")
    close(found["y"], truth["y"], "y")


@tiled
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_small_numbers(instruction_set: str, dtype: str) -> None:
    # Parts below the smallest normal number are lost, the number itself is not.
    case = Case("rnn_relu", 2, 3, 20, 33, dtype, bias=False)
    inputs = make(case)
    scaled = inputs._replace(x=inputs.x * 2.0**-100, h0=inputs.h0 * 2.0**-100)
    found, plain = run(case, scaled, "native")["y"], run(case, inputs, "native")["y"]
    close(found * 2.0**100, plain, "y")


@tiled
@pytest.mark.parametrize("cell", CELLS)
def test_several_blocks_of_rows_and_of_k(instruction_set: str, cell: str) -> None:
    for dtype in ("fp32", "fp16"):
        case = Case(cell, 3, 50, 70, 130, dtype, lengths=True)
        judge(case, run(case, make(case), "native"), f"native {instruction_set}")


@pytest.mark.parametrize(
    ("large", "smaller"),
    [
        (Case("gru", 3, 16, 256, 128, "fp32"), {"batch": 15, "inputs": 255, "hidden": 127}),
        (Case("gru", 3, 16, 128, 128, "fp16"), {"batch": 15, "inputs": 127, "hidden": 127}),
        (Case("gru", 3, 1, 128, 128, "bf16"), {"inputs": 127}),
    ],
    ids=str,
)
def test_tiles_serve_where_they_are_faster(large: Case, smaller: dict[str, int]) -> None:
    need_amx()
    others = [replace(large, **{name: size}) for name, size in smaller.items()]
    for case, chosen in ((large, True), *((other, False) for other in others)):
        # Sums of states, which no rounding to 16 bits hides.
        bits = {}
        for name in ("auto", "amx"):
            extensions.set_instruction_set(name)
            inputs = make(case)
            arguments = (*inputs[:6], case.cell, list(case.reverse), True)
            bits[name] = ops.PAIRS["native"].forward(*arguments)[3]
        assert torch.equal(bits["auto"], bits["amx"]) == chosen, case
    extensions.set_instruction_set("auto")
    small, served = extensions.serving(DTYPES[large.dtype])
    assert served == "amx" != small


def test_float64_has_no_tiles() -> None:
    need_amx()
    assert "amx" not in extensions.serving(torch.float64)


def test_beside_another_library_on_tiles() -> None:
    need_amx()
    a, b = (torch.randn(256, 256).to(torch.bfloat16) for _ in range(2))
    case = Case("lstm", 20, 32, 128, 128, "bf16")
    inputs = make(case)
    layer, product = run(case, inputs, "native"), a @ b

    def ours(_: int) -> None:
        equal(run(case, inputs, "native"), layer)
        assert torch.equal(a @ b, product)

    def theirs(_: int) -> None:
        for _ in range(50):
            assert torch.equal(a @ b, product)

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(call, i) for i in range(8) for call in (ours, theirs)]
        for future in done:
            future.result()


def test_a_kernel_that_refuses_tiles() -> None:
    need_amx()
    result = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "the kernel refuses tiles: Operation not permitted" in result.stdout
    assert "in use: avx512" in result.stdout


def _refused() -> None:
    """What the test above runs in a process of its own: `doctor` without the permission."""
    import ctypes
    import struct

    # A seccomp filter: arch_prctl (158) of x86-64 with ARCH_REQ_XCOMP_PERM (0x1023) gets EPERM.
    load, same, answer = 0x20, 0x15, 0x06
    code = [
        (load, 0, 0, 0),
        (same, 0, 3, 158),
        (load, 0, 0, 16),
        (same, 0, 1, 0x1023),
        (answer, 0, 0, 0x00050001),
        (answer, 0, 0, 0x7FFF0000),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filtered = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filtered, header):
        raise OSError(ctypes.get_errno(), "seccomp")
    from fused_rnn.cli.main import main

    sys.exit(main(["doctor"]))


if __name__ == "__main__":
    _refused()
