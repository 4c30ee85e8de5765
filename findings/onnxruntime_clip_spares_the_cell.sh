#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# onnxruntime 1.32.0: an LSTM's clip does not bound what goes into h, the activation of the output.
#
# By the operators' text (onnx 1.23.2, printed below) `clip` bounds what activations are given. Those
# of an LSTM are f, g and h, and its output is the gate o times h of the cell. One step each,
# clip=0.5, initial_c of 3s, no peepholes. Seen:
#   f and g of LSTM, f and g of GRU with either linear_before_reset, f of RNN   of bounded inputs
#   h of LSTM                                                                   of Ct as it is
# Who goes by the text gets other outputs from an LSTM whose cell is larger than its clip.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy
cat > "$folder/seen.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
print("text:", onnx.defs.get_schema("LSTM").attributes["clip"].description)
BATCH, INPUTS, HIDDEN, CLIP = 3, 4, 5, 0.5
random = np.random.default_rng(0)


def outputs(kind, weights, bias, given, **attributes):
    names = ["X", "W", "R", "B", "", *list(given)[1:]]
    node = helper.make_node(kind, names, ["Y"], hidden_size=HIDDEN, clip=CLIP, **attributes)
    real = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(n, real, v.shape) for n, v in given.items()]
    constants = [
        onnx.numpy_helper.from_array(v, n) for n, v in zip("WRB", (*weights, bias), strict=True)
    ]
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("Y", real, None)], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)[0][0, 0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bounded(x):
    return np.clip(x, -CLIP, CLIP)


def step(kind, weights, bias, given, after, bounds_h):
    """One step by the operators' equations."""
    x, h = given["X"][0], given["h0"][0]
    gates = len(bias[0]) // 2 // HIDDEN
    of_x = np.split(x @ weights[0][0].T, gates, -1)
    of_h = np.split(h @ weights[1][0].T, gates, -1)
    of_b = np.split(bias[0], 2 * gates)
    a = [sum(parts) for parts in zip(of_x, of_h, of_b[:gates], of_b[gates:], strict=True)]
    if kind == "RNN":
        return np.tanh(bounded(a[0]))
    if kind == "GRU":
        z, r = sigmoid(bounded(a[0])), sigmoid(bounded(a[1]))
        by_r = r * (of_h[2] + of_b[5]) if after else (r * h) @ weights[1][0][-HIDDEN:].T + of_b[5]
        return (1 - z) * np.tanh(bounded(of_x[2] + of_b[2] + by_r)) + z * h
    i, o, f = (sigmoid(bounded(part)) for part in a[:3])
    c = f * given["c0"][0] + i * np.tanh(bounded(a[3]))
    return o * np.tanh(bounded(c) if bounds_h else c)


seen = {}
for kind, gates, after in (("LSTM", 4, 0), ("GRU", 3, 0), ("GRU", 3, 1), ("RNN", 1, 0)):
    weights = [
        random.standard_normal((1, gates * HIDDEN, width)).astype(np.float32)
        for width in (INPUTS, HIDDEN)
    ]
    bias = random.standard_normal((1, 2 * gates * HIDDEN)).astype(np.float32)
    given = {
        "X": random.standard_normal((1, BATCH, INPUTS)).astype(np.float32),
        "h0": random.standard_normal((1, BATCH, HIDDEN)).astype(np.float32),
    }
    if kind == "LSTM":
        given["c0"] = np.full((1, BATCH, HIDDEN), 3, np.float32)
    more = {"linear_before_reset": after} if kind == "GRU" else {}
    found = outputs(kind, weights, bias, given, **more)
    for bounds_h in (False, True) if kind == "LSTM" else (False,):
        expected = step(kind, weights, bias, given, after, bounds_h)
        name = f"{kind} {more or ''} {'also h bounded' if bounds_h else 'gates bounded'}"
        seen[name] = float(np.abs(found - expected).max())
        print(f"{name}: differs by {seen[name]:.1e}")
as_before = [value < 1e-6 for value in seen.values()] == [True, False, True, True, True]
if not as_before:
    sys.exit(f"changed: {seen}")
PY
"$folder/env/bin/python" "$folder/seen.py"
echo "as seen before"
