# SPDX-License-Identifier: MIT
"""What is timed of this package and of PyTorch itself, each as its documents advise."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bench import problems
from bench.package import Query, choice
from bench.problems import Problem
from fused_rnn import prepacked

# Unrolled by the compiler: beyond this many steps it takes minutes to compile.
COMPILED_STEPS = 64


class Unavailable(Exception):
    """A provider cannot run a case; the message says why."""


class NoPeer(Unavailable):
    """A provider is not meant for a case; it has no row there."""


class Call(NamedTuple):
    """What is timed, and how its result reads as tensors in the problem's order."""

    run: Callable[[], Any]
    tensors: Callable[[Any], list[Tensor]]
    served_by: str
    solves: Problem | None = None  # if that is not the case's own


def _flat(output: Any, state: Any) -> list[Tensor]:
    y = output.data if isinstance(output, PackedSequence) else output
    return [y, *(state if isinstance(state, tuple) else (state,))]


def _unpack(data: Tensor, problem: Problem) -> Tensor:
    packed = problem.pack(problem.x)._replace(data=data)
    padded, _ = pad_packed_sequence(packed, total_length=problem.case.steps)
    return padded


def call_of(
    problem: Problem,
    mode: str,
    forward: Callable[[Any, Any], tuple[Any, Any]],
    weights: Iterable[Tensor],
    served_by: str,
) -> Call:
    """A call of anything with the signature of torch.nn's layers."""
    train = mode == "train"
    packed = problem.pack(problem.x) if problem.case.ragged == "packed" else None
    leaf = (problem.x if packed is None else packed.data).detach().requires_grad_(train)
    x = leaf if packed is None else packed._replace(data=leaf)
    states = tuple(state.detach().clone().requires_grad_(train) for state in problem.states)
    hx = None if not states else states if len(states) == 2 else states[0]
    cotangents = list(problem.cotangents)
    if packed is not None:
        cotangents[0] = problem.pack(cotangents[0]).data
    leaves = [leaf, *states, *weights]

    def run() -> list[Tensor]:
        outputs = _flat(*forward(x, hx))
        if not train:
            return outputs
        # Where every step is a reset, recurrent weights get no gradient: zeros.
        grads = torch.autograd.grad(outputs, leaves, cotangents, materialize_grads=True)
        return [*outputs, *grads]

    def tensors(results: list[Tensor]) -> list[Tensor]:
        results = [result.detach() for result in results]
        if packed is None:
            return results
        y, rest = _unpack(results[0], problem), results[1:]
        if train:
            dx = len(problem.cotangents) - 1
            rest[dx] = _unpack(rest[dx], problem)
        return [y, *rest]

    return Call(run, tensors, served_by)


def ours(problem: Problem, mode: str, backend: str = "auto") -> Call:
    """A call of this package's layer, on one backend if given."""
    case = problem.case
    layer = problems.fused(problem, backend)
    if mode != "train":
        layer.eval()
    query = query_of(problem)
    # Packed input brings its own lengths.
    extra: dict[str, Any] = {"lengths": problem.lengths} if case.ragged == "lengths" else {}
    if problem.resets is not None:
        extra["resets"] = problem.resets
    forward = (lambda x, hx: layer(x, hx, **extra)) if extra else layer
    served_by = choice.choose(query, backend)
    return call_of(problem, mode, forward, layer.parameters(), served_by)


def query_of(problem: Problem) -> Any:
    """What the choice of a backend for a problem depends on."""
    case = problem.case
    reverse = (0, 1) if case.directions == 2 else (0,)
    return Query(
        *(case.cell, problem.x.dtype, problem.x.device.type, reverse, problem.resets is not None),
        device_index=problem.x.device.index,
        hidden=case.hidden,
        shape=(case.steps, case.batch, case.hidden),
    )


def _prepacked(problem: Problem, mode: str) -> Call:
    if problem.case.steps > 1 or mode == "train":
        raise NoPeer("weights are packed beforehand for single steps without gradients")
    layer: Any = problems.fused(problem).eval()
    # Open as long as the layer is there.
    layer.held = prepacked(layer)
    layer.held.__enter__()
    served_by = choice.choose(query_of(problem))
    return call_of(problem, mode, layer, layer.parameters(), served_by)


def _reset_after(problem: Problem, mode: str) -> Call:
    if problem.case.cell != "gru_reset_before":
        raise NoPeer("the GRU of torch.nn is set beside the textbook's only")
    other = problem._replace(case=problem.case._replace(cell="gru"))
    return ours(other, mode)._replace(solves=other)


def _plain(problem: Problem) -> nn.RNNBase:
    if problem.case.cell == "gru_reset_before":
        raise Unavailable("torch.nn has no GRU with the reset gate before the product")
    return problem.layer


