"""Commands of operators, one by one: each has its effect on this node, none on another, and all are in the audit."""

import threading
from collections.abc import Callable, Collection
from datetime import timedelta

import pytest

from daemons import PATIENCE, Counter, Gated, event, eventually, in_thread, node, spawned
from loops import (
    CONFIG,
    NEVER,
    ONE,
    TICK,
    Calls,
    Recorder,
    Sink,
    command,
    reasons,
    runs,
    seen,
    supervised,
    supervising,
    total,
)
from meshos import DaemonIntent, Identity, MeshOsConfig, MeshOsRuntime
from meshos.control import DaemonControl, DrainFinish, DrainStart, Resume, Shutdown
from meshos.dispatch import DropReplica, LoggingDispatcher, MeshOsAction, PullReplica, RequestPlacement
from meshos.events import (
    AdminEvent,
    ClearAvoidList,
    Cordon,
    Drain,
    DropReplicas,
    EnterMaintenance,
    ExitMaintenance,
    InvalidatePlacement,
    LocalReplicaIntent,
    LocalReplicaIntentUpdate,
    MaintenanceTransitionObserved,
    PlacementIntent,
    ReplicaBecameHolderAndLeader,
    ReplicaChange,
    ReplicaLeaderUpdate,
    ReplicaUpdate,
    RestartAllDaemons,
    RttSample,
    Uncordon,
)
from meshos.operator import Verdict
from meshos.runtime import MaintenanceConfig, SchedulerConfig
from meshos.scheduler import PlacementScorer
from meshos.status import (
    Active,
    DrainFailed,
    EnteringMaintenance,
    ExitingMaintenance,
    Maintenance,
    MaintenancePhase,
    MaintenanceState,
    MeshOsSnapshot,
    Recovery,
)
from records import NOON

SOON = timedelta(milliseconds=50)
MINUTE = timedelta(minutes=1)


def order(runtime: MeshOsRuntime, event: AdminEvent) -> None:
    runtime.handle().publish(command(event))


def is_in(*states: type) -> Callable[[MeshOsSnapshot], bool]:
    return lambda snapshot: isinstance(snapshot.local_maintenance, states)


class Told(Counter):
    """Keeps the controls that it hears, in a place that outlives the instance."""

    name = "told"
    heard: list[DaemonControl]

    def on_control(self, control: DaemonControl) -> None:
        self.heard.append(control)


def told() -> type[Told]:
    return type("Told", (Told,), {"heard": []})


# ---------------------------------------------------------------- leaving service and coming back


def test_a_node_in_maintenance_runs_nothing_and_comes_back_with_every_state() -> None:
    sink, kind = Sink(), told()
    with node(told=kind) as daemons:
        origins = [daemons.spawn("told", Identity.generate()).origin_hash for _ in range(5)]
        with supervised(daemons, *origins, sink=sink) as runtime:
            for origin in origins:
                daemons.send(origin, ONE)
            order(runtime, EnterMaintenance(runtime.this_node(), MINUTE))
            out = seen(runtime, is_in(Maintenance))
            assert {state.lifecycle for state in out.daemons.values()} == {"stopped"}
            assert daemons.daemon_registry().count() == 0
            assert runtime.explain(daemon=origins[0]).reasons[0].kind == "draining"

            order(runtime, ExitMaintenance(runtime.this_node()))
            seen(runtime, is_in(Active))
            for origin in origins:
                runs(runtime, origin, restarts=0)
                assert total(daemons, origin) == 2
            controls = sink.seen.first(3)
            # Those that stopped for the drain were told before, and hear in their next run that it is over.
            eventually(lambda: {type(control) for control in kind.heard} >= {DrainStart, Shutdown, Resume})

    assert [type(control) for control in controls] == [DrainStart, DrainFinish, Resume]
    assert isinstance(controls[0], DrainStart)
    assert timedelta(seconds=50) < controls[0].grace <= MINUTE


