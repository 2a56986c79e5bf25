"""What the tests of the behaviour loop share: a quick configuration, small callbacks, and ways to wait."""

import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from threading import Condition

import pytest

from daemons import PATIENCE
from meshos import CausalEvent, DaemonIntent, DaemonRef, DaemonRuntime, MeshOsConfig, MeshOsRuntime
from meshos.control import ControlSink, MeshOsControl
from meshos.dispatch import ActionDispatcher, BackpressureChange, ComputeDispatcher, MeshOsAction
from meshos.errors import ProcessFailed
from meshos.events import AdminEvent, DaemonIntentUpdate, UnsignedAdminEvent
from meshos.runtime import BackoffConfig, MaintenanceConfig
from meshos.status import MeshOsSnapshot

TIMEOUT = timedelta(seconds=PATIENCE)
TICK = timedelta(milliseconds=20)
NEVER = timedelta(hours=1)
"""A tick so long that nothing in a test comes from it."""
CONFIG = MeshOsConfig(this_node=1, tick_interval=TICK, authority="open")
INGEST = DaemonRef(42, "ingest")
WANTED = DaemonIntentUpdate(INGEST, DaemonIntent.RUN)


def wanted(number: int) -> DaemonIntentUpdate:
    return DaemonIntentUpdate(DaemonRef(number), DaemonIntent.RUN)


def command(event: AdminEvent) -> UnsignedAdminEvent:
    return UnsignedAdminEvent(event)


class Calls(ActionDispatcher):
    """Does with each action what the test says, by default nothing."""

    known: object = None

    def __init__(self, answer: Callable[[MeshOsAction], Awaitable[None] | None] = lambda _: None) -> None:
        self.answer = answer

    def dispatch(self, action: MeshOsAction, /) -> Awaitable[None] | None:
        return self.answer(action)


class Seen:
    """Values in the order in which they came, from any thread."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self.changed = Condition()

    def add(self, value: object) -> None:
        with self.changed:
            self.values.append(value)
            self.changed.notify_all()

    def until(self, holds: Callable[[list[object]], bool]) -> list[object]:
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self.values), PATIENCE), self.values
            return list(self.values)

    def first(self, count: int) -> list[object]:
        return self.until(lambda values: len(values) >= count)[:count]


class Sink(ControlSink):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.seen = Seen()

    def emit(self, control: MeshOsControl, /) -> None:
        self.seen.add(control)


class Recorder(Calls):
    """Keeps actions and edges of back-pressure, after it did what the test says."""

    def __init__(self, answer: Callable[[MeshOsAction], Awaitable[None] | None] = lambda _: None) -> None:
        super().__init__(answer)
        self.actions = Seen()
        self.edges = Seen()

    def dispatch(self, action: MeshOsAction, /) -> Awaitable[None] | None:
        self.actions.add(action)
        return super().dispatch(action)

    def on_cluster_backpressure(self, change: BackpressureChange, /) -> None:
        self.edges.add(change)


def seen(runtime: MeshOsRuntime, predicate: Callable[[MeshOsSnapshot], bool]) -> MeshOsSnapshot:
    """Wait for a snapshot."""
    return runtime.snapshot_reader().wait_for(predicate, timeout=TIMEOUT)


def reasons(snapshot: MeshOsSnapshot, part: str) -> list[str]:
    """The reasons of failures of a part."""
    return [failure.reason for failure in snapshot.recent_failures if failure.source.part == part]


QUICK = BackoffConfig(
    initial=timedelta(milliseconds=1), maximum=timedelta(milliseconds=5), crash_loop_threshold=1000, jitter=0
)
"""Crashed daemons come back at once."""


def supervising(
    *,
    backoff: BackoffConfig = QUICK,
    maintenance: MaintenanceConfig | None = None,
    tick: timedelta = TICK,
) -> MeshOsConfig:
    """Options of a loop that supervises."""
    return MeshOsConfig(
        tick_interval=tick,
        authority="open",
        seed=7,
        backoff=backoff,
        maintenance=maintenance or MaintenanceConfig(recovery_ramp_window=timedelta(0)),
    )


@contextmanager
def supervised(
    daemons: DaemonRuntime, *origins: int, config: MeshOsConfig | None = None, sink: ControlSink | None = None
) -> Iterator[MeshOsRuntime]:
    """Give a loop on `daemons` that wants these to run."""
    config = supervising() if config is None else config
    with MeshOsRuntime.start(config, ComputeDispatcher(daemons), control_sink=sink) as runtime:
        for origin in origins:
            runtime.set_intent(origin, DaemonIntent.RUN)
        yield runtime


def runs(runtime: MeshOsRuntime, origin: int, *, restarts: int | None = None) -> MeshOsSnapshot:
    """Wait until a daemon runs, after so many restarts."""
    return seen(
        runtime,
        lambda s: (
            origin in s.daemons
            and s.daemons[origin].lifecycle == "running"
            and restarts in (None, s.daemons[origin].restarts)
        ),
    )


ONE = struct.pack("<q", 1)
"""What a `Counter` adds."""
BAD = struct.pack("<q", 0)
"""What it raises for."""
NUMBERS = count(1)


def crash(daemons: DaemonRuntime, origin: int) -> None:
    with pytest.raises(ProcessFailed) as caught:
        daemons.send(origin, BAD)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def total(daemons: DaemonRuntime, origin: int) -> int:
    """Add one, and return the sum after it."""
    (output,) = daemons.deliver(origin, CausalEvent.external(99, next(NUMBERS), ONE))
    return int(struct.unpack("<q", output.payload)[0])
