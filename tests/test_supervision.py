"""Supervised daemons that are stopped, forgotten, given back: who is supervised, and what a stop leaves behind."""

import threading
from datetime import timedelta

import pytest

from daemons import PATIENCE, Counter, Gated, Running, event, node, spawned
from loops import BAD, ONE, crash, reasons, runs, seen, supervised, supervising, total
from meshos import (
    DaemonIntent,
    Identity,
)
from meshos.control import DaemonControl, Shutdown
from meshos.daemon import Degraded, Healthy, Unhealthy
from meshos.errors import ProcessFailed, StaleDaemon
from meshos.events import ForgetDaemon
from meshos.runtime import MaintenanceConfig

MILLISECOND = timedelta(milliseconds=1)


# ---------------------------------------------------------------- stops


class Told(Counter):
    """Keeps the controls that it hears, in a place that outlives the instance."""

    name = "told"
    heard: list[DaemonControl]

    def on_control(self, control: DaemonControl) -> None:
        self.heard.append(control)


def told() -> type[Told]:
    return type("Told", (Told,), {"heard": []})


def test_a_daemon_that_shall_stop_is_told_and_leaves_a_state_to_start_from() -> None:
    kind = told()
    config = supervising(maintenance=MaintenanceConfig(stop_grace=timedelta(seconds=30)))
    with node(told=kind) as daemons:
        origin = daemons.spawn("told", Identity.generate()).origin_hash
        with supervised(daemons, origin, config=config) as runtime:
            daemons.send(origin, ONE)
            runtime.set_intent(origin, DaemonIntent.STOP)
            seen(runtime, lambda s: s.daemons[origin].lifecycle == "stopped")
            assert not daemons.daemon_registry().contains(origin)
            (shutdown,) = kind.heard
            runtime.set_intent(origin, DaemonIntent.RUN)
            assert runs(runtime, origin).daemons[origin].restarts == 0
            assert total(daemons, origin) == 2

    assert isinstance(shutdown, Shutdown)
    assert timedelta(seconds=20) < shutdown.grace <= timedelta(seconds=30)


def test_a_daemon_that_does_not_let_go_is_stopped_at_the_deadline() -> None:
    gated = Gated()
    config = supervising(maintenance=MaintenanceConfig(stop_grace=50 * MILLISECOND))
    with node() as daemons:
        origin = spawned(daemons, gated)
        with supervised(daemons, origin, config=config) as runtime:
            holder = Running(lambda: daemons.deliver(origin, event(1, b"block")))
            holder.thread.start()
            assert gated.entered.wait(PATIENCE)
            runtime.set_intent(origin, DaemonIntent.STOP)
            seen(runtime, lambda s: s.daemons[origin].lifecycle == "stopped")
            assert not daemons.daemon_registry().contains(origin)
            gated.leave.set()
            with pytest.raises(StaleDaemon):
                holder.outcome()


def test_a_daemon_that_hangs_in_on_control_is_stopped_at_the_deadline() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Deaf(Counter):
        name = "deaf"

        def on_control(self, control: DaemonControl) -> None:
            entered.set()
            assert leave.wait(PATIENCE)

    config = supervising(maintenance=MaintenanceConfig(stop_grace=50 * MILLISECOND))
    with node(deaf=Deaf) as daemons:
        origin = daemons.spawn("deaf", Identity.generate()).origin_hash
        with supervised(daemons, origin, config=config) as runtime:
            daemons.send(origin, ONE)
            runtime.set_intent(origin, DaemonIntent.STOP)
            assert entered.wait(PATIENCE)
            seen(runtime, lambda s: s.daemons[origin].lifecycle == "stopped")
            leave.set()
            runtime.set_intent(origin, DaemonIntent.RUN)
            runs(runtime, origin)
            assert total(daemons, origin) == 2


def test_a_pin_to_another_node_stops_it_here_and_back_again_starts_it() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        here = daemons.mesh().node_id
        with supervised(daemons, origin) as runtime:
            daemons.send(origin, ONE)
            runtime.set_intent(origin, DaemonIntent.RUN, node=here ^ 1)
            seen(runtime, lambda s: s.daemons[origin].lifecycle == "stopped")
            assert runtime.explain(daemon=origin).reasons[0].kind == "pinned_elsewhere"
            assert not daemons.daemon_registry().contains(origin)
            runtime.set_intent(origin, DaemonIntent.RUN, node=here)
            runs(runtime, origin)
            assert total(daemons, origin) == 2
            # Without a pin it may run anywhere, so also here.
            runtime.set_intent(origin, DaemonIntent.RUN)
            assert runtime.explain(daemon=origin).desired == "run"