def test_a_drain_comes_back_by_itself() -> None:
    sink, made = Sink(), []

    def make() -> Counter:
        made.append(Counter())
        return made[-1]

    with node(counter=make) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with supervised(daemons, origin, sink=sink) as runtime:
            daemons.send(origin, ONE)
            order(runtime, Drain(runtime.this_node(), MINUTE))
            controls = sink.seen.first(3)
            seen(runtime, is_in(Active))
            runs(runtime, origin, restarts=0)
            assert total(daemons, origin) == 2

    assert [type(control) for control in controls] == [DrainStart, DrainFinish, Resume]
    assert len(made) == 2


def test_a_drain_that_takes_too_long_fails_with_its_reason_and_ends_when_nothing_is_left() -> None:
    gated, sink = Gated(), Sink()
    config = supervising(maintenance=MaintenanceConfig(stop_grace=NEVER))
    with node() as daemons:
        origin = spawned(daemons, gated)
        with supervised(daemons, origin, config=config, sink=sink) as runtime:
            with in_thread(lambda: daemons.deliver(origin, event(1, b"block"))):
                assert gated.entered.wait(PATIENCE)
                order(runtime, EnterMaintenance(runtime.this_node(), SOON))
                failed = seen(runtime, is_in(DrainFailed))
                assert isinstance(failed.local_maintenance, DrainFailed)
                assert "daemons left 1" in failed.local_maintenance.reason
                gated.leave.set()
            seen(runtime, is_in(Maintenance))
            assert [type(control) for control in sink.seen.first(2)] == [DrainStart, DrainFinish]


def test_a_drain_may_be_called_off() -> None:
    gated, sink = Gated(), Sink()
    config = supervising(maintenance=MaintenanceConfig(stop_grace=NEVER))
    with node() as daemons:
        origin = spawned(daemons, gated)
        with supervised(daemons, origin, config=config, sink=sink) as runtime:
            with in_thread(lambda: daemons.deliver(origin, event(1, b"block"))):
                assert gated.entered.wait(PATIENCE)
                order(runtime, EnterMaintenance(runtime.this_node(), NEVER))
                seen(runtime, is_in(EnteringMaintenance))
                order(runtime, ExitMaintenance(runtime.this_node()))
                seen(runtime, is_in(ExitingMaintenance, Recovery, Active))
                gated.leave.set()
            assert [type(control) for control in sink.seen.first(2)] == [DrainStart, Resume]


def test_a_daemon_that_does_not_come_back_is_told_of_and_does_not_keep_the_node() -> None:
    class Broken(Counter):
        name = "broken"

        def restore(self, state: bytes) -> None:
            raise OSError("no disk")

    config = supervising(
        maintenance=MaintenanceConfig(exit_deadline=timedelta(milliseconds=100), recovery_ramp_window=timedelta(0))
    )
    with node(broken=Broken) as daemons:
        origin = daemons.spawn("broken", Identity.generate()).origin_hash
        with supervised(daemons, origin, config=config) as runtime:
            daemons.send(origin, ONE)
            order(runtime, EnterMaintenance(runtime.this_node(), MINUTE))
            seen(runtime, is_in(Maintenance))
            order(runtime, ExitMaintenance(runtime.this_node()))
            seen(runtime, is_in(ExitingMaintenance))
            after = seen(runtime, is_in(Active))
    assert reasons(after, "loop") == ["1 daemons did not start again in time"]
    assert any("no disk" in reason for reason in reasons(after, "action"))


def test_a_dispatcher_of_ones_own_commits_transitions() -> None:
    commits: list[MaintenanceState] = []

    class Commits(Calls):
        def dispatch(self, action: MeshOsAction, /) -> None:
            assert action.kind == "commit_maintenance_transition"
            commits.append(action.target)
            runtime.handle().publish(MaintenanceTransitionObserved(action.node, action.target))

    config = MeshOsConfig(
        this_node=1,
        tick_interval=TICK,
        authority="open",
        maintenance=MaintenanceConfig(recovery_ramp_window=timedelta(0)),
    )
    with MeshOsRuntime.start(config, Commits()) as runtime:
        order(runtime, EnterMaintenance(1))
        seen(runtime, is_in(Maintenance))
        order(runtime, ExitMaintenance(1))
        seen(runtime, is_in(Active))

    assert [type(state) for state in commits] == [Maintenance, Recovery, Active]


