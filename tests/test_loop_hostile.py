"""User code at its worst in every place that the loop calls, all at once: the loop goes on, and says what happened."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest

from daemons import PATIENCE, eventually
from loops import TICK, TIMEOUT, WANTED, command, seen, wanted
from meshos import DaemonIntent, DaemonRef, MeshOsConfig, MeshOsRuntime
from meshos.errors import LoopClosed, MeshOsError, ReentrantCallError, RuntimeShutdownError
from meshos.events import (
    DaemonIntentUpdate,
    DaemonLifecycle,
    EnterMaintenance,
    LogLevel,
    LogLine,
    MeshOsEvent,
    PlacementIntent,
    ReplicaChange,
    ReplicaLeaderUpdate,
    ReplicaUpdate,
    Started,
)
from meshos.runtime import BackpressureConfig, SchedulerConfig

ROLES = {
    "rtt_samples",
    "health_samples",
    "inventory_samples",
    "has_work",
    "recover",
    "score",
    "best_alternative",
    "dispatch",
    "on_cluster_backpressure",
    "append",
    "list",
}
"""What is called on every run of these tests; the rest is called when those before answer well."""


class Hostile:
    """Stands in every place at once, and behaves as the test says."""

    def __init__(self, behave: Callable[[str], object]) -> None:
        self.behave = behave
        self.called: set[str] = set()

    def did(self, name: str) -> object:
        self.called.add(name)
        return self.behave(name)

    def rtt_samples(self) -> object:
        return self.did("rtt_samples")

    def health_samples(self) -> object:
        return self.did("health_samples")

    def inventory_samples(self) -> object:
        return self.did("inventory_samples")

    def __call__(self) -> object:
        return self.did("recover")

    def score(self, chain: int, node: int) -> object:
        return self.did("score")

    def best_alternative(self, chain: int, exclude: Collection[int]) -> object:
        return self.did("best_alternative")

    def node_fingerprint(self, node: int) -> object:
        return self.did("node_fingerprint")

    def dispatch(self, action: object) -> object:
        return self.did("dispatch")

    def on_cluster_backpressure(self, change: object) -> object:
        return self.did("on_cluster_backpressure")

    def emit(self, control: object) -> object:
        return self.did("emit")

    def append(self, record: object) -> object:
        return self.did("append")

    def close(self) -> object:
        return self.did("close")

    def abort(self, migration: int) -> object:
        return self.did("abort")

    def list(self) -> object:
        return self.did("list")


class Asks(Hostile):
    """A recovery handler that is asked first."""

    def has_work(self) -> object:
        return self.did("has_work")


CONFIG = MeshOsConfig(
    this_node=1,
    tick_interval=TICK,
    authority="open",
    backpressure=BackpressureConfig(cluster_backpressure_threshold=1, cluster_backpressure_release=0),
    scheduler=SchedulerConfig(decision_interval=timedelta(milliseconds=1)),
)
LEADS: list[MeshOsEvent] = [
    PlacementIntent(7, 1),
    ReplicaUpdate(7, 2, ReplicaChange.ADDED),
    ReplicaLeaderUpdate(7, 1, 1),
]


def begun(behave: Callable[[str], object]) -> tuple[MeshOsRuntime, Hostile]:
    """Start a runtime in which everything that can be called is hostile, and give it something to do."""
    hostile, asks = Hostile(behave), Asks(behave)
    asks.called = hostile.called
    place: dict[str, object] = dict.fromkeys(
        (
            "control_sink",
            "admin_audit_appender",
            "log_appender",
            "failure_appender",
            "action_appender",
            "migration_aborter",
            "migration_snapshot_source",
        ),
        hostile,
    )
    runtime = MeshOsRuntime.start(CONFIG, hostile, **place)  # type: ignore[arg-type]
    runtime.add_locality_probe(hostile)  # type: ignore[arg-type]
    runtime.add_health_probe(hostile)  # type: ignore[arg-type]
    runtime.add_inventory_probe(hostile)  # type: ignore[arg-type]
    runtime.recovery_registry().register(hostile, strikes=1_000_000)  # type: ignore[arg-type]
    runtime.recovery_registry().register(asks, strikes=1_000_000)  # type: ignore[arg-type]
    runtime.install_placement_scorer(hostile)  # type: ignore[arg-type]
    runtime.handle().publish_many(
        [
            *LEADS,
            *(wanted(number) for number in range(1, 40)),
            LogLine(LogLevel.INFO, "x"),
        ]
    )
    return runtime, hostile


@contextmanager
def surrounded(behave: Callable[[str], object]) -> Iterator[tuple[MeshOsRuntime, Hostile]]:
    """Start such a runtime, and end it when a test fails."""
    runtime, hostile = begun(behave)
    try:
        yield runtime, hostile
    finally:
        with suppress(RuntimeShutdownError):
            runtime.shutdown_with_timeout(timedelta(seconds=1))


def hears_of_a_drain(runtime: MeshOsRuntime, hostile: Hostile) -> None:
    """Let the sink be called."""
    runtime.handle().publish(command(EnterMaintenance(1)))
    eventually(lambda: "emit" in hostile.called)


def goes_on(runtime: MeshOsRuntime) -> None:
    """The loop folds, answers and publishes."""
    runtime.handle().publish(DaemonLifecycle(WANTED.daemon, Started()))
    seen(runtime, lambda s: 42 in s.daemons and s.daemons[42].lifecycle == "running")
    runtime.set_intent(43, DaemonIntent.STOP)
    assert runtime.explain(daemon=43).rule
    assert runtime.health().loop_alive


class Nasty(Exception):
    """Raises when it is looked at."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def raising(error: Callable[[], BaseException]) -> Callable[[str], object]:
    def behave(_: str) -> object:
        raise error()

    return behave


