"""Waiting for a behaviour loop: nobody waits for ever, for itself, or where it must not wait."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from types import FrameType

import pytest

from daemons import PATIENCE, eventually
from meshos import (
    CausalEvent,
    ComputeDispatcher,
    DaemonIntent,
    DaemonRef,
    DaemonRuntime,
    Identity,
    Mesh,
    MeshDaemon,
    MeshOsConfig,
    MeshOsRuntime,
)
from meshos import runtime as runtime_module
from meshos.control import DaemonControl, Shutdown
from meshos.dispatch import ActionDispatcher, LoggingDispatcher, MeshOsAction
from meshos.errors import (
    LoopClosed,
    QueueFull,
    ReentrantCallError,
    RuntimeShutdownError,
    StaleDaemon,
    WaitTimeout,
)
from meshos.events import DaemonIntentUpdate, LogLevel, LogLine
from meshos.runtime import MaintenanceConfig

CONFIG = MeshOsConfig(this_node=1, tick_interval=timedelta(milliseconds=20))
WANTED = DaemonIntentUpdate(DaemonRef(42, "ingest"), DaemonIntent.RUN)
SECONDS = timedelta(seconds=PATIENCE)


class Hangs(ActionDispatcher):
    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()

    def dispatch(self, action: MeshOsAction, /) -> None:
        self.inside.set()
        self.go_on.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs the signals of Unix")
def test_the_handler_of_a_signal_may_shut_down_what_is_being_shut_down() -> None:
    dispatcher = Hangs()
    runtime = MeshOsRuntime.start(CONFIG, dispatcher)
    runtime.handle().publish(WANTED)
    assert dispatcher.inside.wait(PATIENCE)
    kinds: list[str] = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        with pytest.raises(RuntimeShutdownError) as late:
            runtime.shutdown_with_timeout(timedelta(milliseconds=10))
        kinds.append(late.value.kind)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(RuntimeShutdownError) as late:
            runtime.shutdown_with_timeout(SECONDS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        dispatcher.go_on.set()

    assert kinds == ["executor_timeout"]
    assert late.value.kind == "executor_timeout"


def calls(runtime: MeshOsRuntime, origin: int) -> dict[str, Callable[[], object]]:
    """Everything of a runtime that may wait."""
    reader = runtime.snapshot_reader()
    return {
        "set_intent": lambda: runtime.set_intent(origin, DaemonIntent.RUN),
        "explain": lambda: runtime.explain(daemon=origin),
        "wait_changed": lambda: reader.wait_changed(10**9, timeout=timedelta(0)),
        "wait_for": lambda: reader.wait_for(lambda _: False, timeout=timedelta(0)),
        "controls": lambda: runtime.daemon_handle(origin).controls().receive(timeout=timedelta(0)),
        "graceful_shutdown": lambda: runtime.daemon_handle(origin).graceful_shutdown(timedelta(0)),
        "shutdown": runtime.shutdown,
    }


def test_a_daemon_may_not_wait_for_the_loop_from_inside() -> None:
    refused: dict[str, bool] = {}

    class Asks(MeshDaemon):
        name = "asks"

        def process(self, event: CausalEvent) -> None:
            assert event.sequence
            for name, call in calls(runtime, origin).items():
                try:
                    call()
                except ReentrantCallError:
                    refused[name] = True
            runtime.handle().publish(WANTED)
            assert runtime.snapshot().this_node

    with DaemonRuntime(Mesh.local()) as daemons:
        daemons.register_factory("asks", Asks)
        daemons.start()
        origin = daemons.spawn("asks", Identity.generate()).origin_hash
        with MeshOsRuntime.start(MeshOsConfig(), ComputeDispatcher(daemons)) as runtime:
            daemons.send(origin, b"now")
            assert set(refused) == set(calls(runtime, origin))


class Hears(MeshDaemon):
    """Remembers what it is told."""

    name = "hears"

    def __init__(self) -> None:
        self.controls: list[DaemonControl] = []

    def process(self, event: CausalEvent) -> None: ...

    def on_control(self, control: DaemonControl) -> None:
        self.controls.append(control)


def test_a_daemon_that_is_seen_off_is_given_no_more_time_than_was_said() -> None:
    daemon = Hears()
    with DaemonRuntime(Mesh.local()) as daemons:
        daemons.register_factory("hears", lambda: daemon)
        daemons.start()
        origin = daemons.spawn("hears", Identity.generate()).origin_hash
        with MeshOsRuntime.start(MeshOsConfig(), ComputeDispatcher(daemons)) as runtime:
            runtime.set_intent(origin, DaemonIntent.RUN)
            runtime.daemon_handle(origin).graceful_shutdown(timedelta(seconds=7))
            assert daemons.daemon_count() == 0

    assert daemon.controls
    for control in daemon.controls:
        assert isinstance(control, Shutdown)
        assert control.grace <= timedelta(seconds=7)


def test_a_daemon_that_is_not_here_at_the_moment_is_seen_off_all_the_same() -> None:
    with DaemonRuntime(Mesh.local()) as daemons:
        daemons.register_factory("hears", Hears)
        daemons.start()
        origin = daemons.spawn("hears", Identity.generate()).origin_hash
        with MeshOsRuntime.start(MeshOsConfig(), ComputeDispatcher(daemons)) as runtime:
            handle = runtime.daemon_handle(origin)
            daemons.stop(origin)
            handle.graceful_shutdown(timedelta(seconds=5))
            runtime.snapshot_reader().wait_for(lambda s: s.daemons[origin].intent is DaemonIntent.STOP, timeout=SECONDS)
        with pytest.raises(LoopClosed):
            runtime.explain(daemon=origin)


class Counts(MeshDaemon):
    """Counts events; one of them takes as long as a test wants."""

    name = "counts"
    inside = threading.Event()
    go_on = threading.Event()

    def __init__(self) -> None:
        self.total = 0

    def process(self, event: CausalEvent) -> None:
        if event.payload == b"slow":
            self.inside.set()
            self.go_on.wait(PATIENCE)
        self.total += 1

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, state: bytes) -> None:
        self.total = int(state)


def test_what_was_acknowledged_survives_a_stop_by_force_on_an_operators_wish() -> None:
    config = MeshOsConfig(maintenance=MaintenanceConfig(stop_grace=timedelta(milliseconds=30)))
    Counts.inside.clear()
    Counts.go_on.clear()
    with DaemonRuntime(Mesh.local()) as daemons:
        daemons.register_factory("counts", Counts)
        daemons.start()
        origin = daemons.spawn("counts", Identity.generate()).origin_hash
        with MeshOsRuntime.start(config, ComputeDispatcher(daemons)) as runtime:
            seen = runtime.snapshot_reader().wait_for
            runtime.set_intent(origin, DaemonIntent.RUN)
            for _ in range(3):
                daemons.send(origin, b"quick")
            errors: list[BaseException] = []

            def send() -> None:
                try:
                    daemons.send(origin, b"slow")
                except StaleDaemon as error:
                    errors.append(error)

            sender = threading.Thread(target=send)
            sender.start()
            assert Counts.inside.wait(PATIENCE)
            runtime.set_intent(origin, DaemonIntent.STOP)
            seen(lambda s: s.daemons[origin].lifecycle == "stopped", timeout=SECONDS)
            runtime.set_intent(origin, DaemonIntent.RUN)
            seen(lambda s: s.daemons[origin].lifecycle == "running", timeout=SECONDS)
            Counts.go_on.set()
            sender.join(PATIENCE)

            assert [type(error) for error in errors] == [StaleDaemon]
            assert daemons.with_daemon(origin, Counts, lambda daemon: daemon.total) == 3
            assert runtime.snapshot().recent_failures == ()


def wakes() -> int:
    """How many wait for something of a loop on an event loop."""
    gc.collect()
    return sum(1 for each in gc.get_objects() if isinstance(each, partial) and each.func is runtime_module._wake)


def test_a_wait_that_was_given_up_leaves_nothing() -> None:
    async def main(runtime: MeshOsRuntime, origin: int) -> None:
        before = wakes()
        with runtime.daemon_handle(origin).controls() as controls:
            for _ in range(20):
                with pytest.raises(WaitTimeout):
                    await controls.receive_async(timeout=timedelta(milliseconds=1))
        for _ in range(20):
            with pytest.raises(WaitTimeout):
                await runtime.snapshot_reader().wait_changed_async(10**9, timeout=timedelta(milliseconds=1))
        assert wakes() == before

    with DaemonRuntime(Mesh.local()) as daemons:
        daemons.register_factory("hears", Hears)
        daemons.start()
        origin = daemons.spawn("hears", Identity.generate()).origin_hash
        with MeshOsRuntime.start(MeshOsConfig(), ComputeDispatcher(daemons)) as runtime:
            asyncio.run(main(runtime, origin))


def test_who_awaits_a_snapshot_is_woken_while_every_lane_hangs() -> None:
    """32 callbacks that hang leave no callback lane."""
    release = threading.Event()
    inside = threading.Semaphore(0)

    class Probe:
        def rtt_samples(self) -> list[tuple[int, timedelta]]:
            inside.release()
            release.wait(PATIENCE)
            return []

    async def main(runtime: MeshOsRuntime) -> None:
        generation = runtime.snapshot().generation
        changed = asyncio.ensure_future(
            runtime.snapshot_reader().wait_for_async(lambda s: 42 in s.daemons, timeout=SECONDS)
        )
        await asyncio.sleep(0)
        runtime.handle().publish(WANTED)
        assert (await changed).generation > generation

    with MeshOsRuntime.start(CONFIG, LoggingDispatcher()) as runtime:
        for _ in range(40):
            runtime.probe_registry().add_locality_probe(Probe())  # type: ignore[arg-type]
        for _ in range(32):
            assert inside.acquire(timeout=PATIENCE)
        try:
            asyncio.run(main(runtime))
        finally:
            release.set()


def test_a_batch_that_is_refused_leaves_no_line() -> None:
    config = MeshOsConfig(this_node=1, event_queue_capacity=1)
    line = LogLine(LogLevel.INFO, "of the batch")
    runtime = MeshOsRuntime.start(config, LoggingDispatcher())
    handle = runtime.handle()
    handle.publish_many([line, WANTED])
    eventually(lambda: len(runtime.logs()) == 1)
    runtime.shutdown()
    with pytest.raises((LoopClosed, QueueFull)):
        handle.publish_many([line, WANTED])
    assert len(runtime.logs()) == 1


def test_an_interpreter_that_ends_without_a_shutdown_says_nothing() -> None:
    program = (
        "from meshos import MeshOsConfig, MeshOsRuntime\n"
        "from meshos.dispatch import LoggingDispatcher\n"
        "runtime = MeshOsRuntime.start(MeshOsConfig(this_node=1), LoggingDispatcher())\n"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
