# SPDX-License-Identifier: MIT
"""Options of the command line that a resumed training must not change."""

import argparse
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..seq2seq import CheckpointError, holds_checkpoint

TRAINING_HELP = {
    "steps": "minibatches in all",
    "batch_size": "rows of a minibatch",
    "optimizer": "how weights follow gradients",
    "learning_rate": "at its highest",
    "schedule": "cosine rises, then falls to a fiftieth; constant stays",
    "clip": "longest gradient",
    "precision": "bfloat16 runs the model under autocast",
    "validate_every": "steps between looks at what is held out",
    "patience": "looks without a better one after which training ends; 0 = it goes on",
    "seed": "of weights, dropout and order",
}


def add_option(
    parser: argparse.ArgumentParser,
    name: str,
    default: Any,
    text: str,
    choices: Collection[str] | None = None,
) -> None:
    """Adds an option that is absent where it is not given."""
    flag, words = "--" + name.replace("_", "-"), f"{text} (default {default})"
    if isinstance(default, bool):
        action = argparse.BooleanOptionalAction
        parser.add_argument(flag, action=action, default=argparse.SUPPRESS, help=words)
        return
    parser.add_argument(
        flag,
        type=type(default),
        choices=None if choices is None else tuple(choices),
        default=argparse.SUPPRESS,
        help=words,
    )


def add_fields(
    parser: argparse.ArgumentParser,
    cls: type,
    texts: Mapping[str, str],
    choices: Mapping[str, Collection[str]],
) -> None:
    """Adds an option for each field of a dataclass that has a text."""
    defaults = {field.name: field.default for field in fields(cls)}
    for name, text in texts.items():
        add_option(parser, name, defaults[name], text, choices.get(name))


def given_of(arguments: argparse.Namespace, names: Collection[str]) -> dict[str, Any]:
    """Returns the options of these names that were given."""
    given = vars(arguments)
    return {name: given[name] for name in names if name in given}


def refuse_changes(given: Mapping[str, Any], holders: Collection[object]) -> None:
    """Raises ValueError if an option differs from what a checkpoint's parts were made with."""
    for name, value in given.items():
        (saved,) = (getattr(holder, name) for holder in holders if hasattr(holder, name))
        if value != saved:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag}: the checkpoint was made with {saved}, got {value}")


def refuse_occupied(folder: Path) -> None:
    """Raises CheckpointError if a folder holds a checkpoint that a new one would replace."""
    if holds_checkpoint(folder):
        raise CheckpointError(
            f"--out: {folder} already holds a checkpoint; go on from it with --resume, or choose "
            "another folder"
        )
