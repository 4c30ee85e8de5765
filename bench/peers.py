# SPDX-License-Identifier: MIT
"""The peers outside PyTorch, each as its documents advise: the only file that imports them."""

import functools
import importlib
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fused_rnn
from bench import problems, providers
from bench.machine import failed_import
from bench.problems import Problem
from bench.providers import Call, NoPeer, Unavailable, call_of


def _need_full_precision(problem: Problem) -> None:
    if problem.case.precision != "highest":
        raise NoPeer("torch's setting reaches torch only; see the same shape among the ten")


def _onnx_model(problem: Problem, inputs: tuple[Any, ...], input_names: list[str]) -> bytes:
    import onnx

    buffer: Any = io.BytesIO()  # torch's annotation allows a path only; its documents, this too
    outputs = problems.names(problem, "infer")
    with warnings.catch_warnings():
        # It warns that other sizes than these may not work; there will be none.
        warnings.simplefilter("ignore")
        # The exporter that writes the ONNX operators LSTM, GRU and RNN, which is what gets the
        # runtime's fused kernels; the newer one writes a loop.
        torch.onnx.export(
            problem.layer.eval(),
            inputs,
            buffer,
            dynamo=False,
            input_names=input_names,
            output_names=outputs,
        )
    model = onnx.load_from_string(buffer.getvalue())
    if problem.case.cell == "gru_reset_before":
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "linear_before_reset":
                    attribute.i = 0
    return model.SerializeToString()


