"""Whether a method can be called as the engine calls it.

Read from code objects and not with `inspect`, whose import would lengthen the way to the first event.
"""

from types import FunctionType
from typing import NamedTuple

# Of code objects, as `inspect` names them.
VARARGS = 0x04
GENERATOR = 0x20
COROUTINE = 0x80 | 0x100
ASYNC_GENERATOR = 0x200


class Rule(NamedTuple):
    """How the engine calls a method."""

    arguments: int
    awaited: bool = False
    iterated: bool = False


def misfit(function: FunctionType, rule: Rule, given: int) -> str | None:
    """Say what is wrong with a method that is called with `given` arguments, `self` among them; `None`: nothing."""
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    named = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    if required > given or named or (code.co_argcount < given and not code.co_flags & VARARGS):
        return f"cannot be called with {_ARGUMENTS[rule.arguments]}"
    if code.co_flags & (COROUTINE | ASYNC_GENERATOR) and not rule.awaited:
        return "is async, and is never awaited"
    if code.co_flags & (GENERATOR | ASYNC_GENERATOR) and not rule.iterated:
        return "is a generator, and is never iterated"
    return None


_ARGUMENTS = ("no argument", "one positional argument", "two positional arguments")