def test_a_transition_that_no_arc_allows_is_a_failure() -> None:
    with MeshOsRuntime.start(CONFIG, LoggingDispatcher()) as runtime:
        runtime.handle().publish(MaintenanceTransitionObserved(1, Recovery(NOON)))
        after = seen(runtime, lambda s: bool(reasons(s, "loop")))
    assert isinstance(after.local_maintenance, Active)
    assert "recovery" in reasons(after, "loop")[0]


# ---------------------------------------------------------------- the other commands


def test_a_cordoned_node_takes_no_copy_and_shows_it() -> None:
    dispatcher = Recorder()
    with MeshOsRuntime.start(CONFIG, dispatcher) as runtime:
        order(runtime, Cordon(1))
        seen(runtime, lambda s: s.cordoned)
        runtime.handle().publish_many(
            [ReplicaUpdate(7, 2, ReplicaChange.ADDED), LocalReplicaIntentUpdate(7, LocalReplicaIntent.HOLD)]
        )
        runtime.set_intent(3, DaemonIntent.STOP)
        assert dispatcher.actions.values == []
        order(runtime, Uncordon(1))
        assert dispatcher.actions.first(1) == [PullReplica(7, 2)]
        assert not seen(runtime, lambda s: not s.cordoned).cordoned


def test_a_cordoned_peer_is_excluded_from_placements() -> None:
    dispatcher = Recorder()
    with MeshOsRuntime.start(CONFIG, dispatcher) as runtime:
        order(runtime, Cordon(5))
        assert seen(runtime, lambda s: 5 in s.peers).peers[5].cordoned
        runtime.handle().publish_many([PlacementIntent(7, 2), ReplicaBecameHolderAndLeader(7, 1, 1)])
        (placement,) = dispatcher.actions.first(1)
        assert isinstance(placement, RequestPlacement)
        assert {1, 5} <= set(placement.exclude)
        order(runtime, Uncordon(5))
        assert not seen(runtime, lambda s: not s.peers[5].cordoned).peers[5].cordoned


def test_restart_all_restarts_those_that_are_wanted_and_keeps_their_state() -> None:
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter())
        return made[-1]

    with node(counter=make) as daemons:
        origins = [daemons.spawn("counter", Identity.generate()).origin_hash for _ in range(4)]
        *restarted, left = origins
        with supervised(daemons, *restarted) as runtime:
            for origin in origins:
                daemons.send(origin, ONE)
            before = {origin: runtime.snapshot().daemons[origin].started_at for origin in origins}
            order(runtime, RestartAllDaemons(runtime.this_node() ^ 1))
            order(runtime, RestartAllDaemons(runtime.this_node()))
            eventually(lambda: len(made) == 7)
            for origin in restarted:
                state = runs(runtime, origin, restarts=0).daemons[origin]
                assert (state.restarts, total(daemons, origin)) == (0, 2)
            assert runtime.snapshot().daemons[left].started_at == before[left]
            assert total(daemons, left) == 2


def slow(runtime: MeshOsRuntime, peer: int) -> None:
    for _ in range(3):
        runtime.handle().publish(RttSample(peer, timedelta(seconds=1)))
    seen(runtime, lambda s: peer in s.avoid_list)


def test_the_avoid_list_is_cleared_and_filled_again_only_by_new_samples() -> None:
    with MeshOsRuntime.start(CONFIG, LoggingDispatcher()) as runtime:
        slow(runtime, 5)
        assert "ms" in runtime.snapshot().avoid_list[5].reason
        order(runtime, ClearAvoidList(2))
        order(runtime, ClearAvoidList(1))
        seen(runtime, lambda s: not s.avoid_list)
        slow(runtime, 5)


