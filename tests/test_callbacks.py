"""User code on the behaviour loop: what it is given, what it may answer, and what becomes of what it raises."""

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta

import pytest

from daemons import PATIENCE, eventually
from meshos import DaemonIntent, DaemonRef, MeshOsConfig, MeshOsRuntime
from meshos.audit import (
    ActionChainAppender,
    ActionRecord,
    BufferingActionAppender,
    BufferingAdminAuditAppender,
    BufferingFailureAppender,
    BufferingLogAppender,
    FailureRecord,
    LogChainAppender,
    LogRecord,
)
from meshos.control import ControlSink, DrainStart, MeshOsControl
from meshos.dispatch import ActionDispatcher, DispatchError, LoggingDispatcher, MeshOsAction, StartDaemon
from meshos.errors import ReentrantCallError, RuntimeShutdownError
from meshos.events import (
    DaemonIntentUpdate,
    EnterMaintenance,
    LogLevel,
    LogLine,
    MeshOsEvent,
    PlacementIntent,
    ReplicaChange,
    ReplicaLeaderUpdate,
    ReplicaUpdate,
    UnsignedAdminEvent,
)
from meshos.migration import MigrationAborter, MigrationPhase, MigrationSnapshot, MigrationSnapshotSource
from meshos.probes import HealthProbe, InventoryProbe, LocalityProbe, NodeHealth, PeerInventory
from meshos.recovery import RecoveryRegistry
from meshos.runtime import SchedulerConfig
from meshos.scheduler import MigrationCost, PlacementScorer, SchedulerRegistry
from meshos.status import CallbackStatus, MeshOsSnapshot
from records import NOON

CONFIG = MeshOsConfig(this_node=1, tick_interval=timedelta(milliseconds=20), authority="open")
TIMEOUT = timedelta(seconds=PATIENCE)
INGEST = DaemonRef(42, "ingest")
WANTED = DaemonIntentUpdate(INGEST, DaemonIntent.RUN)


class Idle(ActionDispatcher):
    """Carries out nothing and says it did."""

    known: object = None

    def dispatch(self, action: MeshOsAction, /) -> Awaitable[None] | None:
        return None


class Calls(Idle):
    """Does with each action what the test says."""

    def __init__(self, answer: Callable[[MeshOsAction], Awaitable[None] | None]) -> None:
        self.answer = answer

    def dispatch(self, action: MeshOsAction, /) -> Awaitable[None] | None:
        return self.answer(action)


def seen(runtime: MeshOsRuntime, predicate: Callable[[MeshOsSnapshot], bool]) -> MeshOsSnapshot:
    return runtime.snapshot_reader().wait_for(predicate, timeout=TIMEOUT)


def failure(runtime: MeshOsRuntime, part: str, text: str = "") -> FailureRecord:
    """Wait for a failure of a part of the runtime."""

    def found(snapshot: MeshOsSnapshot) -> list[FailureRecord]:
        return [each for each in snapshot.recent_failures if each.source.part == part and text in each.reason]

    return found(seen(runtime, lambda snapshot: bool(found(snapshot))))[0]


def status(runtime: MeshOsRuntime, name: str, predicate: Callable[[CallbackStatus], bool]) -> CallbackStatus:
    """Wait until a callback is doing so."""
    return seen(runtime, lambda s: name in s.callbacks and predicate(s.callbacks[name])).callbacks[name]


# ---------------------------------------------------------------- dispatchers


def test_a_dispatcher_is_given_actions_with_their_cause() -> None:
    given: list[MeshOsAction] = []
    with MeshOsRuntime.start(CONFIG, Calls(lambda action: given.append(action))) as runtime:
        runtime.handle().publish(WANTED)
        eventually(lambda: bool(given))

    assert given[0] == StartDaemon(INGEST)
    assert isinstance(given[0], StartDaemon)
    assert given[0].daemon.name == "ingest"
    assert given[0].cause.kind == "event"


