# SPDX-License-Identifier: MIT
"""Options of the command line, which of them a checkpoint fixes, and what a command needs."""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ..seq2seq import CheckpointError, holds_checkpoint
from ..text import TextError

T = TypeVar("T")
OTHER_OPTIONS = "; --continue-from goes on with other options"


@dataclass(frozen=True, kw_only=True)
class Saving:
    """The options of saving a training: when, and what is kept beside its newest checkpoint."""

    save_every: int = 200
    log: str | None = None
    keep_best: bool = False
    keep_last: int = 0


TRAINING_HELP = {
    "steps": "steps in all, each of a minibatch",
    "batch_size": "rows of a minibatch",
    "optimizer": "how weights follow gradients",
    "learning_rate": "at its highest",
    "schedule": "cosine rises, then falls to a fiftieth; inverse-sqrt rises, then falls slowly; "
    "plateau is halved where what is held out gets no better; constant stays",
    "warm_up": "steps of a schedule's rise",
    "clip": "longest gradient",
    "weight_decay": "of adamw",
    "label_smoothing": "part of the probability that goes to any token alike",
    "accumulate": "minibatches whose gradients make a step",
    "precision": "bfloat16 runs the model under autocast",
    "validate_every": "steps between looks at what is held out",
    "patience": "looks without a better one after which training ends; 0 = it goes on",
    "average": "looks of whose weights training ends with the mean; 0 = none",
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


def recorded(cls: type[T], record: Mapping[str, Any]) -> T:
    """Returns a dataclass of what a checkpoint keeps for it; the rest is for others."""
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in record.items() if name in names})


def refuse_changes(given: Mapping[str, Any], holders: Collection[object], advice: str = "") -> None:
    """Raises ValueError if an option differs from what a checkpoint's parts were made with.

    Args:
        given: options by name.
        holders: the checkpoint's parts, one of which has an attribute of each name.
        advice: ends the message.
    """
    for name, value in given.items():
        (saved,) = (getattr(holder, name) for holder in holders if hasattr(holder, name))
        if value != saved:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag}: the checkpoint was made with {saved}, got {value}{advice}")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Adds what says where a training is kept, and what it starts from."""
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the checkpoint")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in DIR, bit for bit"
    )
    start.add_argument(
        "--continue-from",
        metavar="OTHER",
        help="start from the weights and vocabularies of the checkpoint in another folder, with a "
        "fresh optimizer and its options where no others are given; any text",
    )
    parser.add_argument("--save-every", type=int, default=200, help="steps (default 200)")
    parser.add_argument(
        "--log", metavar="CSV", help="file of the losses of all steps, written with each checkpoint"
    )
    parser.add_argument(
        "--keep-best",
        action="store_true",
        help="keep a checkpoint of the best look at what is held out, in DIR/best",
    )
    parser.add_argument(
        "--keep-last",
        type=int,
        metavar="N",
        default=0,
        help="keep checkpoints of the last N looks, in DIR/step-<number>",
    )


def check_places(arguments: argparse.Namespace) -> Path:
    """Returns the folder that a training is to be kept in.

    Raises:
        CheckpointError: it holds a checkpoint that a new one would replace.
        ValueError: --save-every is below 1, or --keep-last below 0.
    """
    if arguments.save_every < 1:
        raise ValueError(f"--save-every: expected at least 1, got {arguments.save_every}")
    if arguments.keep_last < 0:
        raise ValueError(f"--keep-last: expected 0 or more, got {arguments.keep_last}")
    folder = Path(arguments.out)
    if not arguments.resume:
        refuse_occupied(folder)
    return folder


def saving_of(arguments: argparse.Namespace) -> Saving:
    """Returns when a training is saved, as it was asked for."""
    return Saving(**{field.name: getattr(arguments, field.name) for field in fields(Saving)})


def need(*packages: str) -> None:
    """Raises ModuleNotFoundError if a package that will be needed is not there."""
    for name in packages:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}")


def read_held_out(read: Callable[[], T]) -> T:
    """Returns what `read` returns of the files to hold out.

    Raises:
        TextError: there is no such file, or what `read` raises.
    """
    try:
        return read()
    except FileNotFoundError as error:
        raise TextError(
            f"--validation: No such file: {error.filename}; if it was moved, say where it is now"
        ) from None


def refuse_occupied(folder: Path) -> None:
    """Raises CheckpointError if a folder holds a checkpoint that a new one would replace."""
    if holds_checkpoint(folder):
        raise CheckpointError(
            f"--out: {folder} already holds a checkpoint; go on from it with --resume, or choose "
            "another folder"
        )
