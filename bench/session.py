# SPDX-License-Identifier: MIT
"""A run of commands on a lent machine: within its time, with their logs in one archive."""

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from bench.machine import ROOT
from bench.rehearsal import REHEARSED

SECONDS = 350.0
# How many times as long everything may take in a rehearsal.
SLOWER = 60 if REHEARSED else 1


class Session:
    """One part: its time, its logs, and what went wrong."""

    def __init__(self, part: str, out: Path, seconds: float = SECONDS) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.part, self.out, self.failed = part, out, list[str]()
        self.scratch = Path(tempfile.mkdtemp(prefix="fused_rnn-"))
        self._end, self._text = time.monotonic() + seconds * SLOWER, out / f"{part}.txt"
        self._text.write_text("")
        (self.scratch / "logs").mkdir()
        # Steps may run side by side.
        self._telling = Lock()

    def say(self, *lines: str) -> None:
        """Prints lines, and keeps them in the part's text."""
        with self._text.open("a", encoding="utf-8") as file:
            for line in lines:
                print(line, flush=True)
                file.write(line + "\n")

    def left(self, most: float = SECONDS) -> float:
        """Seconds that a command may take."""
        return max(1.0, min(most * SLOWER, self._end - time.monotonic()))

    def log(self, name: str) -> Path:
        """Where the output of a command goes."""
        return self.scratch / "logs" / f"{name}.log"

    def command(self, name: str, command: Sequence[str], most: float = SECONDS, **more: str) -> int:
        """The exit status of a command whose output is logged; 124 where its time ran out."""
        with self.log(name).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait(self.left(most))
            except subprocess.TimeoutExpired:
                return 124
            finally:
                # Whatever it started: a compiler, or a worker that hangs in a kernel.
                _kill_group(process)

    def step(self, name: str, command: Sequence[str], most: float = SECONDS, **more: str) -> bool:
        """Whether a command succeeded; a line says so, with the last of its log."""
        start = time.monotonic()
        status = self.command(name, command, most, **more)
        lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        verdict = {0: "ok", 124: "out of time"}.get(status, f"failed ({status})")
        told = f"{name:<26} {verdict:<12} {time.monotonic() - start:6.1f} s  {lines[-1][:200]}"
        with self._telling:
            self.say(told, *(f"    {line[:200]}" for line in lines[-15:-1] if status))
            self.failed += [name] * bool(status)
            self.pack()
        return not status

    def pack(self) -> None:
        """Keeps all logs so far as one archive."""
        partial = self.scratch / "logs.tar.gz"
        with tarfile.open(partial, "w:gz") as archive:
            archive.add(self.scratch / "logs", "logs")
        shutil.copyfile(partial, self.out / f"{self.part}-logs.tar.gz")

    def close(self) -> int:
        """The exit status of the part, after its last lines."""
        self.say(f"failed: {', '.join(self.failed)}" if self.failed else "all is well")
        self.pack()
        shutil.rmtree(self.scratch, ignore_errors=True)
        return int(bool(self.failed))


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
