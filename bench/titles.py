# SPDX-License-Identifier: MIT
"""How reports and charts call what rows have: cells, modes, groups of cases, devices."""

from bench.rows import Row

CELLS = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_reset_before": "GRU, reset before",
    "rnn_tanh": "RNN",
}
MODES = {"infer": "inference", "train": "training", "step": "one step"}
GROUPS = {
    "core": "The ten shapes of the means",
    "step": "One step (T = 1)",
    "bidirectional": "Two layers, both directions",
    "ragged": "Ragged batches",
    "resets": "Resets inside the sequence",
    "textbook": "The textbook GRU (reset gate before the product)",
    "field": "Layers as packages build them",
    "half": "bfloat16 and float16",
    "high": 'float32 under `torch.set_float32_matmul_precision("high")`',
    "one-thread": "One thread",
}


def device(row: Row) -> str:
    """What a row was measured on."""
    return row["gpu"] or f"{row['cpu']}, {counted(row['cores'], 'core')}"


def counted(count: int, name: str) -> str:
    """A number of things with their name."""
    return f"{count} {name}" + "s" * (count != 1)
