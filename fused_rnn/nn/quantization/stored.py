# SPDX-License-Identifier: MIT
"""Weights of 8 or 16 bits, as the kernels read them and as a state_dict has them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# What `quantize` calls them, and the type they are stored in.
STORAGES = {"int8": torch.int8, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The largest integer of a row's weights, and of a row that meets them.
LARGEST = 127
# So many of their products fit a sum of 32 bits.
MOST_COLUMNS = (2**31 - 1) // LARGEST**2
# Elements along a row of weights that lie together.
_DEPTH = {torch.int8: 4, torch.bfloat16: 2, torch.float16: 1}
_OUTPUTS = 64


class Panels(NamedTuple):
    """The layout of some gates of a matrix: (panels, K / depth, gates, units, depth)."""

    gates: int
    units: int  # in a panel


def panels_of(cell: str) -> tuple[Panels, ...]:
    """The parts of a matrix of the gates of a cell, those multiplied at once together."""
    if cell == "gru_reset_before":
        return (Panels(2, 32), Panels(1, 32))
    gates = {"gru": 3, "lstm": 4}.get(cell, 1)
    return (Panels(gates, 64 if gates == 1 else 16),)


PROJECTION = (Panels(1, _OUTPUTS),)


class FixedTypes(nn.Module):
    """A module whose own buffers keep their types, whatever the model is converted to."""

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        before = dict(self._buffers)
        module = super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved = self._buffers[name]
            if tensor is not None and moved is not None and moved.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(moved.device)
        return module


class StoredWeight(FixedTypes):
    """A matrix of weights, stored once, in the panels that the CPU kernels read.

    Its state is that of the plain matrix: `weight`, (rows, columns), and of int8 `scale`, (rows,),
    which each row is to be multiplied with. An int8 row's largest magnitude is 127, and its scale
    that of the row by 127; a row of zeros has the scale 0.

    Args:
        weight: (gates * H, K), finite.
        name: what errors call it.
        storage: a key of STORAGES.
        parts: how its gates lie.

    Raises:
        ValueError: a weight is infinite or no number, in 16 bits perhaps for being too large; or
            an int8 matrix has more than MOST_COLUMNS columns.
    """

    def __init__(self, weight: Tensor, name: str, storage: str, parts: tuple[Panels, ...]) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        self.storage, self.parts = storage, parts
        if storage == "int8" and self.columns > MOST_COLUMNS:
            expected = f"at most {MOST_COLUMNS:,} columns in int8, whose sums have 32 bits"
            raise ValueError(f"{name}: expected {expected}, got {self.columns:,}")
        values, scale = _stored(weight.detach().float(), STORAGES[storage])
        if not bool(values.isfinite().all() if scale is None else scale.isfinite().all()):
            raise ValueError(f"{name}: expected weights that are finite in {storage}, got others")
        self._put(values, scale)

    def tensors(self) -> list[Tensor]:
        """The tensors that the kernels take: of each part panels, and of int8 scales and sums."""
        return list(self._buffers.values())  # type: ignore[arg-type]

    def plain(self) -> tuple[Tensor, Tensor | None]:
        """The matrix, (rows, columns), and the scales of int8 rows, (rows,)."""
        values, scales = zip(*self._plain_parts(), strict=True)
        return torch.cat(values), torch.cat(scales) if scales[0] is not None else None

    def dequantize(self) -> Tensor:
        """The matrix in float32."""
        values, scale = self.plain()
        return values.float() if scale is None else values.float() * scale.unsqueeze(1)

    def extra_repr(self) -> str:
        """The shape and the type of the weights."""
        return f"{self.rows}x{self.columns}, {self.storage}"

    def _put(self, values: Tensor, scale: Tensor | None) -> None:
        """Stores a plain matrix."""
        hidden = self.rows // sum(part.gates for part in self.parts)
        sums = None if scale is None else values.sum(1, dtype=torch.int32)
        begin = 0
        for at, part in enumerate(self.parts):
            own = slice(begin, begin := begin + part.gates * hidden)
            tensors = {"panels": _panels(values[own], part)}
            if scale is not None and sums is not None:
                tensors |= {"scales": _rows(scale[own], part), "sums": _rows(sums[own], part)}
            for name, tensor in tensors.items():
                # Not persistent: the state is that of the plain matrix.
                self.register_buffer(f"{name}_{at}", tensor, persistent=False)

    def _plain_parts(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        hidden = self.rows // sum(part.gates for part in self.parts)
        buffers: dict[str, Any] = self._buffers
        for at in range(len(self.parts)):
            panels = buffers[f"panels_{at}"]
            panels = panels if panels.dim() == 5 else panels.unsqueeze(-1)
            values = panels.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
            values = values[:, :hidden, : self.columns].flatten(0, 1)
            scales = buffers.get(f"scales_{at}")
            if scales is not None:
                scales = scales.transpose(0, 1).flatten(1)[:, :hidden].flatten()
            yield values, scales

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        panels = self.tensors()[0]
        if panels.dtype == torch.bfloat16 and panels.dim() == 4:
            # As a release wrote it whose pairs did not lie together.
            self._put(*self.plain())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        values, scale = self.plain()
        destination[f"{prefix}weight"] = values
        if scale is not None:
            destination[f"{prefix}scale"] = scale

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        dtype = STORAGES[self.storage]
        shape: tuple[int, ...] = (self.rows, self.columns)
        expected = {f"{prefix}weight": (shape, dtype)}
        if dtype == torch.int8:
            expected[f"{prefix}scale"] = (shape[:1], torch.float32)
        found = []
        for key, (shape, kind) in expected.items():
            tensor = state_dict.get(key)
            if tensor is None:
                missing_keys.append(key)
            elif tensor.shape != shape or tensor.dtype != kind:
                got = f"{tuple(tensor.shape)}, {tensor.dtype}"
                error_msgs.append(f"{key}: expected shape {shape}, {kind}, got {got}")
            else:
                found.append(tensor.detach())
        if strict:
            own = [key for key in state_dict if key.startswith(prefix) and key not in expected]
            unexpected_keys += own
        if len(found) == len(expected):
            values, *scale = (tensor.to(self.tensors()[0].device) for tensor in found)
            self._put(values, scale[0] if scale else None)


def _stored(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The matrix converted to a storage type, and the scales of int8 rows."""
    if dtype != torch.int8:
        return weight.to(dtype), None
    scale = weight.abs().amax(1) / LARGEST
    # A row so small that its scale is zero, or too small a number to divide by, becomes zeros.
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 0.0, scale)
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    values = (weight * inverse.unsqueeze(1)).round().clamp(-LARGEST, LARGEST)
    return values.to(torch.int8), scale


def _panels(values: Tensor, part: Panels) -> Tensor:
    """Some gates of a matrix, (gates * H, K), in panels, filled up with zeros."""
    gates = values.unflatten(0, (part.gates, -1))
    depth = _DEPTH[values.dtype]
    units, columns = -gates.shape[1] % part.units, -gates.shape[2] % depth
    gates = nn.functional.pad(gates, (0, columns, 0, units))
    gates = gates.unflatten(1, (-1, part.units)).unflatten(3, (-1, depth))
    panels = gates.permute(1, 3, 0, 2, 4).contiguous()
    return panels if depth > 1 else panels.squeeze(-1)


def _rows(values: Tensor, part: Panels) -> Tensor:
    """One value for each row of some gates, (gates * H,), in the order of the panels."""
    gates = values.unflatten(0, (part.gates, -1))
    gates = nn.functional.pad(gates, (0, -gates.shape[1] % part.units))
    return gates.unflatten(1, (-1, part.units)).transpose(0, 1).contiguous()
