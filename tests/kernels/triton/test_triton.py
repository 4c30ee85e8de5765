# SPDX-License-Identifier: MIT
"""The Triton kernels without a GPU: interpreted in a process of their own, compiled ahead of time.

Triton reads TRITON_INTERPRET when a kernel is defined, so interpreted and compiled kernels cannot
be in one process; here they compile.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cases import CELLS, DTYPES, Case, make

pytest.importorskip("triton", reason="Triton is not installed")

import triton
from triton_compiler import AMD, SHARED, compile_only, figures

from fused_rnn.backends import triton as backend
from fused_rnn.backends.triton import configurations, passes, stuck
from fused_rnn.backends.triton.configurations import (
    STREAMED,
    TABLE,
    Block,
    Device,
    Grid,
    shared_bytes,
)
from fused_rnn.ops import GATES

ROOT = Path(__file__).parents[3]
TYPES = {16: "bf16", 32: "fp32"}
NVIDIA = [architecture for architecture in SHARED if architecture != AMD]
# Every entry of the table at its largest size.
ENTRIES = [(bits, most) for bits, forms in TABLE.items() for most in forms]
ENTRIES += [(bits, 2048) for bits in STREAMED]
# Sizes that nothing divides take more registers.
ODD = [(16, 63), (16, 127), (16, 1001), (16, 1025), (32, 31), (32, 33)]
# Bytes of stack that a thread may use: ptxas gives up a few words for more programs at a time.
# Odd sizes spill addresses; the worst are those of H above 512, backward.
SPILLED, SPILLED_ODD = 24, 256


@pytest.mark.parametrize(
    "selection", ["not long", pytest.param("long", marks=pytest.mark.long)], ids=["some", "all"]
)
def test_kernels_under_the_interpreter(selection: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x"]
    ran = subprocess.run(
        [*command, "-m", selection, "tests/support/interpreted_triton.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        # Programs that wait for each other where they run one after another would do so for ever.
        timeout=900,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout and "skipped" not in ran.stdout


def compiled(case: Case, architecture: int | str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kernels that a pass forward and one back launch, for 132 multiprocessors."""
    inputs = make(case)
    arguments, options = inputs[:6], (case.cell, list(case.reverse))
    device = Device(132, SHARED[architecture])
    monkeypatch.setattr(configurations, "device_of", lambda _: device)
    with compile_only(architecture, monkeypatch) as kernels:
        y, _, _, tape, _ = passes.forward(*arguments, *options, True)
        cotangents = (*inputs.cotangents, None)[:3]
        passes.backward(*cotangents, *arguments, y, tape, *options, True, True, False)
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
        # Backward, programs take what is there for more operands at once.
        if case.steps > 1 and found.name != "grid_backward_kernel":
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


def in_turn(shared: Sequence[int], *others: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Every combination of the others, each with one of `shared`: every two values meet."""
    combinations = itertools.product(*(enumerate(values) for values in others))
    turns = ((sum(i for i, _ in some), [value for _, value in some]) for some in combinations)
    return [(shared[turn % len(shared)], *values) for turn, values in turns]


# Kernels take two seconds each to compile, at odd sizes up to eight.
@pytest.mark.long
@pytest.mark.parametrize(
    ("architecture", "cell", "entry"), in_turn(NVIDIA, CELLS, ENTRIES + ODD), ids=str
)
def test_all_kernels_on_all_architectures(
    architecture: int, cell: str, entry: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, hidden = entry
    check_figures(full(cell, TYPES[bits], hidden), architecture, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize(
    ("architecture", "cell", "dtype"), in_turn(NVIDIA, CELLS, ["fp32", "bf16", "fp16"])
)
def test_the_step_on_all_architectures(
    architecture: int, cell: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_figures(full(cell, dtype, 32, steps=1), architecture, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize(
    ("steps", "cell", "dtype", "hidden"),
    in_turn([1, 3], CELLS, ["fp32", "bf16", "fp16"], [32, 128, 512]),
)
def test_all_kernels_for_amd(
    steps: int, cell: str, dtype: str, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_amd(full(cell, dtype, hidden, steps), monkeypatch)


@pytest.mark.parametrize("hidden", [64, 512])
def test_kernels_for_amd(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_amd(full("lstm", "bf16", hidden), monkeypatch)


def check_amd(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """They build for an MI300. None has run them, and the backend refuses it until one has."""
    for kernel in compiled(case, AMD, monkeypatch):
        assert kernel.asm["hsaco"]
        assert kernel.metadata.shared <= SHARED[AMD]


@pytest.mark.parametrize("hidden", [128, 1024])
def test_resident_weights_are_read_before_the_steps(
    hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler keeps a copy in shared memory, made before any loop.

    Forward all gates' weights are one, backward each gate's its own.
    """
    form, gates = TABLE[16][hidden], GATES["lstm"]
    kernels = compiled(full("lstm", "bf16", hidden), 90, monkeypatch)
    for kernel, side_by_side in zip(kernels, (gates, 1), strict=True):
        count, shape = gates // side_by_side, f"{side_by_side * hidden}x{hidden}"
        if isinstance(form, Grid):
            assert form.resident
            shape = f"{form.split}x{side_by_side * form.block_u}x{form.block_k}"
        before, loops = kernel.asm["ttgir"].split("scf.for", 1)
        pattern = rf"local_alloc %\S+ : \(tensor<{shape}xbf16"
        assert len(re.findall(pattern, before)) == count
        assert not re.search(pattern, loops)


# Where the threads of a program meet in each step, forward and backward: around the operand, around
# the one way of the sums to their units, and, where programs exchange, before a signal and around
# each look at the count. The textbook GRU has two products, its programs two exchanges; operands of
# four gates of 1024 units are in shared memory in two parts.
BARRIERS = {
    ("rnn_tanh", 128): (4, 4),
    ("gru", 128): (4, 4),
    ("gru_reset_before", 128): (8, 8),
    ("lstm", 128): (4, 4),
    ("rnn_tanh", 1024): (7, 7),
    ("gru", 1024): (7, 7),
    ("gru_reset_before", 1024): (12, 11),
    ("lstm", 1024): (7, 9),
}


@pytest.mark.parametrize(("cell", "hidden"), list(BARRIERS))
def test_barriers_of_a_step(cell: str, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the data flow needs; what else there is costs every step."""
    kernels = compiled(full(cell, "bf16", hidden), 90, monkeypatch)
    for kernel, most in zip(kernels, BARRIERS[cell, hidden], strict=True):
        assert len(re.findall(r"\bbar(rier)?\.sync\b", kernel.asm["ptx"])) <= most


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


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("3.5.1", False),
        ("3.6.0", True),
        ("3.8.0+git1a2b3c", True),
        ("3.9.0", False),
        ("4.0", False),
    ],
)
def test_versions_that_were_tested(version: str, tested: bool) -> None:
    reason = backend._why_not_version(version)
    expected = f"tested with Triton 3.6 to 3.8, {version} is installed"
    assert reason is None if tested else expected in str(reason)


def test_the_installed_version_was_tested() -> None:
    assert backend._why_not_version(triton.__version__) is None


def test_launches_past_the_first_ones_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_MOST", len(stuck._word().names) + 1)
    numbers = [stuck.number("a_kernel", steps, 1, 1, 1) for steps in (1, 2, 3, 1)]
    assert numbers[0] == numbers[3] and numbers[1] == numbers[2] == stuck._word().names[stuck._REST]
    stuck.word().fill_(numbers[2])
    with pytest.raises(RuntimeError, match="NaN: a shape past the first ones"):
        stuck.check()
    stuck.check()
