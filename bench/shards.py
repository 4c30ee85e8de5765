# SPDX-License-Identifier: MIT
"""A plugin of pytest for tests on a GPU: `-p bench.shards --shard 0/6 --limit 20 --record FILE`.

Runs every sixth test and writes a line for each, before it begins and when it has ended. A test
past its limit ends the process, as a kernel that hangs cannot be left; run again, the same command
goes on with the tests after it.
"""

import faulthandler
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import rehearsal


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options above."""
    parser.addoption("--shard", default="0/1", help="which part of how many, as in 0/6")
    parser.addoption("--limit", type=float, default=20.0, help="seconds of a test")
    parser.addoption("--record", type=Path, help="the file of outcomes")


def pytest_configure(config: pytest.Config) -> None:
    """Plays a GPU in a rehearsal, to the tests of the CUDA kernels."""
    if rehearsal.REHEARSED and any("test_cuda_device" in name for name in config.args):
        rehearsal.play()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of this shard that have not begun."""
    part, _, parts = config.getoption("--shard").partition("/")
    record: Path = config.getoption("--record")
    begun = {line["test"] for line in outcomes(record)}
    items[:] = [item for item in items[int(part) :: int(parts)] if item.nodeid not in begun]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Says that a test begins, and ends the process past its limit."""
    _write(item.config, {"test": item.nodeid, "outcome": "out of time"})
    faulthandler.dump_traceback_later(item.config.getoption("--limit"), exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Writes what came of a test: of its call, or of what went wrong or was skipped around it."""
    report: Any = yield
    if report.when == "call" or report.outcome != "passed":
        why = "" if report.passed else str(call.excinfo.value).split("\n", 1)[0][:300]
        line = {"outcome": report.outcome, "seconds": round(report.duration, 3), "why": why}
        _write(item.config, {"test": item.nodeid} | line)
    return report


def _write(config: pytest.Config, line: dict[str, Any]) -> None:
    with config.getoption("--record").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def outcomes(record: Path) -> list[dict[str, Any]]:
    """The last line of each test in a file; none where there is no file."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    found = (json.loads(line) for line in lines)
    return list({line["test"]: line for line in found}.values())
