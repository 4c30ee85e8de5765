# SPDX-License-Identifier: MIT
"""One module's state under another class: torch.nn's modules and their fused twins."""

import copy
import warnings
from collections.abc import Container
from typing import Any, ClassVar, NoReturn, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..._call.exporting import refuse_script
from ..flat_weights import CACHES, carry_replaced
from .identity import Passing
from .rebinding import rebound
from .subclasses import taker

T = TypeVar("T", bound=nn.Module)
C = TypeVar("C", bound="Convertible")

# Of each instance. By this torch.fx takes modules of torch.nn for the leaves of a trace; what else
# asks so looks for the longer name of a file of torch.nn.
AS_BUILTIN = {"__module__": "torch.nn"}


class Convertible(Passing):
    """A module that takes over from its twin in torch.nn, passes for it and hands back to it."""

    # The attributes that the twin lacks. The class holds, as their defaults, the values under which
    # both compute the same.
    _own_attributes: ClassVar[tuple[str, ...]] = ("backend",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.__dict__.update(AS_BUILTIN)

    @classmethod
    def from_torch(cls: type[C], module: nn.Module, *, subclasses: bool = False) -> C:
        """A fused module with the very parameters, hooks, parametrizations and mode of `module`.

        The two then share all of these: use one of them.

        Args:
            module: this class' twin in torch.nn.
            subclasses: whether `module` may be of a subclass that `fuse` would take.

        Raises:
            TypeError: `module` is not this class' twin in torch.nn, or of such a subclass.
        """
        twin = taker(module, cls, subclasses)
        own = {name: getattr(cls, name) for name in cls._own_attributes}
        own |= cls._plain_attributes(module)
        fused = recast(module, twin, without=CACHES, **own, **AS_BUILTIN)
        if isinstance(module, nn.RNNBase) and isinstance(fused, nn.RNNBase):
            carry_replaced(module, fused)
            # In its own units, which torch.nn's may not be.
            fused.flatten_parameters()
        return fused

    def to_torch(self) -> Any:
        """The twin in torch.nn, with the very parameters, hooks, parametrizations and mode.

        What `fuse` or `from_torch` made of a subclass' module is of that subclass again.

        Raises:
            ValueError: an option of its own is not the default; torch.nn has no module for it.
            TypeError: it has a forward of its own, which its twin would not.
        """
        self._check_twin()
        own = (*self._own_attributes, *self._told_attributes())
        twin = recast(self, self._torch_class, without=(*own, *CACHES, *AS_BUILTIN))
        if isinstance(self, nn.RNNBase) and isinstance(twin, nn.RNNBase):
            twin._init_flat_weights()
            carry_replaced(self, twin)
        return twin

    def _check_twin(self) -> None:
        """Raises what `to_torch` does where torch.nn has no twin of this module."""
        for name, value, expected in self._not_of_torch():
            raise ValueError(f"{name}: expected {expected!r}, as torch.nn computes, got {value!r}")
        base: Any = next(base for base in type(self).__mro__ if "_torch_class" in vars(base))
        if type(self).forward is not base.forward:
            expected = f"the forward of {base.__name__}"
            raise TypeError(f"{type(self).__name__}: expected {expected}, got one of its own")

    def _not_of_torch(self) -> list[tuple[str, Any, Any]]:
        """The options by which this computes what torch.nn's twin does not, values, and its own."""
        names = [name for name in self._own_attributes if name != "backend"]
        found = [(name, getattr(self, name), getattr(type(self), name)) for name in names]
        return [own for own in found if own[1] != own[2]]

    @classmethod
    def _plain_attributes(cls, module: nn.Module) -> dict[str, Any]:
        """Further attributes of a module that computes as `module`."""
        return {}

    def _told_attributes(self) -> tuple[str, ...]:
        """Their names, where they are this module's."""
        return ()

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuses torch.jit.script, which calls this.

        Raises:
            RuntimeError: always. A twin returned here would replace this one in the model itself.
        """
        refuse_script(type(self).__name__)

    def extra_repr(self) -> str:
        """The text of torch.nn, and the options it has no word for unless they are the default."""
        return super().extra_repr() + self.own_text(self)

    @classmethod
    def own_text(cls, module: nn.Module, without: Container[str] = ()) -> str:
        """The text of a module's attributes of this class that torch.nn lacks, but for defaults."""
        names = [name for name in cls._own_attributes if name not in without]
        own = {name: getattr(module, name, getattr(cls, name)) for name in names}
        return "".join(f", {name}={v}" for name, v in own.items() if v != getattr(cls, name))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.update(AS_BUILTIN)

    def __getstate__(self) -> dict[str, Any]:
        """The module's state with computed weights (weight_norm, weight drop) as plain values.

        They are computed anew before they are used; a copy of the graph they hang on is impossible.
        """
        state: dict[str, Any] = super().__getstate__()
        for name in AS_BUILTIN:
            state.pop(name, None)
        for name, value in state.items():
            if isinstance(value, Tensor) and not value.is_leaf:
                state[name] = value.detach()
        return state


def recast(module: nn.Module, cls: type[T], *, without: tuple[str, ...], **extra: object) -> T:
    """A `cls` that owns the state of `module`, `without` some attributes and with `extra` ones."""
    new = cls.__new__(cls)
    state = {
        name: rebound(value, module, new)
        for name, value in module.__dict__.items()
        if name not in without
    }
    for name in ("forward", "_compiled_call_impl"):
        if name in state and state[name] is module.__dict__[name] is not None:
            warnings.warn(
                f"{name}: expected one bound to this {type(module).__name__}, got {state[name]}; "
                f"the {cls.__name__} calls it as it is, whatever that runs",
                stacklevel=3,
            )
    # The registries become two, what they hold stays one. The hooks' registries stay one, too:
    # the handles that remove hooks hold them by reference.
    for registry in ("_parameters", "_buffers", "_modules"):
        state[registry] = copy.copy(state[registry])
    new.__dict__.update(state, **extra)
    hooks: dict[int, Any] = state["_load_state_dict_pre_hooks"]
    for key, hook in hooks.items():
        if hook.with_module:
            # It holds the module it will be called with, and weakly.
            hooks[key] = type(hook)(hook.hook, new)
    if parametrize.is_parametrized(new):
        parametrize._inject_new_class(new)
        for name in state["_modules"]["parametrizations"]:
            parametrize._inject_property(new, name)
    return new