# ---------------------------------------------------------------- who is supervised


def test_an_intent_said_before_the_spawn_holds_after_it() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as daemons, supervised(daemons, identity.origin_hash) as runtime:
        origin = identity.origin_hash
        unknown = seen(runtime, lambda s: len(s.recent_failures) > 0)
        assert "knows nothing" in unknown.recent_failures[0].reason
        assert daemons.spawn("counter", identity).origin_hash == origin
        runs(runtime, origin)
        daemons.send(origin, ONE)
        crash(daemons, origin)
        runs(runtime, origin, restarts=1)
        assert total(daemons, origin) == 2


def test_a_daemon_that_nobody_wants_is_as_it_was_without_a_loop() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons) as runtime:
            daemons.send(origin, ONE)
            crash(daemons, origin)
            after = seen(runtime, lambda s: s.daemons[origin].last_crash is not None).daemons[origin]
            # The state is what `process` left: nobody rebuilt it.
            assert total(daemons, origin) == 1_000_002
            assert (after.intent, after.lifecycle, after.restarts) == (None, "running", 0)
            assert runtime.explain(daemon=origin).rule == "no_intent"


def test_a_daemon_that_is_forgotten_is_supervised_no_more() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            runtime.handle().publish(ForgetDaemon(origin))
            seen(runtime, lambda s: s.daemons[origin].intent is None if origin in s.daemons else True)
            crash(daemons, origin)
            assert total(daemons, origin) == 1_000_001


def test_the_end_of_the_loop_gives_daemons_back_as_they_were() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin):
            daemons.send(origin, ONE)
        crash(daemons, origin)
        assert total(daemons, origin) == 1_000_002


def test_a_user_may_stop_what_the_loop_wants_to_run() -> None:
    """A user's stop keeps nothing to start from, so the loop says what it cannot do."""
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin) as runtime:
            daemons.send(origin, ONE)
            daemons.stop(origin)
            failed = seen(runtime, lambda s: bool(reasons(s, "action")))
            assert "not kept" in reasons(failed, "action")[0]


def test_what_daemons_say_of_themselves_reaches_the_snapshot() -> None:
    class Moody(Counter):
        name = "moody"
        mood: object = Healthy()
        load: float = 0.0

        def health(self) -> object:  # type: ignore[override]
            return self.mood

        def saturation(self) -> float:
            return self.load

    moody = Moody()
    with node() as daemons:
        origin = spawned(daemons, moody)
        with supervised(daemons, origin) as runtime:
            moody.mood, moody.load = Degraded("disk is full"), 0.75
            seen(
                runtime,
                lambda s: s.daemons[origin].health == Degraded("disk is full") and s.daemons[origin].saturation == 0.75,
            )
            moody.load = 7.5
            seen(runtime, lambda s: s.daemons[origin].saturation == 1.0)
            for wrong in (float("nan"), "full", None):
                moody.load = wrong  # type: ignore[assignment]
                ill = seen(runtime, lambda s: isinstance(s.daemons[origin].health, Unhealthy))
                assert ill.daemons[origin].saturation == 1.0
                moody.load = 1.0
                seen(runtime, lambda s: s.daemons[origin].health == Degraded("disk is full"))
            moody.mood = 7
            assert "health gave" in str(
                seen(runtime, lambda s: isinstance(s.daemons[origin].health, Unhealthy)).daemons[origin].health
            )
            moody.mood, moody.load = Healthy(), 0.5
            seen(runtime, lambda s: s.daemons[origin].health == Healthy() and s.daemons[origin].saturation == 0.5)
            # What it said of itself was said of the run that ended.
            with pytest.raises(ProcessFailed):
                daemons.send(origin, BAD)
            after = runs(runtime, origin, restarts=1).daemons[origin]
            assert (after.health, after.saturation) in ((None, 0.0), (Healthy(), 0.5))
