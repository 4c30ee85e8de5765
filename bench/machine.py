# SPDX-License-Identifier: MIT
"""What every row says of the machine and the software it was measured on."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bench.bounds import cache_sizes, cpu_lines

ROOT = Path(__file__).resolve().parents[1]
_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
# AMD's names of what it numbers; its family 25 holds two generations, these models the later.
_AMD = {25: "zen3", 26: "zen5"}
_ZEN4 = (*range(0x10, 0x20), *range(0x60, 0xB0))
# What a flag of the processor says of its vectors, the widest first.
_VECTORS = {
    "avx512f": "avx512",
    "avx2": "avx2",
    "avx": "avx",
    "sve": "sve",
    "asimd": "neon",
}


def git(*arguments: str) -> str:
    """What git answers about this checkout; empty where there is none, or no git."""
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def commit() -> str:
    """The commit that is checked out, and whether the package differs from it."""
    changed = bool(git("status", "--porcelain", "--", "fused_rnn", "csrc"))
    return git("rev-parse", "--short=12", "HEAD") + "+changes" * changed


def failed_import(error: Exception) -> str:
    """Why a package is not there; of files their names alone, as others have other folders."""
    return f"cannot be imported: {re.sub(r'(?:/[^/ :]+)+/', '', str(error))}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu(field: str) -> str | None:
    for line in cpu_lines():
        if line.startswith(field):
            return line.partition(":")[2].strip()
    return None


def family(lines: Sequence[str], architecture: str = platform.machine()) -> str:
    """A short name of the processor's kind, fit for a file's name: `zen4`, `amx`, `intel-avx512`.

    Results of two kinds are never averaged: they differ in which kernels run, and which peers win.

    Args:
        lines: what the kernel says of the processors; the first one counts.
        architecture: where the lines name no vendor.
    """
    fields: dict[str, str] = {}
    for key, _, value in (line.partition(":") for line in lines):
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", "")).split()
    if "amx_tile" in flags:
        return "amx"
    vendor = _VENDORS.get(fields.get("vendor_id", ""), architecture.lower())
    if vendor == "amd":
        number, model = int(fields["cpu family"]), int(fields["model"])
        name = "zen4" if number == 25 and model in _ZEN4 else _AMD.get(number)
        if name is not None:
            return name
    vectors = next((name for flag, name in _VECTORS.items() if flag in flags), None)
    return vendor if vectors is None else f"{vendor}-{vectors}"


def name() -> str:
    """The name of this machine's kind, as it stands in every row and in the results' file."""
    return family(cpu_lines())


def results() -> Path:
    """Where `bench.run` keeps the rows of this machine."""
    return ROOT / "bench" / "results" / f"cpu-{name()}.jsonl"


def _frequency() -> str | None:
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return governor.read_text().strip() if governor.exists() else None


def _driver() -> str | None:
    """The version of NVIDIA's driver, and the clocks it now runs at and may run at."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    fields = "driver_version,clocks.sm,clocks.max.sm"
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def record() -> dict[str, Any]:
    """The columns that are the same in every row of a run."""
    has_gpu = torch.cuda.is_available()
    return {
        "machine": name(),
        "cpu": _cpu("model name") or platform.machine(),
        "mhz": _cpu("cpu MHz"),
        "cores": len(os.sched_getaffinity(0)),
        "caches": cache_sizes(),
        "governor": _frequency(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "driver": _driver() if has_gpu else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": os.environ.get("FUSED_RNN_COMMIT") or commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
