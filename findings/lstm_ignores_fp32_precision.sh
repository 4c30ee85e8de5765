#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0 on a CPU: which recurrent layers follow the settings of float32 precision.
#
# The note "MKLDNN backend" (docs.pytorch.org/docs/stable/notes/mkldnn.html) describes
# torch.backends.mkldnn.rnn.fp32_precision, for RNN operators, and names torch.nn.GRU and
# torch.nn.LSTM among the modules that the settings of matmul affect. Seen, where the processor has
# fast bfloat16 products (Intel with AMX; float32 results, largest change against "highest"):
#   torch.set_float32_matmul_precision("medium")      Linear 7e-3, GRU 4e-3, RNN 8e-3, LSTM none
#   torch.backends.mkldnn.rnn.fp32_precision = "bf16" none of the four, the LSTM least of all
# So of a model's recurrent layers GRU and RNN lose digits by a setting that is not theirs, and the
# LSTM keeps its bits (and its time) under both. oneDNN's verbose log shows a float32 primitive.
#
# Exits with 1 if that changes, with 2 where the processor lacks such products: nothing to see.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
"$folder/env/bin/python" - <<'PY'
import sys

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 32, 256)
layers = {"Linear": nn.Linear(256, 1024)}
layers |= {kind: getattr(nn, kind)(256, 256) for kind in ("GRU", "RNN", "LSTM")}


def result(layer):
    with torch.no_grad():
        output = layer(x.flatten(0, 1) if isinstance(layer, nn.Linear) else x)
    return output[0] if isinstance(output, tuple) else output


def changes(set_it, reset):
    plain = {name: result(layer) for name, layer in layers.items()}
    set_it()
    found = {name: (result(layer) - plain[name]).abs().max().item() for name, layer in layers.items()}
    reset()
    return found


def rnn(value):
    torch.backends.mkldnn.rnn.fp32_precision = value


medium = changes(
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: torch.set_float32_matmul_precision("highest"),
)
own = changes(lambda: rnn("bf16"), lambda: rnn("none"))
print("torch", torch.__version__, "on", torch.backends.cpu.get_cpu_capability())
print('set_float32_matmul_precision("medium"):', medium)
print('mkldnn.rnn.fp32_precision = "bf16":    ', own)
if medium["Linear"] == 0:
    print("this processor has no fast bfloat16 products: nothing to see")
    sys.exit(2)
as_seen = medium["GRU"] > 0 and medium["RNN"] > 0 and medium["LSTM"] == 0 and not any(own.values())
print("as seen" if as_seen else "CHANGED")
sys.exit(not as_seen)
PY
