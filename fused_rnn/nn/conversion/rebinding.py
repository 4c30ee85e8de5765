# SPDX-License-Identifier: MIT
"""The references to a module in its own attributes, bound to another module in its place."""

import functools
from collections.abc import Callable, Iterable
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn


def rebound(value: Any, old: nn.Module, new: nn.Module) -> Any:
    """`value` with `new` in place of `old`, wherever it holds that; else `value` itself.

    Followed are methods, partials, functions with their closures and defaults, and what
    torch.compile made of them. Methods of the class of `old` become those of the class of `new`.
    """
    return _Rebinding(old, new).of(value)


class _Rebinding:
    def __init__(self, old: nn.Module, new: nn.Module) -> None:
        self._old, self._new = old, new
        self._open: set[int] = set()

    def of(self, value: Any) -> Any:
        if value is self._old:
            return self._new
        # A function may hold itself.
        if id(value) in self._open:
            return value
        self._open.add(id(value))
        try:
            if isinstance(value, MethodType):
                return self._method(value)
            if isinstance(value, functools.partial):
                return self._partial(value)
            return self._function(value) if isinstance(value, FunctionType) else value
        finally:
            self._open.remove(id(value))

    def _method(self, method: MethodType) -> MethodType:
        function, owner = self.of(method.__func__), self.of(method.__self__)
        if function is method.__func__ and owner is method.__self__:
            return method
        return MethodType(function, owner)

    def _partial(self, partial: functools.partial[Any]) -> functools.partial[Any]:
        function, *arguments = map(self.of, (partial.func, *partial.args))
        keywords = {name: self.of(value) for name, value in partial.keywords.items()}
        new = type(partial)(function, *arguments, **keywords)
        before = (partial.func, *partial.args, *partial.keywords.values())
        if _same((new.func, *new.args, *new.keywords.values()), before):
            return partial
        return self._with_attributes(new, partial)

    def _function(self, function: FunctionType) -> Any:
        name = function.__name__
        if getattr(type(self._old), name, None) is function:
            return getattr(type(self._new), name, function)
        compiler = _compiler(function)
        if compiler is not None:
            inner = vars(function)["_torchdynamo_orig_callable"]
            moved = self.of(inner)
            return function if moved is inner else compiler(moved)
        cells, defaults = function.__closure__ or (), function.__defaults__ or ()
        closure, arguments = tuple(map(self._cell, cells)), tuple(map(self.of, defaults))
        if _same(closure, cells) and _same(arguments, defaults):
            return function
        new = FunctionType(function.__code__, function.__globals__, name, arguments, closure)
        new.__kwdefaults__ = function.__kwdefaults__
        return self._with_attributes(functools.update_wrapper(new, function), function)

    def _cell(self, cell: CellType) -> CellType:
        try:
            content = cell.cell_contents
        except ValueError:  # empty
            return cell
        moved = self.of(content)
        return cell if moved is content else CellType(moved)

    def _with_attributes(self, new: Any, old: Any) -> Any:
        new.__dict__ = {name: self.of(value) for name, value in vars(old).items()}
        return new


def _compiler(function: FunctionType) -> Callable[[Any], Any] | None:
    """The decorator of torch.compile, with its options, that made `function`; None if none did."""
    if getattr(function, "_torchdynamo_wrapper_id", None) != id(function):
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return cells["self"].cell_contents if "self" in cells else None


def _same(new: Iterable[object], old: Iterable[object]) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))
