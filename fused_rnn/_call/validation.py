# SPDX-License-Identifier: MIT
"""Checks of everything that users hand in, with torch.nn's exception types and messages."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def check_input_dim(kind: str, input: Tensor) -> None:
    """Raises unless `input` is a sequence, (T, I), or a batch of them, (T, B, I) or (B, T, I)."""
    if input.dim() not in (2, 3):
        noun = " tensor" if kind == "RNN" else ""
        raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {input.dim()}D{noun} instead")


def check_sequence(x: Tensor, weight: Tensor, input_size: int) -> None:
    """Raises unless a batch of sequences fits the first layer, and has a step at least.

    Args:
        x: input, (T, B, I), or compact rows, (rows, I).
        weight: w_ih of the first layer, (G*H, input_size).
        input_size: what I is to be.
    """
    if x.dtype != weight.dtype:
        _raise_dtype(x, weight)
    features = x.shape[-1]
    if features != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {features}"
        )
    if x.dim() == 3 and x.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")


def check_present(weights: Sequence[Tensor | None], names: Sequence[str] | None = None) -> None:
    """Raises TypeError, as torch.nn does, unless all weights are there; `names` are theirs."""
    for index, weight in enumerate(weights):
        if weight is None:
            name = f"weights[{index}]" if names is None else names[index]
            raise TypeError(f"{name}: expected a tensor, got None")


def check_devices(weights: Sequence[Tensor], x: Tensor) -> None:
    """Raises unless all weights are where the input is."""
    device = x.device
    for weight in weights:
        if weight.device != device:
            _raise_device(x, "parameter", weight)


def check_first_weights(
    weights: Sequence[Tensor], w_ih: tuple[int, int], w_hh: tuple[int, int]
) -> None:
    """Raises unless a layer's first two weights have these shapes; kernels check the others."""
    if weights[0].shape != w_ih or weights[1].shape != w_hh:
        got = [tuple(weight.shape) for weight in weights[:2]]
        raise RuntimeError(
            f"weight_ih_l0 and weight_hh_l0: expected shapes {w_ih} and {w_hh}, "
            f"got {got[0]} and {got[1]}"
        )


def check_weights(
    weights: Sequence[Tensor],
    shapes: Callable[[Tensor, Tensor], Sequence[tuple[int, ...]]],
    x: Tensor,
) -> None:
    """Raises unless a flat list of weights has the count and shapes its first two ask for.

    Args:
        weights: torch.nn's order, layer by layer, direction by direction.
        shapes: the shapes of all, given w_ih and w_hh of the first recurrence.
        x: input, whose dtype and device all weights have too.
    """
    if len(weights) < 2 or any(w.dim() != 2 for w in weights[:2]):
        raise ValueError("weights: expected a flat list that begins with the matrices w_ih, w_hh")
    expected = list(shapes(weights[0], weights[1]))
    if len(weights) != len(expected):
        raise ValueError(f"weights: expected {len(expected)} tensors, got {len(weights)}")
    for index, (weight, shape) in enumerate(zip(weights, expected, strict=True)):
        if weight.shape != shape:
            raise ValueError(f"weights[{index}]: expected shape {shape}, got {tuple(weight.shape)}")
        if weight.device != x.device:
            _raise_device(x, "parameter", weight)
        if weight.dtype != x.dtype:
            _raise_dtype(x, weight)


def _raise_dtype(x: Tensor, weight: Tensor) -> None:
    if torch._C._is_any_autocast_enabled():
        # As PyTorch's matrix product says it.
        raise RuntimeError(
            f"input and weight must have the same dtype, but got {x.dtype} and {weight.dtype}"
        )
    raise ValueError(
        f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
        f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
    )


def _raise_device(x: Tensor, name: str, other: Tensor) -> None:
    raise RuntimeError(
        f"Input and {name} tensors are not at the same device, found input tensor at "
        f"{x.device} and {name} tensor at {other.device}"
    )


