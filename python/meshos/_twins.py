"""The asynchronous forms of calls that may wait: they run on a lane, and the event loop goes on meanwhile."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from meshos import _core

P = ParamSpec("P")
R = TypeVar("R")


async def on_lane(name: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a call on a lane and await its result; `name` is what an error calls it."""
    return cast("R", await _core._on_lane(lambda: call(*args, **kwargs), name))
