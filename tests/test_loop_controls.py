"""Controls of a running loop: what daemons, sinks, dispatchers and authors of daemons hear of drains and pressure."""

import asyncio
import threading
from datetime import timedelta

import pytest

from daemons import PATIENCE, Counter, Gated, event, eventually, in_thread, node, spawned
from loops import NEVER, ONE, TICK, TIMEOUT, Calls, Recorder, Seen, Sink, command, reasons, seen, supervised, wanted
from meshos import DaemonIntent, Identity, MeshOsConfig, MeshOsRuntime
from meshos.capability import CapabilitySet
from meshos.control import (
    BackpressureOff,
    BackpressureOn,
    ControlSink,
    DaemonControl,
    DrainStart,
    MeshOsControl,
    Resume,
    Shutdown,
)
from meshos.daemon import DaemonHost, DaemonRegistry
from meshos.dispatch import BackpressureChange, MeshOsAction
from meshos.errors import DaemonNotFound, LoopClosed, WaitTimeout
from meshos.events import Crashed, DaemonLifecycle, Drain, EnterMaintenance, ExitMaintenance
from meshos.runtime import BackpressureConfig, MaintenanceConfig

MINUTE = timedelta(minutes=1)
SHORT = timedelta(milliseconds=5)


class Hears(Counter):
    """Keeps the controls that it hears."""

    name = "hears"

    def __init__(self) -> None:
        super().__init__()
        self.heard = Seen()

    def on_control(self, control: DaemonControl) -> None:
        self.heard.add(control)


# ---------------------------------------------------------------- pressure


