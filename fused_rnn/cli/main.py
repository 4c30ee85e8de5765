# SPDX-License-Identifier: MIT
"""Entry point of the command line: `fused-rnn doctor`, `lm` and `translate`."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

import torch

from . import demo, doctor, lm, translate


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 after an error, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="fused-rnn", description="Fused recurrent layers.")
    version = f"fused_rnn {doctor.version()}, torch {torch.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    doctor.add_command(commands)
    language_model = commands.add_parser("lm", help="language models")
    actions = language_model.add_subparsers(required=True, metavar="ACTION")
    lm.add_commands(actions)
    demo.add_command(actions)
    translator = commands.add_parser("translate", help="translators")
    translate.add_commands(translator.add_subparsers(required=True, metavar="ACTION"))
    options = parser.parse_args(arguments)
    try:
        with _plain_warnings():
            status: int = options.run(options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads has what he wanted, as `head` has.
        _let_go_of_output()
        return 0
    except ModuleNotFoundError as error:
        problem = f"{error}; the command line's own packages come with: pip install fused_rnn[app]"
    except (OSError, ValueError) as error:
        problem = str(error)
    else:
        return status
    print(f"fused-rnn: error: {problem}", file=sys.stderr)
    return 1


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Shows warnings as the command's own, without the line of code that gave them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"fused-rnn: warning: {message}", file=sys.stderr if file is None else file)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _let_go_of_output() -> None:
    """Keeps the interpreter from complaining of the broken pipe when it flushes at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
