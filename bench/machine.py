# SPDX-License-Identifier: MIT
"""What every row says of the machine and the software it was measured on."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bench.bounds import cache_sizes, cpu_lines

ROOT = Path(__file__).resolve().parents[1]


def git(*arguments: str) -> str:
    """What git answers about this checkout; empty where there is none."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


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
    commit = git("rev-parse", "--short=12", "HEAD")
    return {
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
        "commit": commit
        + "+changes" * bool(git("status", "--porcelain", "--", "fused_rnn", "csrc")),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