class Jam(Recorder):
    """Holds every action until it is let go, so that the queue fills."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        super().__init__(self.hold)

    def hold(self, _: MeshOsAction) -> None:
        assert self.go_on.wait(PATIENCE)


PRESSED = MeshOsConfig(
    this_node=1,
    tick_interval=TICK,
    authority="open",
    action_queue_capacity=20,
    backpressure=BackpressureConfig(cluster_backpressure_threshold=10, cluster_backpressure_release=2),
)
JAM = [wanted(number) for number in range(1, 31)]
"""More than run at once, and so many that the rest is above the threshold."""


def released(heard: object) -> bool:
    return isinstance(heard, BackpressureOff) or (isinstance(heard, BackpressureChange) and not heard.asserted)


def test_pressure_reaches_daemons_sink_and_dispatcher_and_goes_again() -> None:
    daemon, sink, jam, registry = Hears(), Sink(), Jam(), DaemonRegistry()
    registry.register(DaemonHost(daemon, Identity.generate()))
    with MeshOsRuntime.start(PRESSED, jam, daemon_registry=registry, control_sink=sink) as runtime:
        runtime.handle().publish_many(JAM)
        heard: list[Seen] = [daemon.heard, sink.seen, jam.edges]
        on = [each.first(1)[0] for each in heard]
        jam.go_on.set()
        for each in heard:
            each.until(lambda values: released(values[-1]))
        stats = runtime.executor_stats()

    assert isinstance(on[0], BackpressureOn)
    assert isinstance(on[1], BackpressureOn)
    assert isinstance(on[2], BackpressureChange)
    assert on[2].asserted
    assert 0 < on[1].level <= 1
    assert (stats.cluster_backpressure_asserts, stats.cluster_backpressure_releases) == (1, 1)
    assert stats.failed == 0


def test_a_full_queue_of_actions_drops_counts_and_makes_up_for_it() -> None:
    jam = Jam()
    with MeshOsRuntime.start(PRESSED, jam) as runtime:
        runtime.handle().publish_many([wanted(number) for number in range(1, 101)])
        seen(runtime, lambda s: s.metrics.dropped_actions > 0)
        assert runtime.dropped_actions() >= 100 - 16 - 20
        jam.go_on.set()
        dispatched = jam.actions.until(lambda values: len({action.daemon.id for action in values}) == 100)  # type: ignore[attr-defined]
        warnings = [line.message for line in runtime.logs() if "queue" in line.message]

    assert len(dispatched) == 100
    assert any("start_daemon" in warning for warning in warnings)


def test_a_shutdown_is_heard_behind_any_pressure() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Busy(Hears):
        def process(self, event: object) -> list[bytes]:
            entered.set()
            assert leave.wait(PATIENCE)
            return []

    daemon = Busy()
    with node() as daemons:
        origin = spawned(daemons, daemon)
        with MeshOsRuntime.start(
            MeshOsConfig(tick_interval=TICK, this_node=1, authority="open"),
            Calls(),
            daemon_registry=daemons.daemon_registry(),
        ) as runtime:
            author = runtime.daemon_handle(origin)
            with (
                in_thread(lambda: daemons.deliver(origin, event(1))),
                in_thread(lambda: author.graceful_shutdown(TIMEOUT)),
            ):
                assert entered.wait(PATIENCE)
                seen(runtime, lambda s: origin in s.daemons and s.daemons[origin].intent is DaemonIntent.STOP)
                runtime.handle().publish_many([command(Drain(1, MINUTE)), command(ExitMaintenance(1))])
                seen(runtime, lambda s: s.audit_head_seq == 2)
                leave.set()
                heard = daemon.heard.first(1)
                runtime.daemon_registry().unregister(origin)

    assert isinstance(heard[0], Shutdown)


def test_a_hook_that_raises_is_a_failure_and_hears_the_next_edge() -> None:
    class Raises(Jam):
        def on_cluster_backpressure(self, change: BackpressureChange, /) -> None:
            super().on_cluster_backpressure(change)
            raise ValueError("on purpose")

    jam = Raises()
    # So much space that the level hardly moves: a hook that raises five times in a row is left alone.
    config = MeshOsConfig(
        this_node=1, tick_interval=TICK, action_queue_capacity=1000, backpressure=PRESSED.backpressure
    )
    with MeshOsRuntime.start(config, jam) as runtime:
        runtime.handle().publish_many(JAM)
        seen(runtime, lambda s: any("on purpose" in reason for reason in reasons(s, "callback")))
        jam.go_on.set()
        edges = jam.edges.until(lambda values: not values[-1].asserted)  # type: ignore[attr-defined]

    assert [edge.asserted for edge in edges] == [True, False]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- drains


def test_a_sink_that_hangs_delays_no_daemon_and_hears_all_in_order() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(ControlSink):
        def __init__(self) -> None:
            self.seen = Seen()

        def emit(self, control: MeshOsControl, /) -> None:
            entered.set()
            assert leave.wait(PATIENCE)
            self.seen.add(control)
            raise ValueError("on purpose")

    daemon, sink, registry = Hears(), Slow(), DaemonRegistry()
    registry.register(DaemonHost(daemon, Identity.generate()))
    config = MeshOsConfig(
        this_node=1,
        tick_interval=TICK,
        authority="open",
        maintenance=MaintenanceConfig(recovery_ramp_window=timedelta(0)),
    )
    with MeshOsRuntime.start(config, Recorder(), daemon_registry=registry, control_sink=sink) as runtime:
        runtime.handle().publish(command(EnterMaintenance(1, MINUTE)))
        assert entered.wait(PATIENCE)
        assert isinstance(daemon.heard.first(1)[0], DrainStart)
        runtime.handle().publish(command(EnterMaintenance(1, 2 * MINUTE)))
        runtime.handle().publish(command(ExitMaintenance(1)))
        daemon.heard.until(lambda values: isinstance(values[-1], Resume))
        assert sink.seen.values == []
        leave.set()
        controls = sink.seen.first(3)
        seen(runtime, lambda s: len(reasons(s, "callback")) == 3)

    assert [type(control) for control in controls] == [DrainStart, DrainStart, Resume]
    graces = [control.grace for control in controls if isinstance(control, DrainStart)]
    assert graces[0] <= MINUTE < graces[1] <= 2 * MINUTE


# ---------------------------------------------------------------- what authors of daemons hear


def test_an_author_hears_the_newest_of_each_sort_and_the_end() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            author = runtime.daemon_handle(origin)
            assert (author.daemon.id, author.daemon.name) == (origin, "counter")
            controls = author.controls()
            with pytest.raises(WaitTimeout) as caught:
                controls.receive(timeout=SHORT)
            assert caught.value.timeout == SHORT
            runtime.set_intent(origin, DaemonIntent.STOP)
            heard = list(controls)
            assert [type(control) for control in heard] == [Shutdown]
            with pytest.raises(LoopClosed):
                controls.receive(timeout=None)
            with pytest.raises(StopIteration):
                next(controls)
            # A daemon that is not there has nothing to say.
            assert list(author.controls()) == []
            with pytest.raises(DaemonNotFound):
                runtime.daemon_handle(origin)


def test_an_author_hears_drains_on_an_event_loop() -> None:
    async def main() -> None:
        with node(counter=Counter) as daemons:
            origin = daemons.spawn("counter", Identity.generate()).origin_hash
            config = MeshOsConfig(this_node=1, tick_interval=TICK, authority="open")
            runtime = MeshOsRuntime.start(config, Calls(), daemon_registry=daemons.daemon_registry())
            async with runtime, runtime.daemon_handle(origin).controls() as controls:
                with pytest.raises(WaitTimeout):
                    await controls.receive_async(timeout=SHORT)
                waiting = asyncio.ensure_future(anext(controls))
                await asyncio.sleep(0)
                await runtime.handle().publish_async(command(EnterMaintenance(1, MINUTE)))
                assert isinstance(await waiting, DrainStart)
                # A cancelled wait loses none.
                lost = asyncio.ensure_future(anext(controls))
                await asyncio.sleep(0)
                lost.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await lost
                await runtime.handle().publish_async(command(ExitMaintenance(1)))
                assert isinstance(await controls.receive_async(timeout=TIMEOUT), Resume)
                daemons.stop(origin)
                assert [control async for control in controls] == []

    asyncio.run(main())


def test_the_end_of_the_loop_ends_every_stream() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            one, two = runtime.daemon_handle(origin).controls(), runtime.daemon_handle(origin).controls()
            with in_thread(lambda: list(one)) as hearing:
                runtime.shutdown()
                assert hearing.outcome() == []
            assert list(two) == []


def test_two_streams_of_one_daemon_hear_the_same() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            streams = [runtime.daemon_handle(origin).controls() for _ in range(2)]
            runtime.set_intent(origin, DaemonIntent.STOP)
            assert [[type(control) for control in stream] for stream in streams] == [[Shutdown], [Shutdown]]


def test_a_daemon_that_starts_again_has_new_streams() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            author = runtime.daemon_handle(origin)
            old = author.controls()
            runtime.set_intent(origin, DaemonIntent.STOP)
            assert [type(control) for control in old] == [Shutdown]
            runtime.set_intent(origin, DaemonIntent.RUN)
            seen(runtime, lambda s: s.daemons[origin].lifecycle == "running")
            fresh = author.controls()
            with pytest.raises(WaitTimeout):
                fresh.receive(timeout=SHORT)
            assert list(old) == []


# ---------------------------------------------------------------- seeing a daemon off


def test_who_sees_a_daemon_off_returns_as_soon_as_it_is_gone() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            daemons.send(origin, ONE)
            author = runtime.daemon_handle(origin)
            author.graceful_shutdown(NEVER)
            assert not daemons.daemon_registry().contains(origin)
            gone = seen(runtime, lambda s: s.daemons[origin].lifecycle == "stopped")
            assert gone.daemons[origin].intent is DaemonIntent.STOP
            author.graceful_shutdown(NEVER)
            asyncio.run(author.graceful_shutdown_async(NEVER))


def test_a_daemon_that_does_not_leave_is_taken_out_after_the_grace() -> None:
    gated = Gated()
    with node() as daemons:
        origin = spawned(daemons, gated)
        with supervised(daemons, origin) as runtime:
            author = runtime.daemon_handle(origin)
            with in_thread(lambda: daemons.deliver(origin, event(1, b"block"))):
                assert gated.entered.wait(PATIENCE)
                asyncio.run(author.graceful_shutdown_async(SHORT))
                assert not daemons.daemon_registry().contains(origin)
                gated.leave.set()
            eventually(lambda: runtime.snapshot().daemons[origin].lifecycle == "stopped")


def test_a_daemon_of_a_registry_alone_is_told_and_taken_out() -> None:
    daemon, registry, identity = Hears(), DaemonRegistry(), Identity.generate()
    registry.register(DaemonHost(daemon, identity))
    config = MeshOsConfig(this_node=1, tick_interval=TICK)
    with MeshOsRuntime.start(config, Calls(), daemon_registry=registry) as runtime:
        author = runtime.daemon_handle(identity.origin_hash)
        author.graceful_shutdown(timedelta(milliseconds=50))
        assert isinstance(daemon.heard.first(1)[0], Shutdown)
        assert not registry.contains(identity.origin_hash)


def test_metadata_is_as_of_now() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons) as runtime:
            author = runtime.daemon_handle(origin)
            before = author.metadata
            assert (before.node_id, before.daemon) == (runtime.this_node(), author.daemon)
            runtime.handle().publish(command(EnterMaintenance(5)))
            seen(runtime, lambda s: 5 in s.peers)
            assert 5 in author.metadata.peers
            assert 5 not in before.peers


@pytest.mark.parametrize("wrong", [None, 5, "1 s", timedelta(-1)])
def test_a_wrong_grace_is_refused_and_nothing_is_told(wrong: object) -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            author = runtime.daemon_handle(origin)
            with pytest.raises((TypeError, ValueError)):
                author.graceful_shutdown(wrong)  # type: ignore[arg-type]
            assert runtime.snapshot().daemons[origin].intent is DaemonIntent.RUN
            assert daemons.daemon_registry().contains(origin)


def test_what_a_daemon_offers_is_in_the_snapshot_and_survives_its_crash() -> None:
    gpu, both = CapabilitySet(["hardware.gpu"]), CapabilitySet(["hardware.gpu", "software.cuda=12"], {"site": "eu"})
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            author = runtime.daemon_handle(origin)
            assert runtime.snapshot().daemons[origin].capabilities is None
            author.publish_capabilities(gpu)
            shown = seen(runtime, lambda s: s.daemons[origin].capabilities == gpu)
            author.publish_capabilities(gpu)
            author.publish_capabilities(both)
            assert seen(runtime, lambda s: s.daemons[origin].capabilities == both).generation > shown.generation
            runtime.handle().publish(DaemonLifecycle(author.daemon, Crashed("on purpose")))
            after = seen(runtime, lambda s: s.daemons[origin].last_crash is not None)
            assert after.daemons[origin].capabilities == both
            for wrong in (None, {"hardware.gpu"}, "hardware.gpu", CapabilitySet):
                with pytest.raises(TypeError, match="capabilities"):
                    author.publish_capabilities(wrong)  # type: ignore[arg-type]
        with pytest.raises(LoopClosed):
            author.publish_capabilities(gpu)
