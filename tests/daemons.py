"""Small daemons and a runtime to keep them, for the tests of hosts and runtimes."""

import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from meshos import CausalEvent, DaemonRuntime, Identity, Mesh, MeshDaemon
from meshos.daemon import DaemonLifecycleEvent, DaemonLifecycleObserver, DaemonRegistry

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""
SOON = timedelta(milliseconds=50)


def event(sequence: int, payload: bytes = b"", origin: int = 7) -> CausalEvent:
    return CausalEvent.external(origin, sequence, payload)


def numbered(sequence: int, value: int = 1, origin: int = 7) -> CausalEvent:
    return event(sequence, struct.pack("<q", value), origin)


class Echo(MeshDaemon):
    """Has no state: emits what it is given."""

    name = "echo"

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        return [event.payload]


class Counter(MeshDaemon):
    """Adds up signed numbers and emits the sum; raises for a zero, after it has changed its state."""

    name = "counter"

    def __init__(self) -> None:
        self.total = 0

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        (value,) = struct.unpack("<q", event.payload)
        self.total += value
        if value == 0:
            self.total += 1_000_000
            raise ZeroDivisionError("on purpose")
        return [struct.pack("<q", self.total)]

    def snapshot(self) -> bytes:
        return struct.pack("<q", self.total)

    def restore(self, state: bytes) -> None:
        (self.total,) = struct.unpack("<q", state)


class Gated(MeshDaemon):
    """Stays inside `process` from `entered` until `leave` is set, when the payload is `block`."""

    name = "gated"

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.seen: list[bytes] = []

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        if event.payload == b"block":
            self.entered.set()
            assert self.leave.wait(PATIENCE)
        self.seen.append(event.payload)
        return [event.payload]


class Witness(DaemonLifecycleObserver):
    """Keeps what it sees, and lets a test wait for so many events."""

    def __init__(self) -> None:
        self.events: list[DaemonLifecycleEvent] = []
        self.changed = threading.Condition()

    def observe(self, event: DaemonLifecycleEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def signals(self, count: int) -> list[object]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events) >= count, PATIENCE), self.events
            return [seen.signal for seen in self.events]


def witnessed(registry: DaemonRegistry) -> Witness:
    witness = Witness()
    registry.add_observer(witness)
    return witness


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nothing signals: a counter that is raised after the call that it counts."""
    clock = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if condition():
            return
        clock.wait(0.001)
    raise AssertionError("it never came true")


@contextmanager
def node(**factories: Callable[[], MeshDaemon]) -> Iterator[DaemonRuntime]:
    """Give a started runtime with these kinds, and shut it down."""
    with DaemonRuntime(Mesh.local()) as runtime:
        for kind, factory in factories.items():
            runtime.register_factory(kind, factory)
        runtime.start()
        yield runtime


def spawned(runtime: DaemonRuntime, daemon: MeshDaemon, identity: Identity | None = None) -> int:
    """Spawn an instance made by the test; return its origin hash."""
    from meshos import DaemonHostConfig

    whose = identity or Identity.generate()
    return runtime.spawn_with_daemon(whose, DaemonHostConfig(), daemon, type(daemon)).origin_hash


@contextmanager
def in_thread(call: Callable[[], object]) -> Iterator["Running"]:
    """Run a call on a thread of its own while the block runs; it must have ended in time."""
    running = Running(call)
    running.thread.start()
    try:
        yield running
    finally:
        running.thread.join(PATIENCE)
    assert not running.thread.is_alive(), "it never returned"


class Running:
    """A call on another thread, with what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.result = call()
            except BaseException as error:  # a test looks at it
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)

    def outcome(self) -> object:
        """Wait for its end; return what it returned, or raise what it raised."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "it never returned"
        if self.error is not None:
            raise self.error
        return self.result