def test_a_drop_is_a_failure_and_a_retry_is_tried_again() -> None:
    dispatcher = LoggingDispatcher()
    dispatcher.fail_next(DispatchError.retry("not yet", timedelta(milliseconds=1)))
    dispatcher.fail_next(DispatchError.drop("no room"))
    with MeshOsRuntime.start(CONFIG, dispatcher) as runtime:
        runtime.handle().publish(WANTED)
        failed = failure(runtime, "action")
        stats = runtime.executor_stats()

    assert (failed.reason, failed.traceback) == ("no room", None)
    assert (failed.source.name, failed.source.target) == ("start_daemon", 42)
    assert (stats.dispatch_retries, stats.failed) == (1, 1)


@pytest.mark.parametrize("error", [ValueError("on\npurpose"), KeyboardInterrupt(), SystemExit(3)])
def test_what_a_dispatcher_raises_is_a_failure_with_its_traceback(error: BaseException) -> None:
    def raises(_: MeshOsAction) -> None:
        raise error

    with MeshOsRuntime.start(CONFIG, Calls(raises)) as runtime:
        runtime.handle().publish(WANTED)
        failed = failure(runtime, "action")
        assert runtime.health().loop_alive

    assert failed.reason.startswith(f"dispatch raised {type(error).__name__}")
    assert "\n" not in failed.reason
    assert failed.traceback is not None
    assert "in raises" in failed.traceback


def test_what_a_dispatcher_gives_back_must_be_nothing() -> None:
    wrong: Callable[[MeshOsAction], None] = lambda _: DispatchError.drop("returned")  # type: ignore[assignment]  # noqa: E731
    with MeshOsRuntime.start(CONFIG, Calls(wrong)) as runtime:
        runtime.handle().publish(WANTED)
        failed = failure(runtime, "action")

    assert "must be None, not DispatchError" in failed.reason


def test_an_async_dispatcher_runs_on_a_loop_of_meshos() -> None:
    threads: list[str] = []
    done = threading.Event()

    async def dispatch(_: MeshOsAction) -> None:
        await asyncio.sleep(0)
        threads.append(threading.current_thread().name)
        if len(threads) == 1:
            raise DispatchError.retry("not yet", timedelta(milliseconds=1))
        done.set()

    with MeshOsRuntime.start(CONFIG, Calls(dispatch)) as runtime:
        runtime.handle().publish(WANTED)
        assert done.wait(PATIENCE)
        eventually(lambda: runtime.executor_stats().dispatched == 1)

    assert set(threads) == {"meshos-loop"}


def test_an_async_dispatcher_runs_on_the_loop_that_started_the_runtime() -> None:
    async def main() -> None:
        here, done = asyncio.get_running_loop(), asyncio.Event()

        async def dispatch(_: MeshOsAction) -> None:
            assert asyncio.get_running_loop() is here
            done.set()

        async with MeshOsRuntime.start(CONFIG, Calls(dispatch)) as runtime:
            await runtime.handle().publish_async(WANTED)
            await asyncio.wait_for(done.wait(), PATIENCE)

    asyncio.run(main())


def test_a_dispatcher_on_a_loop_that_closed_fails_and_the_runtime_goes_on() -> None:
    async def dispatch(_: MeshOsAction) -> None: ...

    async def main() -> MeshOsRuntime:
        return MeshOsRuntime.start(CONFIG, Calls(dispatch))

    with asyncio.run(main()) as runtime:
        runtime.handle().publish(WANTED)
        assert "LoopClosed" in failure(runtime, "action").reason


def test_a_dispatcher_that_hangs_does_not_hold_up_others() -> None:
    inside, go_on, other = threading.Event(), threading.Event(), threading.Event()

    def dispatch(action: MeshOsAction) -> None:
        if isinstance(action, StartDaemon) and action.daemon.id == 1:
            inside.set()
            assert go_on.wait(PATIENCE)
        else:
            other.set()

    with MeshOsRuntime.start(CONFIG, Calls(dispatch)) as runtime:
        runtime.handle().publish(DaemonIntentUpdate(DaemonRef(1), DaemonIntent.RUN))
        assert inside.wait(PATIENCE)
        runtime.handle().publish(DaemonIntentUpdate(DaemonRef(2), DaemonIntent.RUN))
        assert other.wait(PATIENCE)
        go_on.set()


