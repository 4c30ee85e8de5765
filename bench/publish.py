# SPDX-License-Identifier: MIT
"""Puts what is generated into README, the guides and beside the results.

`python -m bench.publish`
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench import applications, gpu_report, report
from bench.comparison import compare
from bench.machine import ROOT
from bench.rows import Row, load, machine_of
from fused_rnn import extensions
from fused_rnn.backends import choice, triton
from fused_rnn.backends.backend import Query
from fused_rnn.ops import GATES, RECOMPUTED

PLACE = ROOT  # of README and the guides
RESULTS = ROOT / "bench" / "results"
_OWED = "not yet run on a GPU, owed: `bench/gpu.sh {} out`"
# What each backend is on which devices, and until a GPU has run it, what it has passed so far.
_BACKENDS: dict[str, dict[tuple[str, ...], tuple[str, str]]] = {
    "native": {
        ("cpu",): ("C++ kernels of this package", ""),
        ("cuda",): ("CUDA kernels of this package", "compiled and emulated"),
    },
    "triton": {("cuda",): ("Triton kernels of this package", "compiled and interpreted")},
    "torch": {("cpu", "cuda", "mps"): ("PyTorch's own layers (oneDNN, cuDNN or step by step)", "")},
    "reference": {
        ("cpu", "cuda", "mps"): ("plain PyTorch operations; the oracle of the tests", "")
    },
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


def _can(backend: str, query: Query) -> bool:
    """Whether a backend runs a query where it is built and has its device."""
    reason = choice.BACKENDS[backend].why_not(query)
    of_this_machine = (
        extensions.why_unavailable,
        extensions.why_cuda_unavailable,
        triton.why_unavailable,
    )
    return reason is None or reason in [why() for why in of_this_machine]


def _listed(able: list[str], known: int) -> str:
    return "all" if len(able) == known else ", ".join(able) or "none"


def _support(name: str, devices: tuple[str, ...], what: str) -> list[str]:
    """The line of one backend on some devices."""
    plain = Query("gru", torch.float32, devices[0])
    able = [word for device, word in _DEVICES.items() if _can(name, plain._replace(device=device))]
    cells = [word for cell, word in _CELLS.items() if _can(name, plain._replace(cell=cell))]
    dtypes = [
        str(dtype).removeprefix("torch.")
        for dtype in _DTYPES
        if _can(name, plain._replace(dtype=dtype))
    ]
    return [
        f"`{name}`",
        what,
        _listed([word for word in able if word in map(_DEVICES.get, devices)], len(_DEVICES)),
        _listed(cells, len(GATES)),
        _listed(dtypes, len(_DTYPES)),
        "yes" if _can(name, plain._replace(resets=True)) else "no",
        "the layer again" if name in RECOMPUTED else "from a tape",
    ]


def support_table() -> str:
    """Which backend runs what, from the very predicates that choose one."""
    rows = gpu_rows()
    ran = {row["served_by"] for row in rows if row["p50"] is not None}
    lines = []
    for name in choice.BACKENDS:
        for devices, (what, passed) in _BACKENDS[name].items():
            if passed and name not in ran:
                what = f"{what}: {passed}, {_OWED.format('first')}"
            lines.append(_support(name, devices, what))
    header = ["backend", "what it is", "devices", "cells", "data types", "resets"]
    header.append("backward in graphs")
    return report.table(header, lines, words=len(header))


def recorded() -> list[Path]:
    """The files of rows that `bench.run` wrote, one for each machine."""
    return sorted(RESULTS.glob("cpu-*.jsonl"))


def gpu_rows() -> list[Row]:
    """The rows that `bench.gpu` wrote, of all its parts."""
    return gpu_report.load(sorted(RESULTS.glob("gpu*.jsonl")))


def reports() -> dict[Path, str]:
    """Every report that stands beside the results, by its path."""
    found = {path.with_suffix(".md"): report.full(load([path])) for path in recorded()}
    for path in sorted(RESULTS.glob("gpu*.jsonl")):
        found[path.with_suffix(".md")] = gpu_report.full(gpu_report.load([path]))
    for name in applications.REPORTS:
        rows = gpu_report.load([RESULTS / f"{name}.jsonl"])
        if rows:
            found[RESULTS / f"{name}.md"] = applications.full(name, rows)
    return found


def speed_section() -> str:
    """One summary for each machine, with its hardware named."""
    parts = []
    for path in recorded():
        rows = load([path])
        more = f"[All cases](bench/results/{path.stem}.md)."
        if not any(row["group"] == "core" for row in rows):
            parts.append(f"{report.hardware(rows)} These ten are not measured yet. {more}")
            continue
        # The name before its table: there may be another one below.
        parts += [f"{report.hardware(rows)} {more}", report.summary(compare(rows))]
    return "\n\n".join(parts) or "No measurements are recorded yet."


def field_section() -> str:
    """The layers of packages, machines side by side; the command that is owed where none ran."""
    machines = {}
    for path in recorded():
        rows = load([path])
        machines[machine_of(rows)] = compare(rows)
    missing = "Not measured yet; `python -m bench.run --filter field --merge` does."
    return report.field(machines) or missing


def chart_section() -> str:
    """The charts beside the results."""
    images = sorted(RESULTS.glob("*.png"))
    lines = [f"![{path.stem}](../bench/results/{path.name})" for path in images]
    return "\n\n".join(lines) or "No charts are recorded yet."


def _architectures() -> str:
    """What nvcc compiles for, as its options name it."""
    makefile = (ROOT / "csrc" / "cuda" / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^ARCHITECTURES \?= (.*)$", makefile, re.MULTILINE)
    return ", ".join(f"sm_{name}" for name in named[0].split())


def gpu_section() -> str:
    """The means measured on a GPU; the command that is owed where there are none."""
    rows = gpu_rows()
    if not rows:
        oldest = ".".join(str(part) for part in triton.OLDEST_CAPABILITY)
        return (
            f"No GPU has run the CUDA kernels (built for {_architectures()}) and the Triton "
            f"kernels (compute capability {oldest} and later) yet. What is owed: "
            "`bench/gpu.sh first out`, then `second` and `grid` in place of `first`, on a machine "
            "with a GPU, torch and nvcc."
        )
    files = sorted(RESULTS.glob("gpu*.jsonl"))
    links = ", ".join(f"[{path.stem}](bench/results/{path.stem}.md)" for path in files)
    said = f"{gpu_report.hardware(rows)} All cases: {links}."
    return "\n\n".join([gpu_report.summary(rows), said, *gpu_report.first_calls(rows)])


def applications_section() -> str:
    """What was measured of the layer above the recurrences; nothing where nothing was."""
    parts = []
    for name, (title, paragraphs) in applications.REPORTS.items():
        rows = gpu_report.load([RESULTS / f"{name}.jsonl"])
        if rows:
            link = f"[{title}](../bench/results/{name}.md)"
            parts += [f"## {link}", *filter(None, paragraphs(rows))]
    return "\n\n".join(parts)


# What is generated of each page.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"speed": speed_section, "backends": support_table, "gpu": gpu_section},
    "docs/measurements.md": {"field": field_section, "charts": chart_section},
    "docs/applications.md": {"applications": applications_section},
}


def page(name: str, text: str) -> str:
    """`text` with every generated section of a page as it must be."""
    for part, content in PAGES[name].items():
        text = section(part, content(), text)
    return text


def main() -> int:
    """Writes the reports, the charts, README and the guides."""
    from bench import charts

    for path, text in reports().items():
        path.write_text(text, encoding="utf-8")
    for path in recorded():
        charts.draw(compare(load([path])), path.with_suffix(""))
    for name in PAGES:
        path = PLACE / name
        path.write_text(page(name, path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