def _torch_nn(problem: Problem, mode: str) -> Call:
    layer = _plain(problem).train(mode == "train")
    if problem.resets is not None:
        raise Unavailable("torch.nn has no resets; see torch.nn-loop and torch.nn-pieces")
    if problem.case.ragged != "lengths":
        return call_of(problem, mode, layer, layer.parameters(), "torch")

    def forward(x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        y, state = layer(problem.pack(x), hx)
        return pad_packed_sequence(y, total_length=problem.case.steps)[0], state

    return call_of(problem, mode, forward, layer.parameters(), "torch")


def _cell(problem: Problem) -> nn.RNNCellBase:
    """torch.nn's cell over the very weights of the layer."""
    layer = _plain(problem)
    classes = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn_tanh": nn.RNNCell}
    cell = classes[problem.case.cell](problem.case.inputs, problem.case.hidden, device="meta")
    for name in list(cell._parameters):
        setattr(cell, name, getattr(layer, f"{name}_l0"))
    return cell


def _torch_nn_cell(problem: Problem, mode: str) -> Call:
    case = problem.case
    if case.steps > 1 or case.layers * case.directions > 1:
        raise NoPeer("a cell is a peer of the single step of a single layer only")
    cell = _cell(problem)

    def forward(x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        pair = isinstance(hx, tuple)
        state = cell(x[0], (hx[0][0], hx[1][0]) if pair else hx[0])
        parts = tuple(part[None] for part in (state if pair else (state,)))
        return parts[0], parts if pair else parts[0]

    return call_of(problem, mode, forward, problem.layer.parameters(), "torch")


def _torch_nn_loop(problem: Problem, mode: str) -> Call:
    if problem.resets is None:
        raise NoPeer("a loop over steps is a peer of resets only")
    cell, resets, case = _cell(problem), problem.resets, problem.case

    def forward(x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        keep = resets.logical_not().to(x.dtype)[..., None]
        state = [x.new_zeros(case.batch, case.hidden)] * (len(problem.cotangents) - 1)
        ys = []
        for step, kept in zip(x.unbind(0), keep.unbind(0), strict=True):
            state = [part * kept for part in state]
            result = cell(step, tuple(state) if len(state) == 2 else state[0])
            state = list(result) if len(state) == 2 else [result]
            ys.append(state[0])
        return torch.stack(ys), tuple(part[None] for part in state)

    return call_of(problem, mode, forward, problem.layer.parameters(), "torch")


def _torch_nn_pieces(problem: Problem, mode: str) -> Call:
    """Cuts the rows at their resets and runs the pieces as one packed batch."""
    if problem.resets is None:
        raise NoPeer("cutting rows into pieces is a peer of resets only")
    layer, resets = _plain(problem), problem.resets

    def forward(x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        steps, batch = resets.shape
        starts = resets.t().clone()
        starts[:, 0] = True
        piece = starts.flatten().cumsum(0) - 1
        first = starts.flatten().nonzero()[:, 0]
        place = torch.arange(steps * batch, device=x.device) - first[piece]
        lengths = torch.bincount(piece)
        padded = x.new_zeros(int(lengths.max()), len(lengths), x.shape[2])
        padded = padded.index_put((place, piece), x.transpose(0, 1).flatten(0, 1))
        output, state = layer(pack_padded_sequence(padded, lengths, enforce_sorted=False))
        y, _ = pad_packed_sequence(output)
        y = y[place, piece].view(batch, steps, -1).transpose(0, 1)
        last = piece.view(batch, steps)[:, -1]
        parts = state if isinstance(state, tuple) else (state,)
        return y, tuple(part[:, last] for part in parts)

    return call_of(problem, mode, forward, layer.parameters(), "torch")


def _torch_compile(problem: Problem, mode: str) -> Call:
    case = problem.case
    unrolled = case.steps * case.layers * case.directions
    if unrolled > COMPILED_STEPS:
        raise Unavailable(f"{unrolled} steps to unroll; compiled up to {COMPILED_STEPS}")
    if case.ragged == "packed":
        raise Unavailable("a PackedSequence is not traced; see the same case with lengths")
    layer = problems.fused(problem, "reference")
    extra = {"lengths": problem.lengths, "resets": problem.resets}
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, hx: layer(x, hx, **extra), dynamic=False)
    return call_of(problem, mode, compiled, layer.parameters(), "torch.compile")


# Every provider made of PyTorch, by the name its rows carry.
TORCH: dict[str, Callable[[Problem, str], Call]] = {
    "fused_rnn": ours,
    "fused_rnn-prepacked": _prepacked,
    "fused_rnn-reset-after": _reset_after,
    "torch.nn": _torch_nn,
    "torch.nn-cell": _torch_nn_cell,
    "torch.nn-loop": _torch_nn_loop,
    "torch.nn-pieces": _torch_nn_pieces,
    "torch.compile": _torch_compile,
}
