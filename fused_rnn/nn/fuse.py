# SPDX-License-Identifier: MIT
"""Whole models on fused layers and back, and which backend a layer will run on."""

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..backends import choice
from .cells import FusedCell, FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .conversion.convertible import Convertible
from .conversion.subclasses import refusal
from .fused_layer import FusedLayer
from .layers import FusedGRU, FusedLSTM, FusedRNN
from .quantization.quantized_module import Quantized
from .recurrent import kind_of
from .slstm import FusedSLSTM

FUSED: dict[type[nn.Module], type[Convertible]] = {
    fused._torch_class: fused
    for fused in (FusedRNN, FusedGRU, FusedLSTM, FusedRNNCell, FusedGRUCell, FusedLSTMCell)
}


def fuse(model: nn.Module, *, subclasses: bool = False) -> nn.Module:
    """`model`, with every nn.RNN, GRU, LSTM and cell in it replaced in place by its fused twin.

    Parameters, names in the state_dict, mode, hooks and parametrizations stay; a module found at
    several places stays one. If `model` itself is such a layer, its fused twin is returned.
    References that are not submodules (in a plain list, say) still lead to the old layer. What
    rebuilds its layers when a model is loaded, as Lightning, stable-baselines3, neuralforecast,
    gluonts and darts do, rebuilds torch.nn's: fuse again after loading. `unfuse` is the way back.

    Args:
        model: any module.
        subclasses: whether to replace instances of subclasses, too: those whose forward is
            torch.nn's own or calls it through `super()`. Their twins keep all other methods, and
            run a forward of their own over the fused one.

    Warns:
        UserWarning: once, with the names and classes of recurrent modules that stay as they are,
            or if there is none at all.
    """
    takers: dict[nn.Module, type[Convertible]] = {}
    left: dict[str, str] = {}
    done = False
    for path, module in model.named_modules():
        if isinstance(module, Convertible):
            done = True
            continue
        fused = next((FUSED[base] for base in type(module).__mro__ if base in FUSED), None)
        reason = kind_of(module) if fused is None else refusal(module, fused, subclasses)
        if reason is not None and not _is_inside(path, left):
            left[path] = f"{_class_name(module)}, {reason}"
        elif reason is None and fused is not None:
            takers[module] = fused
    if left:
        warn_left("fuse", left)
    elif not takers and not done:
        expected = "fuse: expected a model with recurrent modules of torch.nn"
        warnings.warn(f"{expected}, got none in {type(model).__name__}", stacklevel=2)
    twins = {m: fused.from_torch(m, subclasses=subclasses) for m, fused in takers.items()}
    return replaced(model, twins)


def unfuse(model: nn.Module) -> nn.Module:
    """`model`, with every fused layer and cell in it replaced in place by its twin in torch.nn.

    What stays is what stays in `fuse`; layers of subclasses that it took are of these again.
    Use it for what knows torch.nn's classes only: torch.jit.script, torch.onnx.export,
    quantize_dynamic. If `model` itself is a fused layer, its twin is returned.

    Raises:
        ValueError: the model has a textbook GRU (reset_after=False) or a layer in reverse, which
            torch.nn cannot run. Nothing is changed then.

    Warns:
        UserWarning: once, with the names of modules whose classes derive from fused ones and
            have a forward of their own; these stay.
    """
    fused: list[Convertible] = []
    left: dict[str, str] = {}
    for path, module in model.named_modules():
        if not isinstance(module, Convertible):
            continue
        try:
            module._check_twin()
        except ValueError as error:
            raise ValueError(f"{path or 'the model itself'}: {error}") from None
        except TypeError:
            left[path] = f"{_class_name(module)}, which has a forward of its own"
        else:
            fused.append(module)
    if left:
        warn_left("unfuse", left)
    return replaced(model, {module: module.to_torch() for module in fused})


def replaced(model: nn.Module, twins: dict[Any, Any]) -> nn.Module:
    """`model`, or its twin, with the modules inside replaced by theirs."""
    for module in (*model.modules(), *twins.values()):
        for name, child in module._modules.items():
            if child in twins:
                module._modules[name] = twins[child]
    return twins.get(model, model)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_inside(path: str, others: Iterable[str]) -> bool:
    return any(not other or path.startswith(f"{other}.") for other in others)


def warn_left(function: str, left: dict[str, str]) -> None:
    """Warns the caller of `function`, which calls this, of what stays as it is, by path."""
    lines = [f"  {path or 'the model itself'}: {what}" for path, what in left.items()]
    warnings.warn("\n".join([f"{function} leaves as they are:", *lines]), stacklevel=3)


def explain(module: nn.Module, input: Tensor | PackedSequence, *args: Any, **keywords: Any) -> str:
    """The backend that would run a call of `module` now, and what keeps it from the faster ones.

    Args:
        module: a fused layer or cell, or a quantized one.
        input, args, keywords: what its `forward` takes, in the same modes and contexts: evaluation,
            autocast, `use_backend`, `prepacked`. Nothing is computed.

    Raises:
        TypeError: `module` is none of these.
        others: what the call would raise.
    """
    if not isinstance(module, FusedLayer | FusedSLSTM | FusedCell | Quantized):
        raise TypeError(f"module: expected a fused layer or cell, got {type(module).__name__}")
    # Not that of a user's subclass, which may do more than this.
    own = (base for base in type(module).__mro__ if base.__module__.startswith(f"{__package__}."))
    forward = next(vars(base)["forward"] for base in own if "forward" in vars(base))
    end = choice.explained(lambda: forward(module, input, *args, **keywords))
    if end is None:
        return "the operations of the objects themselves run this: they only act as tensors"
    if isinstance(end.found, str):
        return end.found
    # Of heads, the units of one.
    shape = (*_steps_and_batch(module, input), end.found.hidden or module.hidden_size)
    return choice.explain(end.found._replace(shape=shape), end.requested)


def _steps_and_batch(module: Any, input: Tensor | PackedSequence) -> tuple[int, int]:
    if isinstance(input, PackedSequence):
        return len(input.batch_sizes), int(input.batch_sizes[0])
    first = input.shape[0] if input.dim() > 1 else 1
    if isinstance(module, FusedCell):
        return 1, first
    second = input.shape[1] if input.dim() > 2 else 1
    return (second, first) if module.batch_first and input.dim() > 2 else (first, second)
