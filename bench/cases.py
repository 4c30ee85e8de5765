# SPDX-License-Identifier: MIT
"""Every named benchmark case, with the reason for which it is measured."""

import re
from typing import NamedTuple

CELLS = ("lstm", "gru", "rnn_tanh")


class Case(NamedTuple):
    """One layer and the input it runs on."""

    cell: str
    batch: int
    steps: int
    inputs: int
    hidden: int
    reason: str
    group: str = "core"
    dtype: str = "float32"
    threads: int = 2
    layers: int = 1
    directions: int = 1
    ragged: str = ""  # "", "packed" or "lengths"
    resets: int = 0  # mean number of steps between two resets of a row; 0 for none
    precision: str = "highest"  # what torch.set_float32_matmul_precision is told
    package: str = ""  # that builds such a layer
    modes: tuple[str, ...] = ("infer", "train")

    @property
    def shape(self) -> str:
        """Sizes and options, without the cell: what a row of a table is called."""
        parts = [f"B{self.batch}-T{self.steps}-I{self.inputs}-H{self.hidden}"]
        parts += [f"L{self.layers}"] * (self.layers > 1) + ["bidirectional"] * (self.directions > 1)
        parts += [self.ragged] * bool(self.ragged) + [f"resets{self.resets}"] * (self.resets > 0)
        parts += [self.dtype] * (self.dtype != "float32") + [self.package] * bool(self.package)
        return "-".join([*parts, f"{self.threads}threads"] if self.threads != 2 else parts)

    @property
    def name(self) -> str:
        """Unique among all cases."""
        return f"{self.group}/{self.cell}-{self.shape}"

    def shrunk(self) -> "Case":
        """The same case at sizes that take no time: to try the harness, never to publish."""
        return self._replace(
            batch=min(self.batch, 3),
            steps=min(self.steps, 5),
            inputs=min(self.inputs, 4),
            hidden=min(self.hidden, 6),
            resets=min(self.resets, 2),
        )


class _Shape(NamedTuple):
    batch: int
    steps: int
    inputs: int
    hidden: int
    reason: str


# These ten enter the means.
CORE = (
    _Shape(1, 100, 128, 128, "one small stream: the latency of a step, weights in the L2"),
    _Shape(1, 100, 256, 256, "one stream whose weights just fill the L2 of the cores"),
    _Shape(1, 100, 1024, 1024, "one stream bound by reading the weights from the L3"),
    _Shape(16, 64, 256, 256, "small training batch: sums and weight traffic balance"),
    _Shape(32, 35, 28, 256, "character language model: narrow input, short window"),
    _Shape(32, 128, 512, 512, "compute-bound, weights out of the L2"),
    _Shape(64, 64, 1024, 1024, "large layer: as near to a plain matrix product as it gets"),
    _Shape(128, 64, 256, 256, "wide batch over small weights: the projection is half the work"),
    _Shape(8, 2048, 64, 128, "long sequence of audio or sensor frames: cost per step"),
    _Shape(7, 50, 33, 77, "no size divides a vector: tails everywhere"),
)
_STEP = (
    _Shape(1, 1, 8, 8, "no work at all: the overhead of calling the module"),
    _Shape(1, 1, 256, 256, "a decoder for one user"),
    _Shape(64, 1, 256, 256, "a decoder for a batch, or a beam search"),
)
_LARGER = (CORE[2], CORE[5], CORE[6], CORE[7])
# Where products are large enough for other arithmetic to pay.
_BATCHES = tuple(shape for shape in CORE if shape.batch >= 16)
_ONE_THREAD = (CORE[1], CORE[3], CORE[5])
_RAGGED = (64, 128, 256, 256)


class _Layer(NamedTuple):
    package: str
    sizes: tuple[int, int, int, int]  # B, T, I, H
    layers: int
    directions: int
    reason: str


