"""Where events go in and snapshots come out of a behaviour loop: order, bounds, waits, interrupts."""

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from daemons import PATIENCE, Echo, in_thread, node
from loops import CONFIG, INGEST, NEVER, TICK, TIMEOUT, WANTED, Calls, command, seen, wanted
from meshos import DaemonIntent, DaemonRef, Identity, MeshOsConfig, MeshOsRuntime
from meshos.dispatch import ComputeDispatcher
from meshos.errors import (
    LoopClosed,
    QueueFull,
    WaitTimeout,
)
from meshos.events import (
    DaemonIntentUpdate,
    LogLevel,
    LogLine,
    PlacementIntent,
    RestartAllDaemons,
    RttSample,
)
from meshos.probes import HealthProbe, NodeHealth
from meshos.status import MeshOsSnapshot

HERE = __file__.rpartition("/")[0]


# ---------------------------------------------------------------- events in


def test_events_are_folded_in_order() -> None:
    intents = [DaemonIntent.RUN, DaemonIntent.STOP] * 20
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        handle = runtime.handle()
        for intent in intents:
            handle.publish(DaemonIntentUpdate(INGEST, intent))
        handle.publish_many([DaemonIntentUpdate(INGEST, intent) for intent in intents])
        handle.try_publish(DaemonIntentUpdate(DaemonRef(1), DaemonIntent.STOP))
        after = seen(runtime, lambda s: 1 in s.daemons)

    assert after.daemons[42].intent is DaemonIntent.STOP


def test_threads_may_publish_at_once() -> None:
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        barrier = threading.Barrier(4)

        def publish(number: int) -> None:
            barrier.wait(PATIENCE)
            for turn in range(100):
                runtime.handle().publish(PlacementIntent(number * 1000 + turn + 1, 0))

        with (
            in_thread(lambda: publish(0)),
            in_thread(lambda: publish(1)),
            in_thread(lambda: publish(2)),
            in_thread(lambda: publish(3)),
        ):
            seen(runtime, lambda s: len(s.replicas) == 400)


@contextmanager
def busy(capacity: int) -> Iterator[MeshOsRuntime]:
    """Give a runtime whose loop folds for some tenths of a second: commands that look at each of many daemons."""
    config = MeshOsConfig(this_node=1, tick_interval=TICK, event_queue_capacity=capacity, authority="open")
    with MeshOsRuntime.start(config, Calls()) as runtime:
        handle = runtime.handle()
        handle.publish_many(
            [DaemonIntentUpdate(DaemonRef(number), DaemonIntent.STOP) for number in range(1000, 11_000)]
        )
        seen(runtime, lambda s: len(s.daemons) == 10_000)
        handle.publish_many([*[command(RestartAllDaemons(1))] * 8000, wanted(1)])
        # There is space again as soon as the loop has begun with all that.
        handle.publish(wanted(2), timeout=TIMEOUT)
        yield runtime


def test_a_full_queue_refuses_and_counts_and_waiting_helps() -> None:
    with busy(1) as runtime:
        handle = runtime.handle()
        with pytest.raises(QueueFull) as caught:
            handle.try_publish(wanted(3))
        assert (caught.value.capacity, caught.value.retryable) == (1, True)
        with pytest.raises(QueueFull):
            handle.publish(wanted(3), timeout=timedelta(milliseconds=1))
        with pytest.raises(QueueFull):
            handle.publish_many([wanted(3), wanted(4), wanted(5)], timeout=timedelta(0))
        # Samples have a lane of their own, which a flood of events does not fill.
        handle.try_publish(RttSample(2, TICK))
        # This waits until the lane is empty.
        handle.publish_many([wanted(6), wanted(7)], timeout=TIMEOUT)
        after = seen(runtime, lambda s: {6, 7} <= set(s.daemons) and s.metrics.refused_events == 5)

    assert {number for number in after.daemons if number < 10} == {1, 2, 6, 7}
    assert 2 in after.peers


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        for bad in (7, None, "event", WANTED.daemon):
            with pytest.raises(TypeError):
                runtime.handle().publish_many([wanted(1), bad, wanted(2)])  # type: ignore[list-item]
        runtime.handle().publish_many([])
        runtime.handle().publish_many((wanted(3),))
        runtime.handle().publish_many(iter([wanted(4)]))  # type: ignore[arg-type]
        after = seen(runtime, lambda s: {3, 4} <= set(s.daemons))

    assert set(after.daemons) == {3, 4}