def _onnxruntime(problem: Problem, mode: str) -> Call:
    case = problem.case
    _need_full_precision(problem)
    if mode == "train":
        raise Unavailable("ONNX Runtime's wheels run inference only")
    if case.ragged or problem.resets is not None:
        raise Unavailable("torch's exporter of packed input fixes the lengths; ONNX has no resets")
    if case.dtype != "float32":
        raise Unavailable(f"ONNX Runtime has no {case.dtype} kernels for recurrences on the CPU")
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise Unavailable(f"not installed: {error.name}") from None
    states = dict(zip(("h0", "c0"), problem.states, strict=False))
    hx = problem.states if len(states) == 2 else next(iter(problem.states), None)
    inputs = (problem.x,) if hx is None else (problem.x, hx)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    # Its threads must not go on spinning while the next provider is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        _onnx_model(problem, inputs, ["x", *states]), options, ["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for name, tensor in (("x", problem.x), *states.items()):
        binding.bind_cpu_input(name, tensor.numpy())
    for name in problems.names(problem, "infer"):
        binding.bind_output(name)

    def run() -> None:
        session.run_with_iobinding(binding)

    def tensors(_: None) -> list[Tensor]:
        return [torch.from_numpy(array) for array in binding.copy_outputs_to_cpu()]

    return Call(run, tensors, f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")


def quantized_onnx(layer: Any, x: Tensor) -> Callable[[], object]:
    """A call of ONNX Runtime's dynamically quantized LSTM with the weights of a layer.

    Raises:
        Unavailable: it is not installed, or the layer is no LSTM.
    """
    if not isinstance(layer, torch.nn.LSTM):
        raise Unavailable("ONNX Runtime quantizes LSTM alone")
    try:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise Unavailable(f"not installed: {error.name}") from None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, small = f"{folder}/plain.onnx", f"{folder}/small.onnx"
        names: Any = {"input_names": ["x"], "output_names": ["y", "h", "c"], "dynamo": False}
        torch.onnx.export(fused_rnn.unfuse(layer), (x,), plain, **names)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(small, options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", x.numpy())
    for name in names["output_names"]:
        binding.bind_output(name)

    def run() -> None:
        session.run_with_iobinding(binding)

    return run


def _jax_array(tensor: Tensor) -> Any:
    import jax.numpy as jnp

    # Through float32, which holds every number of the half types as it is.
    array = jnp.asarray(tensor.detach().float().numpy())
    return array.astype(str(tensor.dtype).removeprefix("torch."))


def _jax_cell(cell: str, xg: Any, state: list[Any], w_hh: Any, b_hh: Any) -> list[Any]:
    """One step from projected gates, float32 sums whatever the weights' type."""
    import jax
    import jax.numpy as jnp

    def product(h: Any, weight: Any) -> Any:
        return jnp.matmul(h.astype(weight.dtype), weight.T, preferred_element_type=jnp.float32)

    h = state[0]
    if cell == "rnn_tanh":
        return [jnp.tanh(xg + product(h, w_hh) + b_hh)]
    if cell == "lstm":
        i, f, g, o = jnp.split(xg + product(h, w_hh) + b_hh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return [jax.nn.sigmoid(o) * jnp.tanh(c), c]
    size = h.shape[-1]
    if cell == "gru":
        hg = product(h, w_hh) + b_hh
        r, z = jnp.split(jax.nn.sigmoid(xg[:, : 2 * size] + hg[:, : 2 * size]), 2, axis=-1)
        n = jnp.tanh(xg[:, 2 * size :] + r * hg[:, 2 * size :])
    else:
        hg = product(h, w_hh[: 2 * size]) + b_hh[: 2 * size]
        r, z = jnp.split(jax.nn.sigmoid(xg[:, : 2 * size] + hg), 2, axis=-1)
        n = jnp.tanh(xg[:, 2 * size :] + product(r * h, w_hh[2 * size :]) + b_hh[2 * size :])
    return [n + z * (h - n)]


def _jax_direction(
    problem: Problem, x: Any, state: list[Any], weights: Any, backward: bool
) -> tuple[Any, list[Any]]:
    """One direction of one layer: y (T, B, H) and the final state."""
    import jax
    import jax.numpy as jnp

    w_ih, w_hh, b_ih, b_hh = weights
    xg = jnp.matmul(x, w_ih.T, preferred_element_type=jnp.float32) + b_ih
    inside = cut = jnp.zeros((problem.case.steps, 1, 1), bool)
    if problem.lengths is not None:
        steps = jnp.arange(problem.case.steps)[:, None]
        inside = (steps < jnp.asarray(problem.lengths.numpy()))[..., None]
    if problem.resets is not None:
        cut = jnp.asarray(problem.resets.numpy())[..., None]

    def step(carry: list[Any], at: Any) -> tuple[list[Any], Any]:
        gates, is_inside, is_cut = at
        before = (
            [jnp.where(is_cut, 0, part) for part in carry] if problem.resets is not None else carry
        )
        after = _jax_cell(problem.case.cell, gates, before, w_hh, b_hh)
        if problem.lengths is None:
            return after, after[0].astype(x.dtype)
        y = jnp.where(is_inside, after[0], 0)
        after = [jnp.where(is_inside, new, old) for new, old in zip(after, before, strict=True)]
        return after, y.astype(x.dtype)

    final, y = jax.lax.scan(step, state, (xg, inside, cut), reverse=backward)
    return y, final


def _jax_stack(problem: Problem, x: Any, states: Any, weights: Any) -> list[Any]:
    """All layers and directions: y, hn (and cn)."""
    import jax.numpy as jnp

    case, finals = problem.case, []
    parts = len(problem.cotangents) - 1
    zeros = jnp.zeros((case.batch, case.hidden), jnp.float32)
    for layer in range(case.layers):
        ys = []
        for direction in range(case.directions):
            index = layer * case.directions + direction
            state = [part[index].astype(jnp.float32) for part in states] or [zeros] * parts
            part = weights[4 * index : 4 * index + 4]
            y, final = _jax_direction(problem, x, state, part, direction == 1)
            ys.append(y)
            finals.append(final)
        x = jnp.concatenate(ys, axis=-1) if len(ys) > 1 else ys[0]
    hidden = [jnp.stack([final[part] for final in finals]).astype(x.dtype) for part in range(parts)]
    return [x, *hidden]


def _jax(problem: Problem, mode: str) -> Call:
    _need_full_precision(problem)
    if problem.case.ragged == "packed":
        raise Unavailable("JAX has no packed sequences; see the same case with lengths")
    try:
        import jax
    except ImportError as error:
        raise Unavailable(f"not installed: {error.name}") from None
    x = _jax_array(problem.x)
    states = [_jax_array(state) for state in problem.states]
    weights = [_jax_array(weight) for weight in problem.layer.parameters()]
    cotangents = [_jax_array(cotangent) for cotangent in problem.cotangents]

    def infer(x: Any, states: Any, weights: Any) -> list[Any]:
        return _jax_stack(problem, x, states, weights)

    def train(x: Any, states: Any, weights: Any) -> list[Any]:
        outputs, pullback = jax.vjp(infer, x, states, weights)
        dx, dstates, dweights = pullback(cotangents)
        return [*outputs, dx, *dstates, *dweights]

    timed = jax.jit(train if mode == "train" else infer)

    def run() -> Any:
        return jax.block_until_ready(timed(x, states, weights))

    def tensors(results: Any) -> list[Tensor]:
        return [
            torch.tensor(jax.device_get(r.astype("float32"))).to(problem.x.dtype) for r in results
        ]

    return Call(run, tensors, f"jax {jax.__version__}")


# What FlashRNN calls the cells that it has.
_FLASH_CELLS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "elman"}


def _flash_weights(cell: str, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Recurrent weights (G, 1, H, H), and biases, a row for each gate.

    Its GRU has four gates: b_hn, which the reset gate scales, comes first and stands alone.
    """
    _, w_hh, b_ih, b_hh = parameters
    hidden = w_hh.shape[1]
    weights = w_hh.view(-1, 1, hidden, hidden)
    ours, theirs = b_ih.view(-1, 1, hidden), b_hh.view(-1, 1, hidden)
    if cell != "gru":
        return weights, ours + theirs
    bias = torch.cat([theirs[2:], ours[:2] + theirs[:2], ours[2:]])
    return weights.roll(1, 0), bias


def flashrnn(problem: Problem, mode: str, backend: str) -> Call:
    """FlashRNN with one head, and the product of the input that it leaves to its caller.

    Args:
        backend: its name for a set of kernels.
    """
    case = problem.case
    if case.cell not in _FLASH_CELLS or case.ragged or case.resets:
        raise Unavailable("FlashRNN has no textbook GRU, no ragged batches and no resets")
    if case.layers * case.directions > 1:
        raise Unavailable("FlashRNN has one layer and one direction")
    if backend == "cuda_fused" and case.cell == "gru":
        raise Unavailable("FlashRNN has no fused GRU; see its alternating kernels")
    if backend == "triton_fused" and case.cell != "lstm":
        raise Unavailable("FlashRNN has Triton kernels of the LSTM only")
    try:
        package = importlib.import_module("flashrnn")
    except ImportError as error:
        raise Unavailable(failed_import(error)) from None
    config = package.FlashRNNConfig(
        head_dim=case.hidden,
        num_heads=1,
        batch_size=case.batch,
        function=_FLASH_CELLS[case.cell],
        backend=backend,
        dtype=case.dtype,
        input_shape="TBGHD",
    )
    parameters = list(problem.layer.parameters())

    def forward(x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        gates = torch.nn.functional.linear(x, parameters[0])
        weights, bias = _flash_weights(case.cell, parameters)
        gates = gates.view(case.steps, case.batch, -1, 1, case.hidden)
        states = None
        if hx is not None:
            states = torch.stack(hx if isinstance(hx, tuple) else (hx,))  # (S, 1, B, H)
            states = states.view(-1, case.batch, 1, 1, case.hidden)
        y, last = package.flashrnn(gates, weights, bias, states=states, config=config)
        parts = tuple(part.reshape(1, case.batch, case.hidden) for part in last)
        return y[0].squeeze(2).transpose(0, 1), parts if len(parts) == 2 else parts[0]

    return call_of(problem, mode, forward, parameters, f"FlashRNN, {backend}")


PROVIDERS: dict[str, Callable[[Problem, str], Call]] = {
    **providers.TORCH,
    "onnxruntime": _onnxruntime,
    "jax": _jax,
}
# Those that need a GPU. The compiler builds its CUDA kernels anew for every shape.
FLASHRNN: dict[str, Callable[[Problem, str], Call]] = {
    "flashrnn-triton": functools.partial(flashrnn, backend="triton_fused"),
    "flashrnn-fused": functools.partial(flashrnn, backend="cuda_fused"),
    "flashrnn-alternating": functools.partial(flashrnn, backend="cuda"),
}
