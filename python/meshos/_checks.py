"""Checks of arguments that the compiled module does not see."""

from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


def instance(value: object, cls: type[T], name: str) -> T:
    """Return `value` if it is a `cls`; raises `TypeError` naming the argument."""
    if not isinstance(value, cls):
        message = f"{name} must be a {cls.__name__}, not {type(value).__name__}"
        raise TypeError(message)
    return value


def seconds_of(timeout: object, name: str = "timeout") -> float | None:
    """Check a span and return it in seconds; `None` is no end. Raises `TypeError`, `InvalidArgument`."""
    if timeout is None:
        return None
    if not isinstance(timeout, timedelta):
        message = f"{name} must be a timedelta or None, not {type(timeout).__name__}"
        raise TypeError(message)
    if timeout < timedelta(0):
        from meshos.errors import InvalidArgument

        raise InvalidArgument(name, "must not be negative")
    return timeout.total_seconds()


def identifier(text: str) -> int:
    """Read the id of a node, chain, daemon or operator: decimal, or hexadecimal after `0x`; raises `ValueError`."""
    digits, base = (text[2:], 16) if text[:2] in ("0x", "0X") else (text, 10)
    # `int` would take signs, spaces, underscores and the digits of every script.
    if not (digits.isascii() and digits.isalnum() and len(digits) <= 20):
        raise ValueError(text)
    number = int(digits, base)
    if number >= 1 << 64:
        raise ValueError(text)
    return number
