# SPDX-License-Identifier: MIT
"""Entry point of the command line: `fused-rnn doctor`, `lm` and `translate`."""

import argparse
import sys
from collections.abc import Sequence

from . import demo, doctor, lm, translate


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 after an error, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="fused-rnn", description="Fused recurrent layers.")
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
        status: int = options.run(options)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        problem = f"{error}; the command line's own packages come with: pip install fused_rnn[app]"
    except (OSError, ValueError) as error:
        problem = str(error)
    else:
        return status
    print(f"fused-rnn: error: {problem}", file=sys.stderr)
    return 1
