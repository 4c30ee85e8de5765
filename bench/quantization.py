# SPDX-License-Identifier: MIT
"""What weights of fewer bits cost in accuracy and gain in speed: `python -m bench.quantization`.

`speed`: layers at B = 1, quantized, beside our own float32 on prepacked weights, PyTorch's
quantize_dynamic and ONNX Runtime's dynamically quantized LSTM, in turns. `trust`: perplexity of a
saved language model, perplexity and BLEU of a saved translator (those of `make demo` and
`bench.translation`), as trained, quantized, and by quantize_dynamic.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fused_rnn
from bench import machine
from bench.peers import quantized_onnx
from bench.providers import Unavailable
from fused_rnn.cli.timing import alternate
from fused_rnn.nn.quantization.stored import STORAGES
from fused_rnn.seq2seq import (
    SearchOptions,
    Translator,
    corpus_scores,
    evaluate,
    evaluate_translator,
    load_language_model,
    load_translator,
    translate,
)
from fused_rnn.text import Pairs, corpus, normalize, python_topics, read_pairs, split_pairs

RESULTS = machine.ROOT / "bench" / "results" / "quantization.jsonl"
DYNAMIC = "quantize_dynamic"
_HELD_OUT, _SENTENCES = 5000, 1000


def main(arguments: list[str] | None = None) -> int:
    """Measures, and appends rows to the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantization", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parts = parser.add_subparsers(required=True)
    speed = parts.add_parser("speed", help="times of layers")
    speed.set_defaults(measure=_speed)
    speed.add_argument("--seconds", type=float, default=4.0, help="of each case (default 4)")
    trust = parts.add_parser("trust", help="figures of models")
    trust.set_defaults(measure=_trust)
    trust.add_argument("--language-model", type=Path, help="a checkpoint's folder")
    trust.add_argument("--translator", type=Path, help="a checkpoint's folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for row in options.measure(options):
        print(json.dumps({key: row[key] for key in ("kind", "name", "figures")}), flush=True)
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


def _row(kind: str, name: str, figures: dict[str, Any], **more: Any) -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {"kind": kind, "name": name, "figures": figures, "threads": threads, **more} | (
        machine.record()
    )


def dynamic(model: nn.Module) -> nn.Module:
    """A copy of a model whose recurrent layers are those of PyTorch's quantize_dynamic."""
    plain = fused_rnn.unfuse(deepcopy(model))
    with warnings.catch_warnings():
        # It says that it is deprecated.
        warnings.simplefilter("ignore")
        quantized: nn.Module = torch.ao.quantization.quantize_dynamic(plain, {nn.LSTM, nn.GRU})
    if isinstance(quantized, Translator):
        quantized.encoder.rnn = cast(Any, _OfLengths(quantized.encoder.rnn))
    return quantized


class _OfLengths(nn.Module):
    """A layer of quantize_dynamic that takes lengths, as packed input."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.hidden_size, self.bidirectional = layer.hidden_size, layer.bidirectional

    def forward(self, x: Tensor, *, lengths: Tensor) -> tuple[Tensor, Any]:
        y, state = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(y, total_length=x.shape[0])[0], state


def _speed(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for kind in ("LSTM", "GRU"):
        for hidden in (256, 512, 1024):
            for steps in (100, 1):
                torch.manual_seed(0)
                layer = getattr(fused_rnn, f"Fused{kind}")(hidden, hidden).eval()
                times, reasons = _times(layer, torch.randn(steps, 1, hidden), options.seconds)
                case = {"cell": kind, "hidden": hidden, "steps": steps}
                yield _row("speed", f"{kind} H {hidden} T {steps}", times, **case, reasons=reasons)


def _times(layer: Any, x: Tensor, seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Of each provider the median seconds of a call; of those that are none, why."""
    modules = {storage: fused_rnn.quantize(deepcopy(layer), storage) for storage in STORAGES}
    modules[DYNAMIC] = dynamic(nn.Sequential(layer))
    tasks: dict[str, Callable[[], object]] = {"float32": lambda: layer(x)}
    for name, module in modules.items():
        tasks[name] = lambda module=module: module(x)  # type: ignore[misc]
    reasons: dict[str, str] = {}
    try:
        tasks["onnxruntime"] = quantized_onnx(layer, x)
    except Unavailable as why:
        reasons["onnxruntime"] = str(why)
    # A call of some microseconds is repeated, so that the clock does not show.
    repeats = 50 if x.shape[0] == 1 else 1

    def repeated(task: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeats):
                task()

        return run

    with torch.inference_mode(), fused_rnn.prepacked(layer):
        found = alternate([repeated(task) for task in tasks.values()], seconds=seconds)
    return {n: t.median / repeats for n, t in zip(tasks, found, strict=True)}, reasons


def _variants(model: Any) -> Iterator[tuple[str, Any]]:
    yield "float32", model
    for storage in STORAGES:
        yield storage, fused_rnn.quantize(deepcopy(model), storage)
    yield DYNAMIC, dynamic(model)


def _trust(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if options.language_model:
        saved = load_language_model(options.language_model)
        tokens = saved.codec.encode(python_topics())
        held_out = tokens[-(len(tokens) // 10) :]
        figures = {
            name: {"perplexity": evaluate(model, held_out, batch_size=16).perplexity}
            for name, model in _variants(saved.model.eval())
        }
        yield _row("trust", "language model", figures, tokens=len(held_out))
    if options.translator:
        found = load_translator(options.translator)
        pairs = list(read_pairs(corpus("fra-eng", os.environ.get("FUSED_RNN_TEST_DATA"))))
        held = split_pairs(pairs, _HELD_OUT)[1]
        figures = {name: _scores(model, found, held) for name, model in _variants(found.model)}
        yield _row("trust", "translator", figures, sentences=_SENTENCES)


def _scores(model: Any, saved: Any, held: list[Any]) -> dict[str, float]:
    codecs = (saved.source, saved.target)
    references: dict[str, list[str]] = {}
    for source, target in held:
        references.setdefault(source, []).append(" ".join(normalize(target, "spaces")))
    order = sorted(list(references)[:_SENTENCES], key=len)
    found = translate(model.eval(), *codecs, order, SearchOptions(beam_size=5))
    texts = [one.candidates[0].text if one.candidates else "" for one in found]
    bleu = corpus_scores(texts, [references[source] for source in order])["bleu"]
    data = Pairs(held[:_SENTENCES], *codecs, num_steps=60, by_length=True)
    perplexity = evaluate_translator(model, data, saved.target.vocab.bos).perplexity
    return {"bleu": bleu, "perplexity": perplexity}


if __name__ == "__main__":
    sys.exit(main())
