# SPDX-License-Identifier: MIT
"""Subclasses of torch.nn's layers and cells: which of them a fused class can carry, and how."""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from .convertible import Convertible

T = TypeVar("T", bound="Convertible")

# What forward calls in torch.nn and not here: who overrides it computes something else.
_CALLED_BY_TORCH = frozenset(
    {
        "check_forward_args",
        "check_hidden_size",
        "check_input",
        "get_expected_cell_size",
        "get_expected_hidden_size",
        "permute_hidden",
    }
)


class SubclassTwin(type):
    """The type of a subclass' fused twin, in which `super()` finds the fused class.

    The twin's bases are the subclass and the fused class. In the order of its methods the fused
    class and what it derives from stand where the subclass has torch.nn's class, which is gone.
    """

    def mro(cls) -> list[type]:
        """The order of classes in which methods are looked up."""
        if any(isinstance(base, SubclassTwin) for base in cls.__bases__):
            # What parametrizations and FSDP derive from a twin.
            return super().mro()
        subclass, fused = cls.__bases__
        order: list[type] = [cls]
        for base in subclass.__mro__:
            if base is fused._torch_class:  # type: ignore[attr-defined]
                order += [own for own in fused.__mro__ if own not in subclass.__mro__]
            else:
                order.append(base)
        return order


@functools.cache
def twin_class(subclass: type, fused: type) -> type:
    """The class of a subclass' fused twin: the subclass' own methods over those of `fused`."""
    kinds = dict.fromkeys((SubclassTwin, type(subclass), type(fused)))
    kind: Any = type("SubclassTwin", tuple(k for k in kinds if k is not type), {})
    # No module holds the twin under its name: pickles build it anew.
    copyreg.pickle(kind, _reduce)
    body = {"_torch_class": subclass, "__module__": subclass.__module__}
    return kind(f"Fused{subclass.__name__}", (subclass, fused), body)


def _reduce(twin: SubclassTwin) -> Any:
    """The value to pickle: a twin by its bases, a class derived from one by its name."""
    if any(isinstance(base, SubclassTwin) for base in twin.__bases__):
        return twin.__qualname__
    return twin_class, twin.__bases__


def taker(module: nn.Module, fused: type[T], subclasses: bool) -> type[T]:
    """The class that a module has once `fused` took over: that, or a subclass' twin.

    Raises:
        TypeError: `module` is not of torch.nn's class, or of a subclass that is refused.
    """
    own: Any = parametrize.type_before_parametrizations(module)
    plain = fused._torch_class
    known = issubclass(own, plain)
    reason = refusal(module, fused, subclasses) if known else None
    if not known or reason is not None:
        found = own.__name__ if reason is None else f"{own.__name__}: {reason}"
        raise TypeError(f"module: expected torch.nn.{plain.__name__}, got {found}")
    return fused if own is plain else twin_class(own, fused)  # type: ignore[arg-type]


def refusal(module: nn.Module, fused: type[Convertible], subclasses: bool) -> str | None:
    """The reason `fused` does not take over from an instance of torch.nn's class or of a subclass.

    None where it does. `subclasses` says whether it was asked to take those it can.
    """
    own, plain = parametrize.type_before_parametrizations(module), fused._torch_class
    if own is plain:
        return None
    classes = own.__mro__[: own.__mro__.index(plain)]
    reason = _computes_otherwise(classes, own, plain) or _clash(classes, module, fused)
    if reason is None and not subclasses:
        return f"a subclass of torch.nn.{plain.__name__}, taken with subclasses=True"
    return reason


def _computes_otherwise(
    classes: tuple[type, ...], own: type[nn.Module], plain: type[nn.Module]
) -> str | None:
    """The reason torch.nn's forward is not all that computes in a subclass; None where it is."""
    names = {name for base in classes for name in vars(base)}
    if any(base.__module__.startswith("torch.") for base in classes):
        return "wrapped by torch: fuse before that"
    if own.forward is not plain.forward and not _calls_forward_above(classes):
        return f"its forward does not call torch.nn.{plain.__name__}'s through super()"
    overridden = sorted(names & _CALLED_BY_TORCH)
    if overridden:
        return f"it overrides {overridden[0]}, which torch.nn's forward calls"
    return None


def _clash(classes: tuple[type, ...], module: nn.Module, fused: type[Convertible]) -> str | None:
    """The reason a name of the subclass or its instance clashes with the fused class, or None."""
    plain = fused._torch_class
    needed = {name for base in fused.__mro__ if base not in plain.__mro__ for name in vars(base)}
    needed = (needed | set(fused._own_attributes)) - set(dir(plain))
    # Of torch.nn's own layers, too, this one stands on the instance.
    used = {name for base in classes for name in vars(base)} | set(vars(module)) - {"_flat_weights"}
    for kept in (module._modules, module._parameters, module._buffers):
        used |= set(kept)
    clashes = sorted(name for name in needed & used if not name.startswith("__"))
    return f"the fused class needs {clashes[0]} for itself" if clashes else None


def _calls_forward_above(classes: tuple[type, ...]) -> bool:
    """Whether a method of these classes names both `super` and `forward`."""
    return any(
        {"super", "forward"} <= set(_names(code))
        for base in classes
        for method in vars(base).values()
        if isinstance(code := getattr(inspect.unwrap(method), "__code__", None), CodeType)
    )


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function's code uses, functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
