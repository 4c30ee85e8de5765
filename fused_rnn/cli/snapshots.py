# SPDX-License-Identifier: MIT
"""Checkpoints that stay beside a training's newest one: of its best look, and of its last looks."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from ..seq2seq import Training, holds_checkpoint
from ..seq2seq.training.parallel import world

BEST = "best"
_STEP = re.compile(r"step-([0-9]+)")


class Snapshots:
    """Folders inside a training's own, each a checkpoint like that one.

    Args:
        folder: of the training.
        save: puts a checkpoint into a folder; called in all processes.
        best: whether the best look at what is held out is kept, in `best`.
        last: how many of the last looks are kept, in `step-<number>`.
    """

    def __init__(
        self, folder: Path, save: Callable[[Path], None], *, best: bool, last: int
    ) -> None:
        self._folder, self._save, self._best, self._last = folder, save, best, last

    def note(self, trainer: Training) -> None:
        """Keeps what is wanted of the look just taken, and drops what no longer is.

        Raises:
            Diverged: something is wanted, and a weight is no finite number.
        """
        if self._best or self._last:
            trainer.check_weights()
        if self._best and trainer.at_best:
            self._save(self._folder / BEST)
        if self._last:
            self._save(self._folder / f"step-{trainer.step}")
            if world().main:
                for old in self._steps()[: -self._last]:
                    shutil.rmtree(old)

    def _steps(self) -> list[Path]:
        """Folders of looks, the oldest first."""
        found = {
            int(match[1]): path
            for path in self._folder.iterdir()
            if (match := _STEP.fullmatch(path.name)) and holds_checkpoint(path)
        }
        return [found[step] for step in sorted(found)]
