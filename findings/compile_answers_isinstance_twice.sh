#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0: in a compiled function isinstance(x, A) may hold and isinstance(x, (A, B)) not.
#
# An object may name another class as its own by a property __class__, as the mocks of Python's
# unittest with a spec do. isinstance follows that, for one class and for a tuple of classes.
# Under torch.compile the first is asked of the object itself, the second of its type, which has no
# such property, by issubclass. Seen:
#                                eager   compiled (backend eager, fullgraph)
#   isinstance(x, dict)          True    True
#   isinstance(x, (dict, list))  True    False
# There is no graph break and no warning; a branch on the second takes the other way.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
"$folder/env/bin/python" - <<'PY'
import sys

import torch


class Twin:
    @property
    def __class__(self):
        return dict


twin = Twin()


def asked(x):
    one, several = isinstance(twin, dict), isinstance(twin, (dict, list))
    return x + one, x + several


print("torch", torch.__version__)
zero = torch.zeros(())
eager = [bool(answer) for answer in asked(zero)]
compiled = torch.compile(asked, backend="eager", fullgraph=True)
traced = [bool(answer) for answer in compiled(zero)]
print("one class, a tuple of classes: eager", eager, "compiled", traced)
if (eager, traced) != ([True, True], [True, False]):
    sys.exit("changed: not what was seen before")
print("as seen before")
PY
