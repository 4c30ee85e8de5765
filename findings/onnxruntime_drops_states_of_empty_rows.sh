#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# onnxruntime 1.32.0: a row whose sequence_lens is 0 loses the state that it was given.
#
# LSTM, GRU and RNN, one direction, initial states of ones, sequence_lens [0, 3]. A row without a
# step keeps its state in torch.nn's and other loops over steps that are masked. Seen:
#   Y_h (and the LSTM's Y_c) of the row of length 0   zeros
#   of the row of length 3                            some numbers, as it should
# So whoever streams, with chunks that are empty for some rows, loses these rows' states in silence.
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

print("onnxruntime", onnxruntime.__version__)
changed = []
for kind, gates, states in (("LSTM", 4, 2), ("GRU", 3, 1), ("RNN", 1, 1)):
    given = ["h0", "c0"][:states]
    outputs = ["Y_h", "Y_c"][:states]
    node = helper.make_node(
        kind, ["X", "W", "R", "", "lengths", *given], ["", *outputs], hidden_size=4
    )
    real = TensorProto.FLOAT
    info = helper.make_tensor_value_info
    inputs = [info("X", real, [3, 2, 3]), info("lengths", TensorProto.INT32, [2])]
    inputs += [info(name, real, [1, 2, 4]) for name in given]
    random = np.random.default_rng(0)
    constants = [
        onnx.numpy_helper.from_array(
            random.standard_normal((1, gates * 4, width)).astype(np.float32), name
        )
        for name, width in (("W", 3), ("R", 4))
    ]
    graph = helper.make_graph(
        [node], "g", inputs, [info(name, real, None) for name in outputs], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = {name: np.ones((1, 2, 4), np.float32) for name in given}
    values |= {"X": np.ones((3, 2, 3), np.float32), "lengths": np.array([0, 3], np.int32)}
    for name, found in zip(outputs, session.run(None, values)):
        empty, full = found[0]
        print(kind, name, "of the empty row", empty, "of the other", full)
        if empty.any() or not full.any():
            changed.append(f"{kind} {name}")
if changed:
    sys.exit(f"changed: {changed}")
PY
"$folder/env/bin/python" "$folder/seen.py"
echo "as seen before"
