# SPDX-License-Identifier: MIT
"""Layers with infinities, NaN and very large numbers in places, and the judgement of results."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from cases import DTYPES, Case, Inputs, make
from torch import Tensor

from fused_rnn.ops import GATES

INFINITE, NAN = float("inf"), float("nan")
VALUES = (INFINITE, -INFINITE, NAN, 1e30, -1e30)
COTANGENTS = ("dy", "dhn", "dcn")
# What stands in a row of the batch: names of tensors, and a number in each.
Row = dict[str, float]


def rows_of_specials(case: Case) -> list[Row]:
    """Each number in each tensor that has rows; large cells behind gates wide open or shut."""
    lstm = case.cell == "lstm"
    names = ("x", "h0", "c0", *COTANGENTS) if lstm else ("x", "h0", *COTANGENTS[:2])
    rows: list[Row] = [{name: value} for name in names for value in VALUES]
    gates = [value for value in VALUES if value == value]
    return rows + [{"x": x, "c0": c0} for x in gates for c0 in (INFINITE, 1e30) if lstm]


def with_specials(case: Case, rows: list[Row], positive: bool = False) -> tuple[Case, Inputs]:
    """A batch in which every other row is special, from the second on.

    Args:
        case: the layer; its batch is not heeded.
        rows: what stands in the special rows.
        positive: no weight is negative: infinite sums are of one sign then, not of none.
    """
    wide = replace(case, batch=2 * len(rows) + 1)
    inputs = make(wide)
    if positive:
        for weight in inputs.weights:
            weight.abs_()
    for b, row in enumerate(rows):
        for name, value in row.items():
            # The first step's input reaches all steps forward, the last one's cotangent back.
            tensor, step = _tensor(inputs, name), 0 if name == "x" else -1
            tensor[step, 2 * b + 1, ..., -2] = value
    return wide, inputs


def _tensor(inputs: Inputs, name: str) -> Tensor:
    if name in COTANGENTS:
        return inputs.cotangents[COTANGENTS.index(name)]
    tensor = getattr(inputs, name)
    assert tensor is not None
    return tensor  # type: ignore[no-any-return]


def with_special_weights(case: Case) -> Iterator[tuple[str, Inputs]]:
    """What stands where in the weights, and inputs with that: a number in each gate of each."""
    for index, weight in enumerate(make(case).weights):
        parts = 1 if weight.shape[0] == case.projection else GATES[case.cell]
        for gate in range(parts):
            for value in (-INFINITE, NAN):
                inputs = make(case)
                inputs.weights[index].view(parts, weight.shape[0] // parts, -1)[gate, -2, 0] = value
                yield f"{value} in weights[{index}] of gate {gate}", inputs


def kinds(tensor: Tensor) -> Tensor:
    """0 for numbers, 1 and -1 for infinities, 2 for NaN."""
    return torch.where(tensor.isnan(), 2, torch.where(tensor.isinf(), tensor.sign(), 0))


def loose(case: Case, row: Row) -> bool:
    """Whether infinities and NaN may stand for one another.

    The slope of n + z (h - n) by n is 1 - z, which the reference takes in two parts: of an infinite
    gradient, infinity less infinity.
    """
    gradients = torch.tensor([row.get(name, 0) for name in COTANGENTS], dtype=DTYPES[case.dtype])
    return "gru" in case.cell and bool(gradients.isinf().any())


def assert_same_kinds(found: Tensor, truth: Tensor, what: str, loosely: bool = False) -> None:
    """Raises AssertionError unless infinities and NaN stand where they do in the truth."""
    pair = kinds(found), kinds(truth)
    wrong = torch.ne(*(kind != 0 for kind in pair)) if loosely else torch.ne(*pair)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        numbers = f"got {found[index].item()} for {truth[index].item()} at {index}"
        raise AssertionError(f"{what}: {numbers}, {int(wrong.sum())} such places")


def judge_rows(
    case: Case, rows: list[Row], found: dict[str, Tensor], truth: dict[str, Tensor]
) -> None:
    """Judges what has rows in the results of `with_specials`, row by row."""
    for name in (name for name in truth if not name.startswith("dweights")):
        for b, row in enumerate(rows):
            at = slice(2 * b + 1, 2 * b + 2)
            what = f"{name} with {row}, {case}"
            assert_same_kinds(found[name][:, at], truth[name][:, at], what, loose(case, row))