# LSTMs that others build, as wide and deep as their packages make them by default.
_FIELD = (
    _Layer("openunmix", (1, 255, 512, 256), 3, 2, "Open-Unmix: one source out of 6 s of a song"),
    _Layer("demucs", (1, 200, 512, 512), 2, 2, "Demucs: its innermost branch, a window of steps"),
    _Layer("pyannote", (32, 589, 60, 128), 4, 2, "pyannote.audio: who speaks when, 10 s a row"),
    _Layer("doctr", (64, 32, 512, 128), 2, 2, "docTR: reads words, a step for 4 columns of pixels"),
    _Layer(
        "deepar", (32, 60, 30, 40), 2, 1, "GluonTS: a forecast's past and horizon, known in full"
    ),
    _Layer("deepar-sampling", (3200, 1, 30, 40), 2, 1, "GluonTS: 32 series go on, 100 paths each"),
    _Layer(
        "neuralforecast", (32, 48, 1, 128), 2, 1, "NeuralForecast: encodes the past of one number"
    ),
    _Layer("ppo", (8, 128, 64, 256), 1, 1, "SB3-Contrib: a policy's rollout in 8 environments"),
    _Layer("rnnt", (8, 1, 640, 640), 1, 1, "NeMo: the transducer's decoder takes one label in"),
    _Layer(
        "encodec", (1, 500, 512, 512), 2, 1, "Encodec: between convolutions, 500 frames of audio"
    ),
)


def _field() -> list[Case]:
    return [
        Case(
            "lstm",
            *layer.sizes,
            layer.reason,
            "field",
            layers=layer.layers,
            directions=layer.directions,
            package=layer.package,
        )
        for layer in _FIELD
    ]


def _options() -> list[Case]:
    cases = []
    for cell in CELLS:
        two_layers = "the usual encoder: two layers, both directions"
        cases.append(
            Case(cell, 32, 64, 256, 256, two_layers, "bidirectional", layers=2, directions=2)
        )
        for ragged, form in (("packed", "a PackedSequence"), ("lengths", "padded, with lengths")):
            reason = f"sentences of 1 to {_RAGGED[1]} steps, given as {form}"
            cases.append(Case(cell, *_RAGGED, reason, "ragged", ragged=ragged))
        episodes = "reinforcement learning: episodes end inside the window"
        cases.append(Case(cell, *_RAGGED, episodes, "resets", resets=20))
    return cases


def _scaling() -> list[Case]:
    cases = []
    for cell in ("lstm", "gru"):
        for hidden in (32, 64, 128, 256, 512, 1024):
            cases.append(Case(cell, 16, 64, hidden, hidden, "time against H", "scale-H"))
        for steps in (1, 4, 16, 64, 256, 1024):
            cases.append(Case(cell, 16, steps, 256, 256, "time against T", "scale-T"))
        for batch in (1, 4, 16, 64, 256):
            cases.append(Case(cell, batch, 64, 256, 256, "time against B", "scale-B"))
        for threads in (1, 2):
            reason = "time against threads"
            cases.append(Case(cell, 16, 64, 256, 256, reason, "scale-threads", threads=threads))
    return cases


def all_cases() -> list[Case]:
    """All cases, the core ones first."""
    cases = [Case(cell, *shape) for cell in CELLS for shape in CORE]
    step_modes = ("step", "train")
    cases += [Case(cell, *shape, "step", modes=step_modes) for cell in CELLS for shape in _STEP]
    cases += _options()
    cases += [Case("gru_reset_before", *shape, "textbook") for shape in CORE]
    cases += [
        Case(cell, *shape, "half", dtype)
        for dtype in ("bfloat16", "float16")
        for cell in CELLS
        for shape in _LARGER
    ]
    cases += [
        Case(cell, *shape, "high", precision="high")
        for cell in ("lstm", "gru")
        for shape in _BATCHES
    ]
    cases += _field()
    cases += [
        Case(cell, *shape, "one-thread", threads=1) for cell in CELLS for shape in _ONE_THREAD
    ]
    return cases + _scaling()


def select(pattern: str = "", threads: int | None = None, quick: bool = False) -> list[Case]:
    """The cases whose name matches the regular expression, at a number of threads if given."""
    cases = [case for case in all_cases() if re.search(pattern, case.name)]
    if threads is not None:
        cases = [case._replace(threads=threads) for case in cases]
    if quick:
        cases = [case.shrunk() for case in cases]
    return list({case.name: case for case in cases}.values())
