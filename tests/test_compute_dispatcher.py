"""Supervised daemons: what crashes comes back, what is stopped stays stopped, and nothing else changes."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterable
from datetime import timedelta

import pytest

from daemons import Counter, Echo, Running, eventually, in_thread, node, numbered
from loops import NEVER, ONE, crash, reasons, runs, seen, supervised, supervising, total
from meshos import (
    CausalEvent,
    DaemonHostConfig,
    DaemonIntent,
    DaemonRef,
    DaemonRuntime,
    Identity,
    Mesh,
    MeshDaemon,
    MeshOsConfig,
    MeshOsRuntime,
)
from meshos.dispatch import (
    ApplyBackoff,
    CommitMaintenanceTransition,
    ComputeDispatcher,
    DispatchError,
    DropReplica,
    MarkAvoid,
    StartDaemon,
    StopDaemon,
)
from meshos.errors import ProcessFailed, ReentrantCallError, SendTimeout, ShuttingDown
from meshos.events import DaemonIntentUpdate, LogLevel, PlacementIntent, ReplicaLeaderUpdate
from meshos.runtime import BackoffConfig
from meshos.status import BackingOff, CrashLooping, Idle, Maintenance
from records import NOON

MILLISECOND = timedelta(milliseconds=1)


class AsyncCounter(Counter):
    """Counts in a coroutine."""

    name = "async_counter"

    async def process(self, event: CausalEvent) -> Iterable[bytes]:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().process(event)


# ---------------------------------------------------------------- crash and restart


@pytest.mark.parametrize("kind", [Counter, AsyncCounter])
def test_a_daemon_that_crashes_is_started_again_with_its_state(kind: type[Counter]) -> None:
    with node(counter=kind) as daemons:
        origin = daemons.spawn("counter", Identity.generate(), DaemonHostConfig(auto_snapshot_interval=7)).origin_hash
        with supervised(daemons, origin) as runtime:
            for restarts in range(1, 4):
                for _ in range(10):
                    daemons.send(origin, ONE)
                crash(daemons, origin)
                runs(runtime, origin, restarts=restarts)
            assert total(daemons, origin) == 31
            state = runtime.snapshot().daemons[origin]
            assert (state.restarts, state.restart_state) == (3, Idle())
            handle = daemons.find(origin)
            assert handle is not None
            assert handle.stats.errors == 3


def test_who_sends_to_a_crashed_daemon_waits_and_is_answered_once() -> None:
    hold = BackoffConfig(initial=200 * MILLISECOND, jitter=0)
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin, config=supervising(backoff=hold)) as runtime:
            crash(daemons, origin)
            down = seen(runtime, lambda s: s.daemons[origin].lifecycle == "stopped")
            assert isinstance(down.daemons[origin].restart_state, BackingOff)
            waiting = [Running(lambda n=n: daemons.send(origin, numbered(1, 1, origin=n))) for n in range(1, 5)]  # type: ignore[misc]
            for each in waiting:
                each.thread.start()
            receipts = [each.outcome() for each in waiting]
            runs(runtime, origin, restarts=1)
            assert sorted(receipt.sequence for receipt in receipts) == [1, 2, 3, 4]  # type: ignore[attr-defined]
            assert total(daemons, origin) == 5


def test_a_snapshot_shows_why_it_crashed_and_on_what() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            with pytest.raises(ProcessFailed):
                daemons.send(origin, numbered(5, 0, origin=77))
            last = runs(runtime, origin, restarts=1).daemons[origin].last_crash
            explained = runtime.explain(daemon=origin)

    assert last is not None
    assert (last.exception, last.message) == ("ZeroDivisionError", "on purpose")
    assert (last.event_origin, last.event_sequence) == (77, 5)
    assert explained.rule == "as_wanted"
    (text,) = [reason.text for reason in explained.reasons if reason.kind == "last_crash"]
    assert "ZeroDivisionError" in text


def test_waits_grow_until_it_has_run_for_long_enough() -> None:
    growing = BackoffConfig(initial=10 * MILLISECOND, factor=3.0, jitter=0, crash_loop_threshold=100)
    gaps = []
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin, config=supervising(backoff=growing)) as runtime:
            for restarts in range(1, 5):
                crash(daemons, origin)
                state = runs(runtime, origin, restarts=restarts).daemons[origin]
                assert state.last_crash is not None
                assert state.started_at is not None
                gaps.append((state.started_at - state.last_crash.at) / MILLISECOND)

    for gap, least in zip(gaps, (10, 30, 90, 270), strict=True):
        # Both times are cut to milliseconds.
        assert least - 1 <= gap < 10_000, gaps


def test_too_many_crashes_are_a_crash_loop_that_is_explained() -> None:
    loops = BackoffConfig(initial=MILLISECOND, jitter=0, crash_loop_threshold=3, crash_loop_cooldown=NEVER)
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin, config=supervising(backoff=loops)) as runtime:
            for restarts in (1, 2):
                crash(daemons, origin)
                runs(runtime, origin, restarts=restarts)
            crash(daemons, origin)
            after = seen(runtime, lambda s: isinstance(s.daemons[origin].restart_state, CrashLooping))
            state = after.daemons[origin].restart_state
            assert isinstance(state, CrashLooping)
            assert state.until - after.published_at > NEVER / 2
            explained = runtime.explain(daemon=origin)
            assert explained.rule == "crash_loop"
            assert any(reason.until == state.until for reason in explained.reasons)
            with pytest.raises(SendTimeout) as late:
                daemons.send(origin, ONE, timeout=50 * MILLISECOND)
            event = late.value.event
        # Nobody starts it again, so nobody waits for that: it goes on by itself, with what waited.
        assert daemons.send(origin, event).processed == 1
        assert total(daemons, origin) == 2


def test_a_stop_and_a_start_forget_a_crash_loop() -> None:
    loops = BackoffConfig(initial=NEVER, jitter=0, maximum=NEVER)
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin, config=supervising(backoff=loops)) as runtime:
            crash(daemons, origin)
            seen(runtime, lambda s: isinstance(s.daemons[origin].restart_state, BackingOff))
            runtime.set_intent(origin, DaemonIntent.STOP)
            # Without supervision it is rebuilt, and then stopped as wanted.
            eventually(lambda: not daemons.daemon_registry().contains(origin))
            seen(runtime, lambda s: s.daemons[origin].restart_state == Idle() and not s.in_flight)
            runtime.set_intent(origin, DaemonIntent.RUN)
            runs(runtime, origin)
            assert total(daemons, origin) == 1


def test_two_seeds_spread_restarts_and_one_seed_repeats_them() -> None:
    def waits(seed: int) -> list[float]:
        config = MeshOsConfig(
            seed=seed, tick_interval=NEVER, backoff=BackoffConfig(initial=NEVER, jitter=1.0, maximum=NEVER)
        )
        found = []
        with node(counter=Counter) as daemons:
            origins = [
                daemons.spawn("counter", Identity.from_seed(bytes([number]) * 32)).origin_hash for number in range(3)
            ]
            with supervised(daemons, *origins, config=config) as runtime:
                for origin in origins:
                    crash(daemons, origin)
                    state = seen(
                        runtime,
                        lambda s, origin=origin: isinstance(s.daemons[origin].restart_state, BackingOff),  # type: ignore[misc]
                    ).daemons[origin]
                    assert isinstance(state.restart_state, BackingOff)
                    assert state.last_crash is not None
                    found.append((state.restart_state.until - state.last_crash.at) / MILLISECOND)
        return found

    first = waits(1)
    assert len(set(first)) == 3
    assert waits(1) == first
    assert waits(2) != first


def test_a_start_that_fails_is_a_failure_and_is_tried_again() -> None:
    broken = [True]

    class Fussy(Counter):
        name = "fussy"

        def restore(self, state: bytes) -> None:
            if broken.pop():
                raise OSError("no disk")
            super().restore(state)

    with node(fussy=Fussy) as daemons:
        origin = daemons.spawn("fussy", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            daemons.send(origin, ONE)
            broken += [False, True, True]
            crash(daemons, origin)
            after = runs(runtime, origin, restarts=1)
            assert total(daemons, origin) == 2

    assert any("no disk" in reason for reason in reasons(after, "action"))
    assert broken == [True]


# ---------------------------------------------------------------- the dispatcher by itself


def test_it_may_be_called_by_hand_and_twice_is_as_once() -> None:
    with node(counter=Counter) as daemons:
        dispatcher = ComputeDispatcher(daemons)
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        daemons.send(origin, ONE)
        stop = StopDaemon(DaemonRef(origin), "by hand", NOON + timedelta(days=36500))
        for _ in range(2):
            dispatcher.dispatch(stop)
            assert not daemons.daemon_registry().contains(origin)
        for _ in range(2):
            dispatcher.dispatch(StartDaemon(DaemonRef(origin)))
        assert total(daemons, origin) == 2
        for nothing in (
            ApplyBackoff(DaemonRef(origin), NOON),
            MarkAvoid(3, "slow", NOON),
            CommitMaintenanceTransition(1, Maintenance(NOON)),
        ):
            assert dispatcher.dispatch(nothing) is None  # type: ignore[func-returns-value]
        for action, text in (
            (StartDaemon(DaemonRef(1)), "knows nothing"),
            (DropReplica(7), "no replicated chains"),
        ):
            with pytest.raises(DispatchError) as caught:
                dispatcher.dispatch(action)
            assert text in caught.value.reason
            assert caught.value.retry_after is None
        with pytest.raises(TypeError):
            dispatcher.dispatch("start")  # type: ignore[arg-type]
        assert dispatcher.node_id() == daemons.mesh().node_id
        assert dispatcher.daemon_registry() is daemons.daemon_registry()


def test_it_acts_on_a_runtime_and_says_when_that_is_over() -> None:
    with pytest.raises(TypeError):
        ComputeDispatcher(7)  # type: ignore[arg-type]
    daemons = DaemonRuntime(Mesh.local())
    dispatcher = ComputeDispatcher(daemons)
    daemons.start()
    daemons.shutdown()
    with pytest.raises(DispatchError) as caught:
        dispatcher.dispatch(StartDaemon(DaemonRef(1)))
    assert ShuttingDown().kind.replace("_", " ") in caught.value.reason.lower()


def test_actions_about_chains_are_failures_that_say_so() -> None:
    with node() as daemons, supervised(daemons) as runtime:
        here = daemons.mesh().node_id
        runtime.handle().publish_many([PlacementIntent(7, 2), ReplicaLeaderUpdate(7, here, 1)])
        after = seen(runtime, lambda s: bool(reasons(s, "action")))
        assert "no replicated chains" in reasons(after, "action")[0]


def test_a_daemon_may_ask_its_own_loop_and_not_wait_for_itself() -> None:
    runtimes: list[MeshOsRuntime] = []
    done: list[str] = []

    class Asks(MeshDaemon):
        name = "asks"

        def process(self, event: CausalEvent) -> Iterable[bytes]:
            (runtime,) = runtimes
            me = runtime.daemon_handle(int.from_bytes(event.payload, "little"))
            calls: list[Callable[[], object]] = [
                runtime.shutdown,
                me.graceful_shutdown,
                lambda: runtime.snapshot_reader().wait_for(lambda _: False, timeout=None),
            ]
            for call in calls:
                with pytest.raises(ReentrantCallError):
                    call()
            assert me.metadata.daemon.id == me.daemon.id
            me.log(LogLevel.INFO, "from inside")
            runtime.handle().publish(DaemonIntentUpdate(me.daemon, DaemonIntent.RUN))
            done.append("fine")
            return []

    with node(asks=Asks) as daemons:
        origin = daemons.spawn("asks", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            runtimes.append(runtime)
            daemons.send(origin, origin.to_bytes(8, "little"))
            assert [line.message for line in runtime.logs()] == ["from inside"]
    assert done == ["fine"]


def test_a_supervised_daemon_is_let_go_with_its_runtime() -> None:
    class Known(Counter):
        name = "known"
        runtime: object = None

    instances: list[weakref.ref[Known]] = []

    def make() -> Known:
        known = Known()
        instances.append(weakref.ref(known))
        return known

    def run() -> None:
        with node(known=make) as daemons:
            origin = daemons.spawn("known", Identity.generate()).origin_hash
            with supervised(daemons, origin) as runtime:
                daemons.with_daemon(origin, Known, lambda daemon: setattr(daemon, "runtime", runtime))
                crash(daemons, origin)
                runs(runtime, origin, restarts=1)

    run()
    eventually(lambda: gc.collect() >= 0 and all(instance() is None for instance in instances))
    assert len(instances) >= 2


def test_many_daemons_crash_at_once_and_none_is_lost() -> None:
    with node(counter=Counter) as daemons:
        origins = [daemons.spawn("counter", Identity.generate()).origin_hash for _ in range(50)]

        def crash_all(part: list[int]) -> None:
            for origin in part:
                crash(daemons, origin)

        with supervised(daemons, *origins) as runtime:
            with (
                in_thread(lambda: crash_all(origins[:25])) as one,
                in_thread(lambda: crash_all(origins[25:])) as two,
            ):
                one.outcome()
                two.outcome()
            for origin in origins:
                runs(runtime, origin, restarts=1)
            assert [total(daemons, origin) for origin in origins] == [1] * 50


def test_a_loop_joins_and_sees_what_is_there_already() -> None:
    with node(counter=Counter, echo=Echo) as daemons:
        origins = {daemons.spawn(kind, Identity.generate()).origin_hash for kind in ("counter", "echo")}
        with supervised(daemons) as runtime:
            assert set(runtime.snapshot().daemons) == origins
            assert {state.lifecycle for state in runtime.snapshot().daemons.values()} == {"running"}
