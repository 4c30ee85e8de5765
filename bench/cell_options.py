# SPDX-License-Identifier: MIT
"""How fast layers of cells with options train: `python -m bench.cell_options`.

Forward and back, beside the plain layer, the loop over time that people write (its input's products
taken out of it), and that loop with its step under torch.compile. All from the same parameters, in
turns.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import machine
from fused_rnn import FusedGRU, FusedLSTM
from fused_rnn.cli.timing import alternate

RESULTS = machine.ROOT / "bench" / "results" / "cell-options.jsonl"
OURS, PLAIN, LOOP, COMPILED = "fused_rnn", "fused_rnn, plain layer", "loop", "loop, compiled step"
STEPS = 64
SHAPES = ((16, 128), (32, 256), (64, 512))  # B, I = H
OPTIONS: dict[str, dict[str, Any]] = {
    "layer_norm": {"layer_norm": True},
    "zoneout": {"zoneout": 0.1, "zoneout_cell": 0.1},
    "variational dropout": {"recurrent_dropout": 0.1},
    "update dropout": {"recurrent_dropout": 0.1, "recurrent_dropout_mode": "update"},
    "peepholes": {"peephole": True},
    "every state": {},  # what `return_states` asks for; the GRU's are its outputs
}
_OF_LSTM = ("peepholes", "every state")


def main(arguments: list[str] | None = None) -> int:
    """Measures, and appends a row for each layer and shape to the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.cell_options", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=10.0, help="of each (default 10)")
    parser.add_argument("--compile", action="store_true", help="torch.compile takes part")
    parser.add_argument("--only", choices=OPTIONS, help="one of the options")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for kind in (FusedLSTM, FusedGRU):
        for name, own in OPTIONS.items():
            if options.only not in (None, name) or (kind is FusedGRU and name in _OF_LSTM):
                continue
            for batch, hidden in SHAPES:
                _measure(kind, name, own, batch, hidden, options)
    return 0


def _measure(
    kind: Any, name: str, own: dict[str, Any], batch: int, hidden: int, options: argparse.Namespace
) -> None:
    if kind is FusedGRU:
        own = {key: value for key, value in own.items() if key != "zoneout_cell"}
    torch.manual_seed(0)
    layer = kind(hidden, hidden, **own)
    x = torch.randn(STEPS, batch, hidden)
    every = name == "every state"
    loop = Loop(layer, every)
    call: dict[str, Any] = {"return_states": True} if every else {}
    tasks = {
        OURS: _training(partial(layer, **call), layer.parameters, x),
        PLAIN: _training(plain := kind(hidden, hidden), plain.parameters, x),
        LOOP: _training(loop, layer.parameters, x),
    }
    if options.compile:
        torch._dynamo.reset()
        tasks[COMPILED] = _training(Loop(layer, every, torch.compile), layer.parameters, x)
    times = alternate(list(tasks.values()), seconds=options.seconds, warm_up=2)
    medians = {task: time.median for task, time in zip(tasks, times, strict=True)}
    row = {
        "what": f"{kind.__name__} with {name}, training",
        "seconds": {task: time._asdict() for task, time in zip(tasks, times, strict=True)},
        "over_loop": medians[LOOP] / medians[OURS],
        "over_compiled": medians[COMPILED] / medians[OURS] if options.compile else None,
        "of_plain": medians[OURS] / medians[PLAIN],
        "batch": batch,
        "steps": STEPS,
        "hidden": hidden,
        "threads": options.threads,
        **machine.record(),
    }
    keys = ("what", "batch", "hidden", "over_loop", "over_compiled", "of_plain")
    print(json.dumps({key: row[key] for key in keys}), flush=True)
    with open(options.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _training(run: Any, parameters: Any, x: Tensor) -> Callable[[], object]:
    def task() -> None:
        y, _, *states = run(x)
        sum((t.sum() for pair in states for t in pair), y.sum()).backward()
        for parameter in parameters():
            parameter.grad = None

    return task


class Loop:
    """The outputs of one layer by PyTorch's operations, step by step."""

    def __init__(self, layer: Any, every_state: bool, compiled: Any = lambda step: step) -> None:
        self.layer, self.every_state = layer, every_state
        self.lstm = isinstance(layer, FusedLSTM)
        self.step = compiled(self._step)

    def __call__(self, x: Tensor) -> tuple[Any, ...]:
        own = self.layer
        xg = self._normal(F.linear(x, own.weight_ih_l0), "weight_ln_ih_l0") + own.bias_ih_l0
        h = c = x.new_zeros(x.shape[1], own.hidden_size)
        variational = own.recurrent_dropout_mode == "variational"
        drop = own.recurrent_dropout
        mask = F.dropout(torch.ones_like(h), drop) if drop and variational else None
        hs, cs = [], []
        for row in xg.unbind(0):
            h, c = self.step(row, h, c, mask)
            hs.append(h)
            cs.append(c)
        y = torch.stack(hs)
        return (y, h, (y, torch.stack(cs))) if self.every_state else (y, h)

    def _step(
        self, row: Tensor, h: Tensor, c: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        own = self.layer
        seen = h if mask is None else h * mask
        hg = self._normal(F.linear(seen, own.weight_hh_l0), "weight_ln_hh_l0") + own.bias_hh_l0
        drop = 0.0 if own.recurrent_dropout_mode == "variational" else own.recurrent_dropout
        new, new_c = self._lstm(row + hg, c, drop) if self.lstm else self._gru(row, hg, h, drop)
        new_c = c if new_c is None else _held(new_c, c, own.zoneout_cell)
        return _held(new, h, own.zoneout), new_c

    def _normal(self, row: Tensor, name: str) -> Tensor:
        if not self.layer.layer_norm:
            return row
        hidden = self.layer.hidden_size
        normal = F.layer_norm(row.unflatten(-1, (-1, hidden)), (hidden,))
        return normal.flatten(-2) * getattr(self.layer, name)

    def _lstm(self, pre: Tensor, c: Tensor, drop: float) -> tuple[Tensor, Tensor | None]:
        own = self.layer
        i, f, g, o = pre.chunk(4, -1)
        if own.peephole:
            p_i, p_f, p_o = own.weight_peephole_l0.chunk(3)
            i, f = i + p_i * c, f + p_f * c
        g = F.dropout(g.tanh(), drop) if drop else g.tanh()
        c = f.sigmoid() * c + i.sigmoid() * g
        o = o + p_o * c if own.peephole else o
        shown = c
        if own.layer_norm:
            sizes = (own.hidden_size,)
            shown = F.layer_norm(c, sizes, own.weight_ln_cell_l0, own.bias_ln_cell_l0)
        return o.sigmoid() * shown.tanh(), c

    def _gru(self, row: Tensor, hg: Tensor, h: Tensor, drop: float) -> tuple[Tensor, Tensor | None]:
        (x_r, x_z, x_n), (h_r, h_z, q) = row.chunk(3, -1), hg.chunk(3, -1)
        r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
        n = (x_n + r * q).tanh()
        n = F.dropout(n, drop) if drop else n
        return n + z * (h - n), None


def _held(new: Tensor, old: Tensor, chance: float) -> Tensor:
    return torch.where(torch.rand_like(new) < chance, old, new) if chance else new


if __name__ == "__main__":
    sys.exit(main())
