"""For tests of your own daemons: simulated time and faults, one seed, one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING

from meshos._core import Faults as Faults
from meshos._core import SimulationRun as SimulationRun
from meshos._core import _simulate
from meshos.daemon import DaemonHostConfig
from meshos.errors import InvariantViolation as InvariantViolation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshos.daemon import MeshDaemon

__all__ = ["Faults", "InvariantViolation", "SimulationRun", "simulate"]

_CALM = Faults()
_JOURNAL = DaemonHostConfig(durability="journal")


def simulate(
    daemon: Callable[[], MeshDaemon],
    *,
    seed: int,
    nodes: int = 3,
    events: int = 100,
    moves: int = 3,
    faults: Faults = _CALM,
    payload: Callable[[int], bytes] | None = None,
    config: DaemonHostConfig = _JOURNAL,
) -> SimulationRun:
    """Feed a daemon that moves and crashes, and compare it with one that does not.

    The other one gets each event once, in the order in which the events took effect: what it emits, and what its
    snapshots are, has to be the same byte by byte. Time is simulated, and all of it runs on the calling thread.
    Coroutines of `process` run to their end on a loop of their own; none may run on the calling thread.

    Args:
        daemon: A class, or another callable that makes a fresh instance.
        seed: Of everything that is left to chance: equal arguments give equal runs.
        nodes: Nodes between which the daemon moves, 2 to 8. One more gives orders.
        events: Events that two senders send, up to 10,000.
        moves: Moves that are ordered, one after the other, up to 1,000.
        faults: What goes wrong, until everything was sent and moved, or has not been for long.
        payload: Makes event number n, from 1; by default n in 8 bytes, little endian. What it raises passes through.
        config: How the daemon is kept. Without a journal a crash may lose events, and `rolled_back` says how many.

    Raises:
        InvariantViolation: A promise was broken.
        ProcessFailed: `process` raised; so do `SnapshotFailed`, `RestoreFailed` and `InvalidDaemon` for the others.
        InvalidArgument: A number is out of range, or `config` is of a daemon that cannot be compared.
    """
    later = _Later()

    def again() -> str:
        call = [f"seed={seed}", f"nodes={nodes}", f"events={events}", f"moves={moves}"]
        if faults != _CALM:
            call.append(f"faults={faults!r}")
        if payload is not None:
            call.append(f"payload={_named(payload)}")
        if config != _JOURNAL:
            call.append(f"config={config!r}")
        return f"simulate({_named(daemon)}, {', '.join(call)})"

    try:
        return _simulate(daemon, seed, nodes, events, moves, faults, payload, config, again, later.finish)
    finally:
        later.close()


def _named(value: object) -> str:
    return str(getattr(value, "__qualname__", None) or repr(value))


class _Later:
    """What `process` gave back to be awaited, run to its end on a loop of its own."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def finish(self, later: Awaitable[object] | AsyncIterable[object]) -> object:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        ended = _ended(later)
        try:
            return self._loop.run_until_complete(ended)
        finally:
            ended.close()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


async def _ended(later: Awaitable[object] | AsyncIterable[object]) -> object:
    if isinstance(later, AsyncIterable):
        return [item async for item in later]
    return await later
