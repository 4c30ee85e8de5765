# SPDX-License-Identifier: MIT
"""Puts what is generated into README and beside the results: `python -m bench.publish`."""

import re
import sys
from pathlib import Path

import torch

from bench import report
from bench.machine import ROOT
from fused_rnn import backends, native
from fused_rnn.ops import GATES

README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
_BACKENDS = {
    "native": "C++ kernels of this package; its CUDA kernels are emulated, not yet run on a GPU",
    "triton": "Triton kernels of this package, interpreted, not yet run on a GPU",
    "torch": "PyTorch's own layers (oneDNN, cuDNN or step by step)",
    "reference": "plain PyTorch operations; the oracle of the tests",
}
_CELLS = {
    "rnn_tanh": "RNN tanh",
    "rnn_relu": "RNN relu",
    "gru": "GRU",
    "gru_reset_before": "GRU reset-before",
    "lstm": "LSTM",
}
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DEVICES = {"cpu": "CPU", "cuda": "CUDA", "mps": "MPS"}


def section(name: str, content: str, text: str) -> str:
    """`text` with the part between the markers of a section replaced.

    Raises:
        ValueError: the text has no such section.
    """
    pattern = rf"(<!-- generated: {name} .*?-->\n).*?(<!-- end: {name} -->)"
    result, count = re.subn(pattern, rf"\1{_quoted(content)}\n\2", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{name}: expected one generated section of that name, got {count}")
    return result


def _quoted(content: str) -> str:
    return content.replace("\\", r"\\")


def _can(backend: str, query: backends.Query) -> bool:
    """Whether a backend runs a query in a build that has it."""
    reason = backends.PREDICATES[backend](query)
    return reason is None or (backend == "native" and reason == native.why_unavailable())


def _listed(able: list[str], known: int) -> str:
    return "all" if len(able) == known else ", ".join(able) or "none"


def support_table() -> str:
    """Which backend runs what, from the very predicates that choose one."""
    plain = backends.Query("gru", torch.float32, "cpu")
    lines = []
    for name, predicate in backends.PREDICATES.items():
        cells = [word for cell, word in _CELLS.items() if _can(name, plain._replace(cell=cell))]
        dtypes = [
            str(dtype).removeprefix("torch.")
            for dtype in _DTYPES
            if _can(name, plain._replace(dtype=dtype))
        ]
        devices = [
            word for device, word in _DEVICES.items() if _can(name, plain._replace(device=device))
        ]
        resets = "yes" if _can(name, plain._replace(resets=True)) else "no"
        if not devices:
            row = [f"`{name}`", f"{_BACKENDS[name]}: {predicate(plain)}", *["–"] * 4]
        else:
            row = [
                f"`{name}`",
                _BACKENDS[name],
                _listed(devices, len(_DEVICES)),
                _listed(cells, len(GATES)),
                _listed(dtypes, len(_DTYPES)),
                resets,
            ]
        lines.append(row)
    header = ["backend", "what it is", "devices", "cells", "data types", "resets"]
    return report.table(header, lines, words=len(header))


def recorded() -> list[Path]:
    """The files of rows that `bench.run` wrote; other benchmarks keep theirs beside them."""
    return sorted(RESULTS.glob("cpu*.jsonl"))


def speed_section() -> str:
    """One summary for each file of results, with its hardware named."""
    parts = []
    for path in recorded():
        rows = report.load([path])
        more = f"[All cases](bench/results/{path.stem}.md)."
        parts += [report.summary(report.compare(rows)), f"{report.hardware(rows)} {more}"]
    return "\n\n".join(parts) or "No measurements are recorded yet."


def chart_section() -> str:
    """The charts beside the results."""
    images = sorted(RESULTS.glob("*.png"))
    lines = [f"![{path.stem}](bench/results/{path.name})" for path in images]
    return "\n\n".join(lines) or "No charts are recorded yet."


def readme(text: str) -> str:
    """`text` with every generated section as it must be."""
    text = section("speed", speed_section(), text)
    text = section("backends", support_table(), text)
    return section("charts", chart_section(), text)


def report_of(path: Path) -> str:
    """The report that stands beside a file of results."""
    return report.full(report.load([path]))


def main() -> int:
    """Writes the reports, the charts and README."""
    from bench import charts

    for path in recorded():
        path.with_suffix(".md").write_text(report_of(path), encoding="utf-8")
        charts.draw(report.compare(report.load([path])), path.with_suffix(""))
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