def check_state_dims(states: Sequence[Tensor], *, batched: bool) -> None:
    """Raises unless each of (hx,) or (hx, cx) has as many axes as the input."""
    dim = 3 if batched else 2
    for state in states:
        if state.dim() != dim:
            _raise_state_dims(states, dim)


def _raise_state_dims(states: Sequence[Tensor], dim: int) -> None:
    form = "batched 3-D" if dim == 3 else "unbatched 2-D"
    found = [f"{state.dim()}-D" for state in states]
    names, got = "hx", f"{found[0]} tensor"
    if len(states) == 2:
        names, got = "hx and cx", f"({', '.join(found)}) tensors"
    raise RuntimeError(f"For {form} input, {names} should also be {dim}-D but got {got}")


def check_state_sizes(states: Sequence[Tensor], shapes: Sequence[tuple[int, int, int]]) -> None:
    """Raises unless each of (hx,) or (hx, cx) has its shape."""
    for index, (state, shape) in enumerate(zip(states, shapes, strict=False)):
        if state.shape != shape:
            name = "hidden" if len(states) == 1 else f"hidden[{index}]"
            raise RuntimeError(f"Expected {name} size {shape}, got {list(state.shape)}")


def check_state_like(state: Tensor, x: Tensor) -> None:
    """Raises unless a state has the input's device and dtype."""
    if state.device != x.device:
        _raise_device(x, "hidden", state)
    if state.dtype != x.dtype:
        raise RuntimeError(
            f"input and hidden must have the same dtype, but got {x.dtype} and {state.dtype}"
        )


def as_lengths(lengths: Tensor | Sequence[int] | int) -> Tensor:
    """Returns the lengths as a tensor: numbers on the CPU, a tensor where it is."""
    # Else torch.set_default_device would have a say, even about a tensor.
    return lengths if isinstance(lengths, Tensor) else torch.as_tensor(lengths, device="cpu")


def check_lengths(lengths: Tensor | Sequence[int], *, steps: int, batch: int, x: Tensor) -> Tensor:
    """Returns the lengths as (B,) int64 on the device of `x`.

    Their values are read, and so checked, on the CPU only: elsewhere that would wait for the
    device, and while compiling there is nothing to read. There they are clamped to 0..T.
    """
    values = as_lengths(lengths)
    if values.numel() > 0 and (values.is_floating_point() or values.dtype == torch.bool):
        raise ValueError(f"lengths: expected integers, got {values.dtype}")
    if values.shape != (batch,):
        raise ValueError(f"lengths: expected shape ({batch},), got {tuple(values.shape)}")
    if values.device != x.device and values.device.type != "cpu":
        _raise_device(x, "lengths", values)
    values = values.to(torch.int64)
    if not _is_readable(values):
        return values.to(x.device).clamp(0, steps)
    if batch > 0:
        low, high = (int(bound) for bound in torch.aminmax(values))
        if low < 0 or high > steps:
            outside = low if low < 0 else high
            raise ValueError(f"lengths: expected values in 0..{steps}, got {outside}")
    return values.to(x.device)


def _is_readable(values: Tensor) -> bool:
    """Whether the values are here to be read, without waiting for a device."""
    return (
        values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        # Fake tensors and other wrappers; torch.vmap's do not show in the type.
        and type(values) is Tensor
        and not torch._C._functorch.is_batchedtensor(values)
    )


def check_resets(resets: Tensor, shape: Sequence[int], x: Tensor) -> None:
    """Raises unless `resets` is a bool tensor of this shape on the device of `x`."""
    if not isinstance(resets, Tensor):
        raise TypeError(f"resets: expected a bool tensor, got {type(resets).__name__}")
    if resets.dtype != torch.bool:
        raise ValueError(f"resets: expected dtype torch.bool, got {resets.dtype}")
    if resets.shape != shape:
        raise ValueError(f"resets: expected shape {tuple(shape)}, got {tuple(resets.shape)}")
    if resets.device != x.device:
        _raise_device(x, "resets", resets)


