"""Waiting for moves on an event loop, which holds no lane."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from meshos._checks import seconds_of
from meshos.errors import WaitTimeout
from meshos.stream import Stream

if TYPE_CHECKING:
    from meshos._core import MoveCore, PhasesCore
    from meshos.migration import MigrationOutcome, MigrationPhase

_NOW = timedelta(0)


async def wait_for_end(core: MoveCore, timeout: timedelta | None) -> MigrationOutcome:
    """Wait until a move is over."""
    seconds = seconds_of(timeout)
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    ticket = core.on_end(partial(_wake, loop, over))
    if ticket is not None:
        try:
            await asyncio.wait_for(over, seconds)
        except TimeoutError:
            what = f"the end of the move of daemon {core.origin_hash:016x}"
            raise WaitTimeout(what, timeout or _NOW) from None
        finally:
            core.forget(ticket)
    return core.wait(_NOW)


def phases(core: PhasesCore) -> Stream[MigrationPhase]:
    """Make the stream of the phases of a move."""
    return Stream(_Phases(core), "MigrationHandle.phases")


class _Phases:
    """The phases of one move."""

    def __init__(self, core: PhasesCore) -> None:
        self._core = core

    def take(self, timeout: timedelta) -> MigrationPhase | None:
        """Wait for the next phase on this thread."""
        return self._core.take(timeout)

    async def take_async(self) -> MigrationPhase:
        """Wait for the next phase."""
        loop = asyncio.get_running_loop()
        while True:
            phase = self._core.take(_NOW)
            if phase is not None:
                return phase
            there = loop.create_future()
            if self._core.on_next(partial(_wake, loop, there)):
                await there

    def close(self) -> None:
        """End it."""
        self._core.close()


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Settle a future of another thread's loop; a closed loop has nobody left to hear it."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))