def test_nothing_goes_in_after_the_end() -> None:
    with node(echo=Echo) as daemons:
        origin = daemons.spawn("echo", Identity.generate()).origin_hash
        runtime = MeshOsRuntime.start(MeshOsConfig(tick_interval=TICK), ComputeDispatcher(daemons))
        author = runtime.daemon_handle(origin)
        runtime.shutdown()
        calls: list[Callable[[], object]] = [
            lambda: runtime.handle().publish(WANTED),
            lambda: runtime.handle().publish(WANTED, timeout=None),
            lambda: runtime.handle().publish(LogLine(LogLevel.INFO, "late")),
            lambda: runtime.handle().publish_many([WANTED]),
            lambda: runtime.handle().try_publish(WANTED),
            lambda: asyncio.run(runtime.handle().publish_async(WANTED)),
            lambda: asyncio.run(runtime.handle().publish_many_async([WANTED])),
            lambda: runtime.set_intent(origin, DaemonIntent.RUN),
            lambda: runtime.explain(daemon=origin),
            lambda: author.log(LogLevel.INFO, "late"),
        ]
        for call in calls:
            with pytest.raises(LoopClosed):
                call()
        assert runtime.snapshot().daemons[origin].lifecycle == "running"
        assert runtime.logs() == ()
        assert runtime.executor_stats().failed == 0
        assert runtime.dropped_actions() == 0


def test_an_intent_is_folded_when_the_call_returns() -> None:
    with node(echo=Echo) as daemons:
        origin = daemons.spawn("echo", Identity.generate()).origin_hash
        config = MeshOsConfig(tick_interval=NEVER)
        with MeshOsRuntime.start(config, ComputeDispatcher(daemons)) as runtime:
            for intent in (DaemonIntent.RUN, DaemonIntent.STOP):
                runtime.set_intent(origin, intent)
                assert runtime.snapshot().daemons[origin].intent is intent
            runtime.set_intent(origin, DaemonIntent.RUN, node=5)
            pinned = runtime.snapshot().daemons[origin]
            assert pinned.intent is DaemonIntent.RUN
            assert runtime.explain(daemon=origin).desired == "run on node 5"
            assert pinned.ref.name == "echo"


# ---------------------------------------------------------------- snapshots out


def test_a_reader_waits_for_what_it_wants() -> None:
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        reader = runtime.snapshot_reader()
        first = reader.read()
        assert reader.wait_for(lambda _: True, timeout=timedelta(0)) == first
        with in_thread(lambda: reader.wait_for(lambda s: 42 in s.daemons, timeout=TIMEOUT)) as waiting:
            runtime.handle().publish(WANTED)
            found = waiting.outcome()
        assert isinstance(found, MeshOsSnapshot)
        assert found.generation > first.generation
        assert reader.wait_changed(first.generation, timeout=TIMEOUT).generation > first.generation


def test_a_wait_ends_when_time_is_up() -> None:
    short = timedelta(milliseconds=5)
    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        reader = runtime.snapshot_reader()
        newest = reader.read().generation
        calls: list[Callable[[], object]] = [
            lambda: reader.wait_for(lambda _: False, timeout=short),
            lambda: reader.wait_changed(newest + 1000, timeout=short),
            lambda: asyncio.run(reader.wait_for_async(lambda _: False, timeout=short)),
            lambda: asyncio.run(reader.wait_changed_async(newest + 1000, timeout=short)),
        ]
        for call in calls:
            with pytest.raises(WaitTimeout) as caught:
                call()
            assert caught.value.timeout == short


