"""What the behaviour loop costs from Python: `python benchmarks/loop.py [NAME …]`.

Every figure is a line `loop: NAME VALUE UNIT BAR ok|short`: the median of five runs, with the runs above it. A figure
without a bar has a dash there.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import median
from typing import Literal, NamedTuple

from meshos import CausalEvent, Identity, Mesh, MeshDaemon, ProcessFailed
from meshos.daemon import DaemonHostConfig, DaemonRef
from meshos.dispatch import LoggingDispatcher
from meshos.events import (
    DaemonIntent,
    DaemonLifecycle,
    MeshOsEvent,
    ReplicaChange,
    ReplicaUpdate,
    RttSample,
    SaturationChanged,
)
from meshos.node import Node
from meshos.runtime import BackoffConfig, MeshOsConfig, MeshOsRuntime

RUNS = 5
EVENTS = 1 << 18
READS = 200_000
CRASHES = 400
MS = timedelta(milliseconds=1)
HERE = 1
ROUND_TRIPS = [timedelta(microseconds=1000 + n) for n in range(7)]
"""Made beforehand, since a `timedelta` costs as much as an event."""
DAEMONS = [DaemonRef(id=100 + n, name="bench") for n in range(64)]


def mixture(first: int, count: int) -> list[MeshOsEvent]:
    """Make events: half round trips, a quarter copies of chains, a quarter loads of daemons."""
    events: list[MeshOsEvent] = []
    for number in range(first, first + count, 4):
        quarter = number // 4
        events.append(RttSample(2 + number % 64, ROUND_TRIPS[number % 7]))
        events.append(RttSample(2 + (number + 1) % 64, ROUND_TRIPS[(number + 1) % 7]))
        events.append(ReplicaUpdate(1000 + quarter % 256, 2 + quarter // 256 % 8, ReplicaChange.ADDED))
        events.append(DaemonLifecycle(DAEMONS[quarter % 64], SaturationChanged(quarter % 100 / 100)))
    return events


def loop() -> MeshOsRuntime:
    """Start a loop with the default queue of 1024 events."""
    return MeshOsRuntime.start(MeshOsConfig(this_node=HERE), LoggingDispatcher())


def publish(batch: int, *, made_before: bool) -> float:
    """Return events a second from one thread, in batches, until the last is folded."""
    known = mixture(0, 1 << 14) if made_before else None
    with loop() as runtime:
        publish_many = runtime.handle().publish_many
        began = time.perf_counter()
        for first in range(0, EVENTS, batch):
            if known is None:
                publish_many(mixture(first, batch))
            else:
                place = first % len(known)
                publish_many(known[place : place + batch])
        runtime.set_intent(1, DaemonIntent.STOP)  # returns once folded, and so is what came before it
        return EVENTS / (time.perf_counter() - began)


class Crasher(MeshDaemon):
    """Raises over every event but `go`, and says when."""

    name = "crasher"
    raised_at = 0.0

    def process(self, event: CausalEvent) -> None:
        if event.payload != b"go":
            Crasher.raised_at = time.perf_counter()
            raise RuntimeError("on purpose")

    def snapshot(self) -> bytes:
        return b"state"

    def restore(self, state: bytes) -> None:
        pass


def crash_to_restart() -> float:
    """Return the 99th percentile from a raise to the next receipt, in ms, with a backoff of 1 ms."""
    backoff = BackoffConfig(
        initial=MS, maximum=MS, factor=1.0, jitter=0.0, crash_loop_threshold=1000, crash_loop_window=MS
    )
    took = []
    with Node(Mesh.local(), kinds={Crasher.name: Crasher}, config=MeshOsConfig(backoff=backoff)) as node:
        daemons = node.daemons
        keys = [daemons.spawn(Crasher.name, Identity.generate(), DaemonHostConfig()).origin_hash for _ in range(16)]
        for key in keys:
            node.runtime.set_intent(key, DaemonIntent.RUN)
        for number in range(CRASHES):
            key = keys[number % len(keys)]
            try:
                daemons.send(key, b"boom")
            except ProcessFailed:
                daemons.send(key, b"go")
            took.append(time.perf_counter() - Crasher.raised_at)
    took.sort()
    return took[int((len(took) - 1) * 0.99)] * 1000


def reading(read: Callable[[MeshOsRuntime], object]) -> float:
    """Return the nanoseconds of one call of `read`, while another thread publishes."""
    stop = threading.Event()
    with loop() as runtime:
        events = mixture(0, 1024)
        runtime.handle().publish_many(events)
        runtime.set_intent(1, DaemonIntent.STOP)  # returns once what came before it is folded

        def feed() -> None:
            # Rarely, so that what is measured is the call, and not the interpreter lock.
            while not stop.wait(0.001):
                runtime.handle().publish_many(events[:256])

        feeder = threading.Thread(target=feed)
        feeder.start()
        began = time.perf_counter()
        for _ in range(READS):
            read(runtime)
        took = time.perf_counter() - began
        stop.set()
        feeder.join()
    return took / READS * 1e9


class Figure(NamedTuple):
    """What is measured, and the bar it is held against."""

    name: str
    unit: str
    bar: float | None
    better: Literal["more", "less"]
    run: Callable[[], float]


def attributes(runtime: MeshOsRuntime) -> object:
    """Read two members of an entry of the newest snapshot."""
    daemon = runtime.snapshot().daemons[100]
    return daemon.lifecycle, daemon.saturation


FIGURES = [
    Figure("python_publish_many_256", "events/s", 300_000, "more", lambda: publish(256, made_before=False)),
    Figure("python_publish_many_1024", "events/s", 300_000, "more", lambda: publish(1024, made_before=False)),
    Figure("python_publish_many_256_made_before", "events/s", None, "more", lambda: publish(256, made_before=True)),
    Figure("python_snapshot", "ns", None, "less", lambda: reading(lambda runtime: runtime.snapshot())),
    Figure("python_snapshot_generation", "ns", None, "less", lambda: reading(lambda r: r.snapshot().generation)),
    Figure("python_snapshot_daemon", "ns", None, "less", lambda: reading(attributes)),
    Figure("python_crash_to_receipt_p99", "ms", None, "less", crash_to_restart),
]


def main(names: Sequence[str]) -> None:
    """Measure the figures whose names contain one of `names`, or all."""
    for figure in FIGURES:
        if names and not any(name in figure.name for name in names):
            continue
        runs = sorted(figure.run() for _ in range(RUNS))
        value, digits = median(runs), 0 if runs[0] >= 100 else 3
        met = figure.bar is None or (value >= figure.bar if figure.better == "more" else value <= figure.bar)
        print(f"{figure.name}: {' '.join(f'{run:.{digits}f}' for run in runs)} {figure.unit}")
        bar = "-" if figure.bar is None else f"{figure.bar:.0f}"
        print(f"loop: {figure.name} {value:.{digits}f} {figure.unit} {bar} {'ok' if met else 'short'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
