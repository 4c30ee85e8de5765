#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0: a compiled module compares a named tuple with a constant once, if it is that one.
#
# A module keeps settings and asks whether they are the default: `self.settings == DEFAULT`, or `is`.
# Compiled with the default, the next module of the class, with other settings, takes the same graph:
# the guards have the type and the length of a named tuple and none of its values, nor that it is the
# constant. Seen, of a module that multiplies by 3 where settings differ, compiled with the default
# before (backend eager, fullgraph):
#                            eager   the default itself   one equal to it   its values read, too
#   tuple                    3       3                    3                 3
#   frozen dataclass         3       3                    3                 3
#   collections.namedtuple   3       1                    3                 3
#   typing.NamedTuple        3       1                    3                 3
# There is no graph break, no compilation and no warning.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/seen.py" <<'PY'
import collections
import dataclasses
import sys
from typing import NamedTuple

import torch

print("torch", torch.__version__)
Collected = collections.namedtuple("Collected", ["scale"])


class Named(NamedTuple):
    scale: float


@dataclasses.dataclass(frozen=True)
class Data:
    scale: float


KINDS = {
    "tuple": lambda scale: (scale,),
    "frozen dataclass": Data,
    "collections.namedtuple": Collected,
    "typing.NamedTuple": Named,
}
DEFAULTS = {name: kind(1.0) for name, kind in KINDS.items()}


class Scaled(torch.nn.Module):
    def __init__(self, name, settings, reads):
        super().__init__()
        self.name, self.settings, self.reads = name, settings, reads

    def forward(self, x):
        if self.reads:
            x = x + 0 * scale_of(self.settings)
        return x if self.settings == DEFAULTS[self.name] else 3 * x


def scale_of(settings):
    return settings[0] if isinstance(settings, tuple) else settings.scale


def seen(name, same=True, reads=False):
    torch._dynamo.reset()
    x, found = torch.ones(1), []
    default = DEFAULTS[name] if same else KINDS[name](1.0)
    for settings in (default, KINDS[name](3.0)):
        module = Scaled(name, settings, reads)
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        found.append((module(x).item(), compiled(x).item()))
    what = ("the default itself" if same else "one equal to it") + (", read first" if reads else "")
    print(f"{name}, {what}: eager, compiled {found[1]}")
    assert found[0] == (1, 1)
    return found[1]


right, wrong = (3, 3), (3, 1)
found = [[seen(name, **how) for name in KINDS] for how in ({}, {"same": False}, {"reads": True})]
if found != [[right, right, wrong, wrong], [right] * 4, [right] * 4]:
    sys.exit(f"changed: {found}")
PY
cd "$folder"
"$folder/env/bin/python" "$folder/seen.py"
echo "as seen before"