def test_the_end_wakes_who_waits_and_the_last_snapshot_stays() -> None:
    runtime = MeshOsRuntime.start(CONFIG, Calls())
    reader = runtime.snapshot_reader()
    waits = threading.Event()

    def never(_: MeshOsSnapshot) -> bool:
        waits.set()
        return False

    with in_thread(lambda: reader.wait_for(never, timeout=None)) as waiting:
        assert waits.wait(PATIENCE)
        runtime.shutdown()
        with pytest.raises(LoopClosed):
            waiting.outcome()
    last = runtime.snapshot()
    assert reader.wait_for(lambda _: True, timeout=None) == last
    assert reader.wait_changed(0, timeout=None) == last
    with pytest.raises(LoopClosed):
        reader.wait_changed(last.generation, timeout=None)
    with pytest.raises(LoopClosed):
        asyncio.run(reader.wait_for_async(lambda _: False, timeout=None))


def test_what_a_predicate_raises_is_the_callers() -> None:
    def wrong(_: MeshOsSnapshot) -> bool:
        raise KeyError("on purpose")

    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        with pytest.raises(KeyError):
            runtime.snapshot_reader().wait_for(wrong, timeout=TIMEOUT)
        with pytest.raises(KeyError):
            asyncio.run(runtime.snapshot_reader().wait_for_async(wrong, timeout=TIMEOUT))


def test_a_reader_waits_on_an_event_loop() -> None:
    async def main() -> None:
        async with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
            reader = runtime.snapshot_reader()
            waits = [
                asyncio.ensure_future(reader.wait_for_async(lambda s, n=n: n in s.daemons, timeout=TIMEOUT))  # type: ignore[misc]
                for n in (1, 2, 3)
            ]
            cancelled = asyncio.ensure_future(reader.wait_for_async(lambda _: False, timeout=None))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            for number in (3, 1, 2):
                await runtime.handle().publish_async(wanted(number))
            await runtime.handle().publish_many_async([wanted(4), wanted(5)])
            await asyncio.gather(*waits)
            assert 5 in (await reader.wait_for_async(lambda s: 5 in s.daemons, timeout=TIMEOUT)).daemons
            await runtime.set_intent_async(6, DaemonIntent.STOP)
            assert 6 in runtime.snapshot().daemons

    asyncio.run(main())


def test_an_idle_loop_publishes_nothing() -> None:
    ticks = threading.Semaphore(0)

    class Quiet(HealthProbe):
        def health_samples(self) -> Iterable[tuple[int, NodeHealth]]:
            ticks.release()
            return [(2, NodeHealth.HEALTHY)]

    with MeshOsRuntime.start(CONFIG, Calls()) as runtime:
        runtime.add_health_probe(Quiet())
        seen(runtime, lambda s: 2 in s.peers)
        for _ in range(3):
            assert ticks.acquire(timeout=PATIENCE)
        before = runtime.snapshot().generation
        for _ in range(5):
            assert ticks.acquire(timeout=PATIENCE)
        assert runtime.snapshot().generation == before


INTERRUPTED = """
import os, signal, threading, time
from datetime import timedelta
from loops import command, CONFIG, Calls, wanted
from meshos import MeshOsConfig, MeshOsRuntime
from meshos.events import PlacementIntent

def interrupted(call):
    struck = []

    def strike():
        # Long enough for the main thread to be in its wait; the time that counts begins after it.
        threading.Event().wait(0.1)
        struck.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        call()
    except KeyboardInterrupt:
        took = time.monotonic() - struck[0]
        thread.join()
        return took
    raise AssertionError("not interrupted")

runtime = MeshOsRuntime.start(CONFIG, Calls())
reader = runtime.snapshot_reader()
"""


@pytest.mark.parametrize(
    "call",
    [
        "lambda: reader.wait_for(lambda _: False, timeout=None)",
        "lambda: reader.wait_changed(10**9, timeout=None)",
        "lambda: list(runtime.changes())",
        "lambda: asyncio.run(reader.wait_for_async(lambda _: False, timeout=None))",
    ],
)
def test_ctrl_c_ends_a_wait_and_the_loop_goes_on(call: str) -> None:
    body = INTERRUPTED + textwrap.dedent(
        f"""
        import asyncio
        took = interrupted({call.replace("runtime.changes()", "reader.changes()")})
        assert took < 0.2, took
        runtime.handle().publish(wanted(1))
        reader.wait_for(lambda s: 1 in s.daemons, timeout=timedelta(seconds=10))
        runtime.shutdown()
        print("fine")
        """
    )
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", body]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")