def test_drop_replicas_concerns_this_node_only() -> None:
    dispatcher = Recorder()
    held = [ReplicaUpdate(chain, 1, ReplicaChange.ADDED) for chain in (7, 8, 9)]
    with MeshOsRuntime.start(CONFIG, dispatcher) as runtime:
        runtime.handle().publish_many(held)
        order(runtime, DropReplicas(2, (9,)))
        order(runtime, DropReplicas(1, (7, 8)))
        assert set(dispatcher.actions.first(2)) == {DropReplica(7), DropReplica(8)}
        runtime.handle().publish_many([ReplicaUpdate(chain, 1, ReplicaChange.REMOVED) for chain in (7, 8)])
        seen(runtime, lambda s: not s.in_flight)
        assert len(dispatcher.actions.values) == 2


def test_invalidated_placements_are_scored_anew() -> None:
    asked = threading.Semaphore(0)

    class Steady(PlacementScorer):
        def score(self, chain: int, node: int, /) -> float | None:
            asked.release()
            return 1.0

        def best_alternative(self, chain: int, exclude: Collection[int], /) -> tuple[int, float] | None:
            return None

        def node_fingerprint(self, node: int, /) -> int:
            return 1

    config = MeshOsConfig(
        this_node=1, tick_interval=TICK, authority="open", scheduler=SchedulerConfig(decision_interval=NEVER)
    )
    with MeshOsRuntime.start(config, LoggingDispatcher()) as runtime:
        runtime.install_placement_scorer(Steady())
        runtime.handle().publish_many([ReplicaUpdate(7, 2, ReplicaChange.ADDED), ReplicaLeaderUpdate(7, 1, 1)])
        assert asked.acquire(timeout=PATIENCE)
        order(runtime, InvalidatePlacement(2))
        seen(runtime, lambda s: s.audit_head_seq == 1)
        before = runtime.health().last_tick_at
        eventually(lambda: runtime.health().last_tick_at > before + 5 * TICK)
        assert not asked.acquire(blocking=False)
        order(runtime, InvalidatePlacement(1))
        assert asked.acquire(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("ordered", "phase"),
    [
        (EnterMaintenance(5), MaintenancePhase.ENTERING),
        (Drain(5, MINUTE), MaintenancePhase.ENTERING),
        (ExitMaintenance(5), MaintenancePhase.EXITING),
    ],
)
def test_maintenance_of_another_node_is_mirrored(ordered: AdminEvent, phase: MaintenancePhase) -> None:
    dispatcher = Recorder()
    with MeshOsRuntime.start(CONFIG, dispatcher) as runtime:
        order(runtime, ordered)
        after = seen(runtime, lambda s: 5 in s.peers)
        assert after.peers[5].maintenance is phase
        assert isinstance(after.local_maintenance, Active)
        runtime.handle().publish(MaintenanceTransitionObserved(5, Maintenance(NOON)))
        seen(runtime, lambda s: s.peers[5].maintenance is MaintenancePhase.MAINTENANCE)
        assert dispatcher.actions.values == []


def test_every_command_is_in_the_audit_in_order() -> None:
    ordered: list[AdminEvent] = [
        EnterMaintenance(1, MINUTE),
        ExitMaintenance(1),
        Drain(1, MINUTE),
        Cordon(1),
        Uncordon(1),
        RestartAllDaemons(1),
        ClearAvoidList(1),
        DropReplicas(1, (7,)),
        InvalidatePlacement(1),
    ]
    with MeshOsRuntime.start(CONFIG, LoggingDispatcher()) as runtime:
        runtime.handle().publish_many([command(event) for event in ordered])
        seen(runtime, lambda s: s.audit_head_seq == len(ordered))
        audits = runtime.audits()
        assert runtime.audits(since=7) == audits[7:]
        assert runtime.audits(limit=2) in (audits[:2], audits[-2:])

    assert [record.event for record in audits] == ordered
    assert [record.seq for record in audits] == list(range(1, len(ordered) + 1))
    assert {record.verdict for record in audits} == {Verdict.UNVERIFIED}
