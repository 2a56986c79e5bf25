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