def test_a_dispatcher_that_does_not_end_is_left_behind_at_the_shutdown() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def dispatch(_: MeshOsAction) -> None:
        inside.set()
        assert go_on.wait(PATIENCE)

    runtime = MeshOsRuntime.start(CONFIG, Calls(dispatch))
    runtime.handle().publish(WANTED)
    assert inside.wait(PATIENCE)
    with pytest.raises(RuntimeShutdownError) as late:
        runtime.shutdown_with_timeout(timedelta(milliseconds=50))
    assert late.value.kind == "executor_timeout"
    go_on.set()


@pytest.mark.parametrize("awaited", [False, True])
def test_a_shutdown_from_inside_a_callback_is_refused(*, awaited: bool) -> None:
    runtimes: list[MeshOsRuntime] = []
    refused: list[ReentrantCallError] = []
    done = threading.Event()

    def dispatch(_: MeshOsAction) -> None:
        with pytest.raises(ReentrantCallError) as caught:
            runtimes[0].shutdown()
        refused.append(caught.value)
        runtimes[1].shutdown()
        done.set()

    async def dispatch_async(action: MeshOsAction) -> None:
        await asyncio.sleep(0)
        with pytest.raises(ReentrantCallError) as caught:
            runtimes[0].shutdown()
        refused.append(caught.value)
        done.set()

    calls = Calls(dispatch_async if awaited else dispatch)
    with MeshOsRuntime.start(CONFIG, calls) as runtime, MeshOsRuntime.start(CONFIG, Idle()) as other:
        runtimes += [runtime, other]
        runtime.handle().publish(WANTED)
        assert done.wait(PATIENCE)

    assert [error.call for error in refused] == ["MeshOsRuntime.shutdown"]


# ---------------------------------------------------------------- probes


def test_samples_of_all_kinds_reach_the_snapshot() -> None:
    class All(LocalityProbe, HealthProbe, InventoryProbe):
        def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
            return [(2, timedelta(milliseconds=3))]

        def health_samples(self) -> Iterator[tuple[int, NodeHealth]]:
            yield 2, NodeHealth.DEGRADED

        async def inventory_samples(self) -> Iterable[tuple[int, PeerInventory]]:
            await asyncio.sleep(0)
            return ((2, PeerInventory(cpu_load_1m=0.5)),)

    probe = All()
    with MeshOsRuntime.start(CONFIG, Idle()) as runtime:
        runtime.add_locality_probe(probe)
        runtime.add_health_probe(probe)
        runtime.add_inventory_probe(probe)
        peer = seen(
            runtime,
            lambda s: 2 in s.peers and None not in (s.peers[2].rtt, s.peers[2].health, s.peers[2].cpu_load_1m),
        ).peers[2]
        names = set(runtime.snapshot().callbacks)
        assert runtime.probe_registry().remove(probe)
        seen(runtime, lambda s: not any(name.startswith("All") for name in s.callbacks))
        seen(runtime, lambda s: 2 not in s.peers or s.peers[2].cpu_load_1m is None)

    assert (peer.rtt, peer.health, peer.cpu_load_1m) == (timedelta(milliseconds=3), NodeHealth.DEGRADED, 0.5)
    assert {"All", "All-2", "All-3"} <= names


def test_a_probe_that_raises_is_a_failure_and_left_alone_after_five() -> None:
    calls: list[int] = []

    class Bad(HealthProbe):
        def health_samples(self) -> Iterable[tuple[int, NodeHealth]]:
            calls.append(len(calls))
            raise OSError("unplugged")

    with MeshOsRuntime.start(CONFIG, Idle()) as runtime:
        runtime.add_health_probe(Bad())
        failed = failure(runtime, "probe")
        doing = status(runtime, "Bad", lambda status: status.disabled)

    assert failed.source.name == "Bad"
    assert failed.reason == "health_samples raised OSError: unplugged"
    assert failed.traceback is not None
    assert "in health_samples" in failed.traceback
    assert (doing.calls, doing.failures, len(calls)) == (5, 5, 5)
    assert doing.last_error == failed.reason


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (None, "NoneType"),
        (7, "int"),
        ([7], "pair 0"),
        ([(2, NodeHealth.HEALTHY), (3, "healthy")], "pair 1"),
        ([(-1, NodeHealth.HEALTHY)], "pair 0"),
    ],
)
def test_samples_that_are_none_say_where(samples: object, text: str) -> None:
    class Odd(HealthProbe):
        def health_samples(self) -> Iterable[tuple[int, NodeHealth]]:
            return samples  # type: ignore[return-value]

    with MeshOsRuntime.start(CONFIG, Idle()) as runtime:
        runtime.add_health_probe(Odd())
        failed = failure(runtime, "probe")

    assert failed.reason.startswith("health_samples: ")
    assert text in failed.reason or text.replace("pair ", "[") in failed.reason


