# SPDX-License-Identifier: MIT
"""Triton's interpreter, made to run this package's kernels on CPU tensors.

To import in a process of its own, started with TRITON_INTERPRET=1: Triton reads that when a kernel
is defined, and no kernel of such a process compiles.
"""

import inspect
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter

from fused_rnn.backends import triton as backend
from fused_rnn.backends.triton import exchange

_Builder = interpreter.InterpreterBuilder
_create_dot, _patch_lang_tensor = _Builder.create_dot, interpreter._patch_lang_tensor
_create_atomic_rmw = _Builder.create_atomic_rmw


def _widened(operand: Any) -> Any:
    if operand.dtype.scalar != tl.bfloat16:
        return operand
    values = (operand.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(values, tl.float32)


def _dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
    # Triton 3.6 multiplies the bits of bfloat16 operands as if they were integers.
    return _create_dot(builder, _widened(a), _widened(b), *rest)


def _patch_tensor(tensor: Any, scope: Any) -> None:
    _patch_lang_tensor(tensor, scope)
    # NumPy 2.4 no longer takes an array of one element for a number, as Triton 3.6 wants it to
    # for the bounds of a loop.
    scope.set_attr(tensor, "__index__", lambda number: number.handle.data.item())


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    # Triton patches the language anew at every call of a function, which takes most of the time
    # and which threads cannot do at once; here it is patched for good, below.
    return function.rewrite()(*args, **kwargs)


_Builder.create_dot = _dot
interpreter.InterpretedFunction.__call__ = _call
interpreter._patch_lang_tensor = _patch_tensor
interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
interpreter._patch_lang = lambda function: SimpleNamespace(restore=lambda: None)

# The ops of the backend take CPU tensors as long as this lives.
LIBRARY = backend.register("CPU")

_program = threading.local()
# Which program runs is a question to the thread.
_Builder.grid_idx = property(
    lambda builder: _program.index, lambda builder, index: setattr(_program, "index", index)
)
interpreter.interpreter_builder.__dict__.pop("grid_idx", None)


def _run_together(executor: Any, *args: Any, **kwargs: Any) -> None:
    """GridExecutor.__call__ for CPU tensors, with a thread for each program of the grid."""
    known = inspect.getfullargspec(executor.fn).args
    kwargs = {name: value for name, value in kwargs.items() if name in known}
    values = {
        name: value if name in executor.constexprs else interpreter._implicit_cvt(value)
        for name, value in inspect.getcallargs(executor.fn, *args, **kwargs).items()
    }
    builder, failures = interpreter.interpreter_builder, []

    def run(index: tuple[int, int, int]) -> None:
        try:
            builder.set_grid_idx(*index)
            # Whoever does not wait is ahead of the odd slices, and reads what is not there yet.
            time.sleep(0.1 * (index[0] % 2))
            executor.fn(**values)
        except BaseException as error:
            failures.append(error)
            raise

    builder.set_grid_dim(*executor.grid)
    programs = itertools.product(*(range(size) for size in executor.grid))
    # Daemons: a program that waits for ever must not keep the process from ending.
    threads = [threading.Thread(target=run, args=(p,), daemon=True) for p in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not failures and not thread.is_alive(), f"a program waits in vain; {failures}"


@contextmanager
def programs_together(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Programs of a launch run at the same time, so that they may wait for each other.

    The interpreter itself runs one after another. Here each gets a thread: waiting is a loop over
    an atomic operation on memory that all share, and Python switches threads inside it, as often
    as it is told to. The list gets the number of programs of each launch.
    """
    launched: list[int] = []

    def call(executor: Any, *args: Any, **kwargs: Any) -> None:
        launched.append(int(np.prod(executor.grid)))
        _run_together(executor, *args, **kwargs)

    before = sys.getswitchinterval()
    with monkeypatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", call)
        sys.setswitchinterval(1e-4)
        try:
            yield launched
        finally:
            sys.setswitchinterval(before)


@contextmanager
def lost_signal(monkeypatch: pytest.MonkeyPatch, which: int) -> Iterator[None]:
    """One signal of a program to the others never arrives, the `which`-th; a wait ends in seconds.

    But not sooner: the others begin later, and are to have the time that they need.
    """
    signals = itertools.count()

    def atomic(builder: Any, operation: Any, pointer: Any, value: Any, *rest: Any) -> Any:
        if value.data.item() == 0:
            time.sleep(0.01)
        elif value.data.item() == 1 and next(signals) == which:
            value = interpreter.TensorHandle(np.zeros_like(value.data), value.dtype)
        return _create_atomic_rmw(builder, operation, pointer, value, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(_Builder, "create_atomic_rmw", atomic)
        patch.setattr(exchange, "POLLS", tl.constexpr(300))
        yield
