# SPDX-License-Identifier: MIT
"""Modules that pass for one of torch.nn where isinstance asks, and are what they are elsewhere."""

import opcode
import sys
from types import CodeType, FrameType
from typing import Any, ClassVar

from torch import nn

# The instructions that read an attribute; isinstance looks from within a call, or a `match`.
_READS = {opcode.opmap[name] for name in ("LOAD_ATTR", "LOAD_METHOD") if name in opcode.opmap}
_MATCH = opcode.opmap["MATCH_CLASS"]
# What stands before an instruction and behind it.
_PREFIX, _CACHE = opcode.opmap["EXTENDED_ARG"], opcode.opmap.get("CACHE")
# What code calls that comes to isinstance in the end, abstract classes included.
_CALLS = {"isinstance", "__instancecheck__", "_abc_instancecheck"}
# It refuses all instances of nn.RNN, nn.GRU and nn.LSTM, and checks classes from C at each call;
# for isinstance in the code it compiles it asks in one place.
_COMPILER, _ASKING = "torch._dynamo.", "torch._dynamo.variables.builtin"


def asked_by_isinstance(frame: FrameType | None) -> bool:
    """Whether the code in `frame`, from which `__class__` was come to, executes an isinstance.

    PyTorch reads the class of a module to derive another from it (parametrizations, FSDP), and
    torch.compile compares it: both must see the true one.
    """
    if frame is None:
        return False
    instruction = _instruction(frame)
    if instruction == _MATCH:
        return True
    if instruction in _READS or _CALLS.isdisjoint(_names(frame.f_code)):
        return False
    module = frame.f_globals.get("__name__", "")
    return module == _ASKING or not module.startswith(_COMPILER)


def _instruction(frame: FrameType) -> int:
    """The instruction that `frame` is executing, as it was compiled."""
    code, at = frame.f_code.co_code, frame.f_lasti
    while code[at] == _PREFIX:  # Python 3.10
        at += 2
    while code[at] == _CACHE:  # Python 3.12
        at -= 2
    return code[at]


def _names(code: CodeType) -> tuple[str, ...]:
    """All names that code may call something by; `isinstance` is sometimes made a local one."""
    return code.co_names + code.co_varnames + code.co_freevars


# Past the property of that name below.
_CLASS: Any = vars(object)["__class__"]


class Passing(nn.Module):
    """A module that passes for its twin in torch.nn: `isinstance(FusedGRU(3, 5), nn.GRU)`.

    What asks for the class itself sees the true one: `type(m) is nn.GRU`,
    `issubclass(type(m), nn.GRU)`, functools.singledispatch, and in code that torch.compile compiles
    also isinstance with several classes at once.
    """

    _torch_class: ClassVar[type[nn.Module]]

    @property
    def __class__(self) -> type:
        return self._torch_class if asked_by_isinstance(sys._getframe().f_back) else type(self)

    @__class__.setter
    def __class__(self, cls: type) -> None:
        _CLASS.__set__(self, cls)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The value to pickle by protocol 1: later ones ask that `__class__` be the true class."""
        return super().__reduce_ex__(1)
