"""The asynchronous forms of calls that may wait: they run on a lane, and the event loop goes on meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from meshos import _core

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshos.chain import CausalEvent

P = ParamSpec("P")
R = TypeVar("R")


async def on_lane(name: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a call on a lane and await its result; `name` is what an error calls it."""
    return cast("R", await _core._on_lane(lambda: call(*args, **kwargs), name))


async def deliver_later(runtime: _core.RuntimeCore, origin_hash: int, event: CausalEvent) -> list[CausalEvent]:
    """Deliver once a loop runs."""
    return await runtime.deliver_async(origin_hash, event)