def test_a_slow_probe_is_late_and_holds_up_nobody() -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(HealthProbe):
        def health_samples(self) -> Iterable[tuple[int, NodeHealth]]:
            inside.set()
            assert go_on.wait(PATIENCE)
            return []

    class Quick(LocalityProbe):
        def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
            return [(2, timedelta(milliseconds=1))]

    with MeshOsRuntime.start(CONFIG, Idle()) as runtime:
        runtime.add_health_probe(Slow())
        assert inside.wait(PATIENCE)
        runtime.add_locality_probe(Quick())
        seen(runtime, lambda s: 2 in s.peers)
        doing = status(runtime, "Slow", lambda status: status.late > 0)
        go_on.set()

    assert (doing.calls, doing.late, doing.disabled) == (0, 1, False)


# ---------------------------------------------------------------- recovery


def test_a_handler_is_run_each_tick_and_told_of() -> None:
    registry, ran = RecoveryRegistry(), threading.Event()

    def recover() -> Sequence[int]:
        ran.set()
        return [3]

    def bad() -> Sequence[int]:
        raise ValueError("on purpose")

    registry.register(recover)
    registry.register(bad, strikes=2)
    with MeshOsRuntime.start(CONFIG, Idle(), recovery=registry) as runtime:
        assert runtime.recovery_registry() is registry
        assert ran.wait(PATIENCE)
        failed = failure(runtime, "recovery", "evicted")
        handlers = seen(runtime, lambda s: len(s.recovery) == 1 and s.recovery[0].recovered > 1).recovery

    assert failed.source.name == "bad"
    assert failed.traceback is not None
    assert [handler.name for handler in handlers] == ["recover"]


# ---------------------------------------------------------------- scorers


class Scores(PlacementScorer):
    """Finds node 2 bad and node 3 good, or does what the test says."""

    def __init__(self, bad: Callable[[], float | None], cost: MigrationCost | None = None) -> None:
        self.bad = bad
        self.cost = cost
        self.asked: list[Collection[int]] = []

    def score(self, chain: int, node: int, /) -> float | None:
        return self.bad()

    def best_alternative(self, chain: int, exclude: Collection[int], /) -> tuple[int, float] | None:
        self.asked.append(exclude)
        return 3, 1.0

    def migration_cost(self, chain: int, target: int, /) -> MigrationCost | None:
        return self.cost


def raises() -> float:
    raise ValueError("on purpose")


LEADS: list[MeshOsEvent] = [
    PlacementIntent(7, 1),
    ReplicaUpdate(7, 2, ReplicaChange.ADDED),
    ReplicaLeaderUpdate(7, 1, 1),
]


def moved(scorer: PlacementScorer, until: Callable[[], bool]) -> set[str]:
    """Let this node lead a chain that node 2 holds; return which actions that led to."""
    scheduler, dispatcher = SchedulerRegistry(), LoggingDispatcher()
    scheduler.install(scorer)
    config = MeshOsConfig(
        this_node=1,
        tick_interval=timedelta(milliseconds=20),
        scheduler=SchedulerConfig(decision_interval=timedelta(milliseconds=1)),
    )
    with MeshOsRuntime.start(config, dispatcher, scheduler=scheduler) as runtime:
        runtime.handle().publish_many(LEADS)
        eventually(lambda: until() or bool(dispatcher.actions()))
    return {action.kind for action in dispatcher.actions()}


def test_a_bad_copy_is_moved_to_the_best_node() -> None:
    scorer = Scores(lambda: 0.1)

    assert "request_placement" in moved(scorer, lambda: False)
    assert 2 in scorer.asked[0]


@pytest.mark.parametrize("bad", [lambda: None, lambda: math.nan, lambda: math.inf, raises, lambda: "0.1"])
def test_what_is_no_number_is_no_opinion(bad: Callable[[], float | None]) -> None:
    calls: list[None] = []

    def counted() -> float | None:
        calls.append(None)
        return bad()

    assert moved(Scores(counted), lambda: len(calls) >= 3) == set()