def check_states_at_steps(name: str, states: Tensor, shape: Sequence[int], like: Tensor) -> None:
    """Raises unless `states` is a tensor of this shape, with the dtype and device of `like`."""
    if not isinstance(states, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(states).__name__}")
    if states.shape != shape:
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(states.shape)}")
    if states.dtype != like.dtype:
        raise ValueError(f"{name}: expected dtype {like.dtype}, got {states.dtype}")
    if states.device != like.device:
        _raise_device(like, name, states)


def check_packed(packed: PackedSequence) -> None:
    """Raises unless packed data fits its own batch sizes; a graph does so when it runs."""
    data, sizes = packed.data, packed.batch_sizes
    if data.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {data.dim()}")
    if sizes.numel() == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if torch.compiler.is_compiling():
        _assert_packed(sizes, data.size(0))
        return
    if int(sizes.sum()) != data.size(0):
        raise RuntimeError(
            f"packed data: expected {int(sizes.sum())} rows, the sum of batch_sizes, "
            f"got {data.size(0)}"
        )
    if int(sizes[-1]) < 0 or bool((sizes[1:] > sizes[:-1]).any()):
        raise RuntimeError(f"batch_sizes: expected counts that never grow, got {sizes.tolist()}")


def _assert_packed(sizes: Tensor, rows: int) -> None:
    # No branch on what a tracer cannot read.
    torch._assert_async(sizes.sum() == rows, "packed data: expected the sum of batch_sizes as rows")
    fall = (sizes >= 0).all() & (sizes == sizes.cummin(0).values).all()
    torch._assert_async(fall, "batch_sizes: expected counts that never grow")


def check_cell_dims(kind: str, input: Tensor, states: Sequence[Tensor]) -> None:
    """Raises unless a cell's input is one row, (I,), or a batch of rows, (B, I), states alike."""
    if input.dim() not in (1, 2):
        raise ValueError(f"{kind}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    for index, state in enumerate(states):
        if state.dim() not in (1, 2):
            name = f"hx[{index}]" if kind == "LSTMCell" else "hidden"
            raise ValueError(f"{kind}: Expected {name} to be 1D or 2D, got {state.dim()}D instead")


def check_cell(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], hidden_size: int
) -> None:
    """Raises unless a batch of rows, (B, I), fits the states, (B, H), and the weights.

    As in torch.nn sizes come before dtypes, and absent states have `hidden_size` columns.
    """
    w_ih, w_hh = weights[:2]
    check_cell_sizes(x, states, w_ih.size(1), w_hh.size(1))
    if not states and hidden_size != w_hh.size(1):
        _raise_cell_state(0, (x.size(0), hidden_size), x.size(0), w_hh.size(1))
    check_devices(weights, x)
    if x.dtype != w_ih.dtype:
        raise RuntimeError(
            f"input and weight must have the same dtype, but got {x.dtype} and {w_ih.dtype}"
        )
    for state in states:
        check_state_like(state, x)


def check_cell_sizes(x: Tensor, states: Sequence[Tensor], inputs: int, hidden: int) -> None:
    """Raises unless rows, (B, I), have `inputs` columns and states, (B, H), `hidden` ones."""
    rows, features = x.shape
    if features != inputs:
        raise RuntimeError(f"input has inconsistent input_size: got {features} expected {inputs}")
    for index, state in enumerate(states):
        if state.shape != (rows, hidden):
            _raise_cell_state(index, state.shape, rows, hidden)


def _raise_cell_state(index: int, shape: tuple[int, ...], rows: int, hidden: int) -> None:
    if shape[0] != rows:
        raise RuntimeError(
            f"Input batch size {rows} doesn't match hidden{index} batch size {shape[0]}"
        )
    # torch.nn reads past the shape here when the number of axes is wrong.
    sizes = shape[1] if len(shape) == 2 else tuple(shape)
    raise RuntimeError(
        f"hidden{index} has inconsistent hidden_size: got {sizes}, expected {hidden}"
    )
