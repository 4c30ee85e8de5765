# SPDX-License-Identifier: MIT
"""The Triton kernels without a GPU: interpreted in a process of their own, compiled ahead of time.

Triton reads TRITON_INTERPRET when a kernel is defined, so interpreted and compiled kernels cannot
be in one process; here they compile.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases import CELLS, DTYPES, Case, make

pytest.importorskip("triton", reason="Triton is not installed")

from triton_compiler import SHARED, compile_only, figures

from fused_rnn.ops import GATES
from fused_rnn.triton import configurations, layer
from fused_rnn.triton.configurations import STREAMED, TABLE, Block, Device, Grid, shared_bytes

HERE = Path(__file__).parent
TYPES = {16: "bf16", 32: "fp32"}
# Every entry of the table at its largest size.
ENTRIES = [(bits, most) for bits, forms in TABLE.items() for most in forms]
ENTRIES += [(bits, 2048) for bits in STREAMED]
# Sizes that nothing divides take more registers.
ODD = [(16, 63), (16, 127), (16, 1001), (16, 1025), (32, 31), (32, 33)]
# Bytes of stack that a thread may use: ptxas gives up a few words for more programs at a time.
# Odd sizes spill addresses; the worst are those of H above 512, backward.
SPILLED, SPILLED_ODD = 16, 256


@pytest.mark.parametrize(
    "selection", ["not long", pytest.param("long", marks=pytest.mark.long)], ids=["some", "all"]
)
def test_kernels_under_the_interpreter(selection: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x"]
    ran = subprocess.run(
        [*command, "-m", selection, str(HERE / "interpreted_triton.py")],
        cwd=HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        # Programs that wait for each other where they run one after another would do so for ever.
        timeout=900,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout and "skipped" not in ran.stdout


def compiled(case: Case, architecture: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kernels that a pass forward and one back launch, for 132 multiprocessors."""
    inputs = make(case)
    arguments, options = inputs[:6], (case.cell, list(case.reverse))
    device = Device(132, SHARED[architecture])
    monkeypatch.setattr(configurations, "device_of", lambda _: device)
    with compile_only(architecture, monkeypatch) as kernels:
        y, _, _, tape, _ = layer.forward(*arguments, *options, True)
        cotangents = (*inputs.cotangents, None)[:3]
        layer.backward(*cotangents, *arguments, y, tape, *options, True, True, False)
    return kernels


def check_figures(case: Case, architecture: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = compiled(case, architecture, monkeypatch)
    # One launch forward, but for a step with two products that depend on each other; one back.
    form = chosen(case, Device(132, SHARED[architecture]))
    twice = case.steps == 1 and case.cell == "gru_reset_before"
    assert len(kernels) == 2 + twice
    for kernel in kernels:
        found = figures(kernel)
        assert 0 < found.registers <= 255, found
        assert found.spilled <= (SPILLED_ODD if case.hidden % 16 else SPILLED), found
        assert found.shared <= SHARED[architecture], found
        if case.steps > 1:
            assert found.shared <= shared_bytes(form, case.cell, DTYPES[case.dtype]), (found, form)


def chosen(case: Case, device: Device) -> Block | Grid:
    return configurations.choose(case.cell, case.hidden, DTYPES[case.dtype], device)


def full(cell: str, dtype: str, hidden: int, steps: int = 3) -> Case:
    """Everything that a kernel can be given."""
    return Case(cell, steps, 4, 16, hidden, dtype, lengths=True, resets=True)


@pytest.mark.parametrize(("bits", "hidden"), ENTRIES)
def test_every_entry_of_the_table_compiles(
    bits: int, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the LSTM, which has the most weights and values."""
    check_figures(full("lstm", TYPES[bits], hidden), 90, monkeypatch)


@pytest.mark.parametrize("hidden", [128, 512])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "gru_reset_before"])
def test_other_cells_compile(cell: str, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_figures(full(cell, "bf16", hidden), 90, monkeypatch)


@pytest.mark.parametrize("cell", ["gru_reset_before", "lstm"])
def test_the_step_compiles(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_figures(full(cell, "bf16", 128, steps=1), 90, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize(("bits", "hidden"), ENTRIES + ODD)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("architecture", SHARED)
def test_all_kernels_on_all_architectures(
    architecture: int, cell: str, bits: int, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_figures(full(cell, TYPES[bits], hidden), architecture, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("architecture", SHARED)
def test_the_step_on_all_architectures(
    architecture: int, cell: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_figures(full(cell, dtype, 32, steps=1), architecture, monkeypatch)


@pytest.mark.parametrize("hidden", [128, 1024])
def test_resident_weights_are_read_before_the_steps(
    hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler keeps a copy of each gate's weights in shared memory, made before any loop."""
    form = TABLE[16][hidden]
    shape = f"{hidden}x{hidden}"
    if isinstance(form, Grid):
        assert form.resident
        shape = f"{form.split}x{form.block_u}x{form.block_k}"
    for kernel in compiled(full("lstm", "bf16", hidden), 90, monkeypatch):
        before, loops = kernel.asm["ttgir"].split("scf.for", 1)
        pattern = rf"local_alloc %\S+ : \(tensor<{shape}xbf16"
        assert len(re.findall(pattern, before)) == GATES["lstm"]
        assert not re.search(pattern, loops)


def test_what_fits_no_program_is_parted_or_streamed() -> None:
    """The figures of a GPU of compute capability 8.6, which has 99 KiB of shared memory."""
    small = Device(80, 99 * 1024)
    assert chosen(full("lstm", "bf16", 64), small) == TABLE[16][64]
    assert chosen(full("lstm", "bf16", 128), small) == TABLE[16][256]
    assert chosen(full("rnn_tanh", "bf16", 112), small) == TABLE[16][128]
    assert chosen(full("rnn_tanh", "bf16", 65), small) == TABLE[16][256]
    assert chosen(full("lstm", "bf16", 512), small) == TABLE[16][512]
    assert chosen(full("lstm", "bf16", 1024), small) == STREAMED[16]
    assert chosen(full("rnn_tanh", "bf16", 1024), small) == TABLE[16][1024]


def test_sizes_of_a_call_compile_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, rows and recurrences are arguments of one kernel, one and multiples of 16 too."""
    seen = set()
    for steps, batch, reverse in ((16, 1, (0,)), (3, 16, (0, 1)), (2, 7, (1,)), (5, 40, (1, 0, 1))):
        case = Case("gru", steps, batch, 16, 32, "bf16", reverse=reverse)
        seen.add(tuple(kernel.hash for kernel in compiled(case, 90, monkeypatch)))
    assert len(seen) == 1