def test_a_move_that_costs_more_than_it_gains_is_not_made() -> None:
    scorer = Scores(lambda: 0.1, MigrationCost(state_transfer=timedelta(seconds=100), reliability_factor=math.nan))

    assert moved(scorer, lambda: len(scorer.asked) >= 3) == set()


# ---------------------------------------------------------------- appenders


def test_appenders_are_given_every_record_in_order_and_closed_once() -> None:
    closed: list[str] = []

    class Lines(LogChainAppender):
        def __init__(self) -> None:
            self.kept: list[LogRecord] = []

        def append(self, record: LogRecord, /) -> None:
            self.kept.append(record)

        def close(self) -> None:
            closed.append("lines")

    class Actions(ActionChainAppender):
        def __init__(self) -> None:
            self.kept: list[ActionRecord] = []

        async def append(self, record: ActionRecord, /) -> None:
            await asyncio.sleep(0)
            self.kept.append(record)

        async def close(self) -> None:
            closed.append("actions")

    lines, actions, audits, failures = Lines(), Actions(), BufferingAdminAuditAppender(), BufferingFailureAppender()
    dispatcher = LoggingDispatcher()
    dispatcher.fail_next(DispatchError.drop("no room"))
    with MeshOsRuntime.start(
        CONFIG,
        dispatcher,
        log_appender=lines,
        action_appender=actions,
        admin_audit_appender=audits,
        failure_appender=failures,
    ) as runtime:
        for number in range(100):
            runtime.handle().publish(LogLine(LogLevel.INFO, f"line {number}"))
        runtime.handle().publish(UnsignedAdminEvent(EnterMaintenance(1)))
        runtime.handle().publish(WANTED)
        eventually(lambda: bool(actions.kept and failures.captured() and audits.captured() and len(lines.kept) == 100))

    assert [line.message for line in lines.kept] == [f"line {number}" for number in range(100)]
    assert [line.seq for line in lines.kept] == list(range(1, 101))
    assert ("failed", "no room") in [(record.disposition, record.reason) for record in actions.kept]
    assert isinstance(audits.captured()[0].event, EnterMaintenance)
    assert "no room" in {record.reason for record in failures.captured()}
    assert sorted(closed) == ["actions", "lines"]


def test_a_record_that_an_appender_cannot_keep_is_marked() -> None:
    class Full(LogChainAppender):
        def append(self, record: LogRecord, /) -> None:
            if record.message == "bad":
                raise OSError("disk full")

    with MeshOsRuntime.start(CONFIG, Idle(), log_appender=Full()) as runtime:
        for message in ("good", "bad"):
            runtime.handle().publish(LogLine(LogLevel.INFO, message))
        eventually(lambda: any(line.chain_pending for line in runtime.logs()))
        failed = failure(runtime, "appender")
        lines = runtime.logs()

    assert [(line.message, line.chain_pending) for line in lines] == [("good", False), ("bad", True)]
    assert "disk full" in failed.reason


def test_buffers_may_be_appenders_of_several_runtimes() -> None:
    logs, actions = BufferingLogAppender(), BufferingActionAppender()
    for _ in range(2):
        with MeshOsRuntime.start(CONFIG, Idle(), log_appender=logs, action_appender=actions) as runtime:
            runtime.handle().publish(LogLine(LogLevel.INFO, "hello"))
            eventually(lambda: bool(runtime.logs()))

    assert [line.message for line in logs.captured()] == ["hello", "hello"]


# ---------------------------------------------------------------- sinks and moves


def test_a_sink_sees_controls_and_its_raise_delays_nothing() -> None:
    class Sink(ControlSink):
        def __init__(self) -> None:
            self.seen: list[MeshOsControl] = []

        def emit(self, control: MeshOsControl, /) -> None:
            self.seen.append(control)
            raise ValueError("on purpose")

    sink = Sink()
    with MeshOsRuntime.start(CONFIG, LoggingDispatcher(), control_sink=sink) as runtime:
        runtime.handle().publish(UnsignedAdminEvent(EnterMaintenance(1)))
        eventually(lambda: bool(sink.seen))
        failed = failure(runtime, "callback")

    assert isinstance(sink.seen[0], DrainStart)
    assert failed.source.name == "Sink"