def recursing(_: str) -> object:
    return recursing(_)


def coroutine(_: str) -> Awaitable[object]:
    async def later() -> object:
        await asyncio.sleep(0)
        raise ValueError("later")

    return later()


class Spiteful:
    """Lies to whoever asks it for anything."""

    def __getattr__(self, name: str) -> object:
        raise ValueError(f"no {name}")

    def __iter__(self) -> Iterator[object]:
        raise ValueError("no items")

    def __len__(self) -> int:
        return 2**62

    def __float__(self) -> float:
        raise ValueError("no number")

    def __bool__(self) -> bool:
        raise ValueError("no truth")


RAISES: dict[str, Callable[[str], object]] = {
    "ValueError": raising(lambda: ValueError("on purpose")),
    "KeyboardInterrupt": raising(KeyboardInterrupt),
    "SystemExit": raising(SystemExit),
    "GeneratorExit": raising(GeneratorExit),
    "CancelledError": raising(asyncio.CancelledError),
    "StopIteration": raising(StopIteration),
    "RecursionError": recursing,
    "MemoryError": raising(MemoryError),
    "an error of ours": raising(lambda: ReentrantCallError("it")),
    "an error without text": raising(Nasty),
    "a long text": raising(lambda: ValueError("x" * 1_000_000)),
    "surrogates": raising(lambda: ValueError("\ud800\0")),
    "a coroutine": coroutine,
}
RUBBISH: dict[str, object] = {
    "a number": 7,
    "text": "rubbish",
    "not a number": float("nan"),
    "an object": object(),
    "a class": int,
    "pairs of nothing": [(None, None)],
    "an endless number": 10**400,
    "negative": -1,
    "a generator that raises": (lambda: (1 / 0 for _ in [1]))(),
    "true": True,
    "spiteful": Spiteful(),
    "itself": ...,
}


