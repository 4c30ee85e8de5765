# SPDX-License-Identifier: MIT
"""Whether an object's `__class__` is asked for by isinstance, or by who wants the class itself."""

import opcode
from types import CodeType, FrameType

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
    """What `frame` is executing, as it was compiled."""
    code, at = frame.f_code.co_code, frame.f_lasti
    while code[at] == _PREFIX:  # Python 3.10
        at += 2
    while code[at] == _CACHE:  # Python 3.12
        at -= 2
    return code[at]


def _names(code: CodeType) -> tuple[str, ...]:
    """All names that code may call something by; `isinstance` is sometimes made a local one."""
    return code.co_names + code.co_varnames + code.co_freevars