MOVE = MigrationSnapshot(
    daemon_origin=42,
    phase=MigrationPhase.TRANSFER,
    started_at=NOON,
    phase_entered_at=NOON,
    source_node=1,
    target_node=2,
    snapshot_bytes=1000,
    bytes_moved=10,
    retries=0,
    buffered_events=None,
)


def test_moves_are_listed_in_the_snapshot() -> None:
    class Moves(MigrationSnapshotSource):
        def list(self) -> Sequence[MigrationSnapshot]:
            return [MOVE]

    with MeshOsRuntime.start(CONFIG, Idle(), migration_snapshot_source=Moves()) as runtime:
        assert seen(runtime, lambda s: bool(s.in_flight_migrations)).in_flight_migrations == (MOVE,)


def test_a_list_of_something_else_is_a_failure() -> None:
    class Moves(MigrationSnapshotSource):
        def list(self) -> Sequence[MigrationSnapshot]:
            return [7]  # type: ignore[list-item]

    with MeshOsRuntime.start(CONFIG, Idle(), migration_snapshot_source=Moves()) as runtime:
        assert "must be a MigrationSnapshot, not int" in failure(runtime, "migration").reason


# ---------------------------------------------------------------- what is refused


def test_what_does_not_fit_its_place_is_refused_with_the_reason() -> None:
    class Needs(Idle):
        def dispatch(self) -> None:  # type: ignore[override]
            return None

    class Async(MigrationAborter):
        def abort(self, migration: int, /) -> None:
            return None

        async def is_no_op(self) -> bool:  # type: ignore[override]
            return False

    def start(dispatcher: object, **options: object) -> None:
        MeshOsRuntime.start(CONFIG, dispatcher, **options)  # type: ignore[arg-type]

    cases: list[tuple[Callable[[], None], str]] = [
        (lambda: start(7), "dispatcher must be a ActionDispatcher: int has no method `dispatch`"),
        (lambda: start(Idle), "Idle is a class, give an instance of it"),
        (lambda: start(Needs()), "Needs.dispatch` cannot be called with one positional argument"),
        (lambda: start(Idle(), control_sink=7), "control_sink must be a ControlSink: int has no method `emit`"),
        (lambda: start(Idle(), log_appender=7), "log_appender must be a LogChainAppender: int has no method `append`"),
        (lambda: start(Idle(), migration_aborter=Async()), "Async.is_no_op` is async, and is never awaited"),
        (lambda: start(Idle(), migration_snapshot_source=7), "MigrationSnapshotSource: int has no method `list`"),
    ]
    for call, message in cases:
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).endswith(message), str(caught.value)


# ---------------------------------------------------------------- memory


class Cyclic(LogChainAppender, ControlSink, MigrationAborter, MigrationSnapshotSource):
    """Is anything, and knows a runtime."""

    known: object = None

    def append(self, record: LogRecord, /) -> None: ...

    def emit(self, control: MeshOsControl, /) -> None: ...

    def abort(self, migration: int, /) -> None: ...

    def list(self) -> Sequence[MigrationSnapshot]:
        return []


@pytest.mark.parametrize("place", ["log_appender", "control_sink", "migration_aborter", "migration_snapshot_source"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_cycle_through_a_runtime_is_collected(place: str, *, ended: bool) -> None:
    kept = Cyclic()
    runtime = MeshOsRuntime.start(CONFIG, Idle(), **{place: kept})  # type: ignore[arg-type]
    kept.known = runtime
    gone = weakref.ref(kept)
    if ended:
        runtime.shutdown()
    with nullcontext() if ended else pytest.warns(ResourceWarning):
        del kept, runtime
        eventually(lambda: gc.collect() >= 0 and gone() is None)


@pytest.mark.parametrize("ended", [True, False])
def test_a_cycle_through_a_dispatcher_is_collected(*, ended: bool) -> None:
    kept = Idle()
    runtime = MeshOsRuntime.start(CONFIG, kept)
    kept.known = runtime
    gone = weakref.ref(kept)
    if ended:
        runtime.shutdown()
    with nullcontext() if ended else pytest.warns(ResourceWarning):
        del kept, runtime
        eventually(lambda: gc.collect() >= 0 and gone() is None)