@pytest.mark.parametrize("name", RAISES)
def test_whatever_is_raised_the_loop_goes_on(name: str) -> None:
    with surrounded(RAISES[name]) as (runtime, hostile):
        eventually(lambda: hostile.called >= ROLES - {"best_alternative"})
        hears_of_a_drain(runtime, hostile)
        goes_on(runtime)
        snapshot = seen(runtime, lambda s: len(s.recent_failures) > 5)
        assert all(len(failure.reason) < 2000 and "\n" not in failure.reason for failure in snapshot.recent_failures)
        assert snapshot.callbacks
        runtime.shutdown_with_timeout(TIMEOUT)
    assert "close" in hostile.called


@pytest.mark.parametrize("name", RUBBISH)
def test_whatever_is_given_back_the_loop_goes_on(name: str) -> None:
    with surrounded(lambda _: RUBBISH[name]) as (runtime, hostile):
        eventually(lambda: hostile.called >= ROLES - {"has_work", "best_alternative"})
        hears_of_a_drain(runtime, hostile)
        goes_on(runtime)
        assert {peer for peer in runtime.snapshot().peers if peer > 2} == set()
        seen(runtime, lambda s: len(s.recent_failures) > 0)
        runtime.shutdown_with_timeout(TIMEOUT)


def test_what_hangs_everywhere_holds_up_neither_the_loop_nor_its_end() -> None:
    go_on = threading.Event()

    def hang(_: str) -> None:
        assert go_on.wait(PATIENCE)

    with surrounded(hang) as (runtime, hostile):
        eventually(
            lambda: hostile.called >= {"rtt_samples", "health_samples", "inventory_samples", "recover", "dispatch"}
        )
        goes_on(runtime)
        seen(runtime, lambda s: any(status.late for status in s.callbacks.values()))
        with pytest.raises(RuntimeShutdownError) as late:
            runtime.shutdown_with_timeout(timedelta(milliseconds=100))
        assert late.value.kind in ("executor_timeout", "appender_timeout")
        assert not runtime.health().loop_alive
        go_on.set()


def test_calling_back_works_or_is_refused_and_never_deadlocks() -> None:
    runtimes: list[MeshOsRuntime] = []
    refused: set[str] = set()
    wrong: list[str] = []

    def call_back(name: str) -> object:
        if not runtimes:
            return None
        (runtime,) = runtimes
        runtime.handle().try_publish(DaemonIntentUpdate(DaemonRef(90), DaemonIntent.STOP))
        runtime.handle().publish_many([LogLine(LogLevel.INFO, name)] if name != "append" else [])
        assert runtime.snapshot().this_node == 1
        runtime.snapshot_reader().wait_changed(0, timeout=TIMEOUT)
        runtime.executor_stats()
        runtime.logs()
        runtime.audits()
        runtime.probe_registry().probe_counts()
        len(runtime.recovery_registry())
        try:
            runtime.explain(daemon=1)
            runtime.set_intent(2, DaemonIntent.STOP)
        except LoopClosed:
            if runtimes:
                wrong.append(f"{name} found it closed")
        except MeshOsError as error:
            wrong.append(f"{name}: {error!r}")
        try:
            runtime.shutdown()
        except ReentrantCallError:
            refused.add(name)
        else:
            wrong.append(f"{name} ended the runtime")
        return None

    with surrounded(call_back) as (runtime, _hostile):
        runtimes.append(runtime)
        eventually(lambda: refused >= ROLES - {"has_work", "best_alternative"})
        goes_on(runtime)
        runtimes.clear()
        runtime.shutdown_with_timeout(TIMEOUT)
    assert wrong == []
    assert "append" in refused


def test_the_runtime_may_be_dropped_while_everything_hangs() -> None:
    go_on = threading.Event()

    def hang(_: str) -> None:
        assert go_on.wait(PATIENCE)

    runtime, hostile = begun(hang)
    eventually(lambda: "dispatch" in hostile.called)
    with pytest.warns(ResourceWarning):  # noqa: PT031  the collector is what warns
        del runtime
        gc.collect()
    go_on.set()
    eventually(lambda: not any("runtime" in thread.name for thread in threading.enumerate()))
