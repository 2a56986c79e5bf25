"""Snapshots of a running loop: mappings that share its tables, and what is shown of what was published."""

import copy
import gc
import itertools
import pickle
import sys
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from datetime import datetime, timedelta

import pytest

from meshos.audit import FailureRecord
from meshos.daemon import DaemonRef, Degraded
from meshos.dispatch import DispatchError, LoggingDispatcher
from meshos.events import (
    Crashed,
    DaemonIntent,
    DaemonIntentUpdate,
    DaemonLifecycle,
    EnterMaintenance,
    HealthChanged,
    MaintenanceTransitionObserved,
    MeshOsEvent,
    NodeHealthUpdate,
    PlacementIntent,
    ReplicaBecameHolderAndLeader,
    ReplicaChange,
    ReplicaLeaderUpdate,
    ReplicaUpdate,
    RttSample,
    SaturationChanged,
    Started,
    UnsignedAdminEvent,
)
from meshos.probes import InventoryProbe, NodeHealth, PeerInventory
from meshos.runtime import BackoffConfig, MeshOsConfig, MeshOsRuntime, MetadataView
from meshos.status import (
    Active,
    BackingOff,
    DaemonCounts,
    DaemonSnapshot,
    EnteringMaintenance,
    Idle,
    Lifecycle,
    Maintenance,
    MaintenancePhase,
    MeshOsSnapshot,
    PeerCounts,
    PeerSnapshot,
    ReplicaSnapshot,
)
from records import UTC, evaluated

SECOND = timedelta(seconds=1)
INGEST = DaemonRef(42, "ingest")
NODE = 1


@pytest.fixture
def dispatcher() -> LoggingDispatcher:
    return LoggingDispatcher()


@pytest.fixture
def runtime(dispatcher: LoggingDispatcher) -> Iterator[MeshOsRuntime]:
    config = MeshOsConfig(
        this_node=NODE,
        authority="open",
        tick_interval=timedelta(milliseconds=20),
        backoff=BackoffConfig(initial=timedelta(minutes=1)),
    )
    with MeshOsRuntime.start(config, dispatcher) as runtime:
        yield runtime


def after(runtime: MeshOsRuntime, *events: MeshOsEvent) -> MeshOsSnapshot:
    """A snapshot that has all of these. What closes the batch is a daemon of its own, the last of the table."""
    runtime.handle().publish_many(events)
    seal = next(SEALS)
    runtime.set_intent(seal, DaemonIntent.STOP)  # returns when it and all before it are folded, in every lane
    return runtime.snapshot_reader().wait_for(lambda snapshot: seal in snapshot.daemons, timeout=5 * SECOND)


SEALS = itertools.count(2**63)
DAEMONS = tuple(DaemonRef(number, f"d{number}") for number in (70, 7, 700, 7_000_000, 0, 2**62))
EVENTS: list[MeshOsEvent] = [
    *(DaemonLifecycle(daemon, Started()) for daemon in DAEMONS),
    RttSample(3, timedelta(milliseconds=7)),
    NodeHealthUpdate(2, NodeHealth.DEGRADED),
    PlacementIntent(9, 3),
    ReplicaUpdate(5, 2, ReplicaChange.ADDED),
]
EVERYTHING = [daemon.id for daemon in sorted(DAEMONS, key=lambda daemon: daemon.id)]


# ---------------------------------------------------------------- mappings


def test_a_table_is_a_mapping(runtime: MeshOsRuntime) -> None:
    daemons = after(runtime, *EVENTS).daemons

    assert isinstance(daemons, Mapping)
    assert list(daemons)[:-1] == EVERYTHING
    assert len(daemons) == len(EVERYTHING) + 1
    assert 7 in daemons
    for absent in (8, -1, 2**64, 2**70, "7", b"7", 7.5, None, (7,)):
        assert absent not in daemons
        assert daemons.get(absent) is None  # type: ignore[arg-type]
        with pytest.raises(KeyError) as raised:
            daemons[absent]  # type: ignore[index]
        assert raised.value.args == (absent,)
    assert daemons.get(7) == daemons[7]
    assert daemons.get(8, "other") == "other"


def test_its_views_are_views(runtime: MeshOsRuntime) -> None:
    daemons = after(runtime, *EVENTS).daemons

    assert isinstance(daemons.keys(), KeysView)
    assert isinstance(daemons.values(), ValuesView)
    assert isinstance(daemons.items(), ItemsView)
    assert list(daemons.keys()) == list(daemons)
    assert list(daemons.values()) == [daemons[key] for key in daemons]
    assert list(daemons.items()) == [(key, daemons[key]) for key in daemons]
    assert daemons.keys() & {7, 8} == {7}


def test_it_is_equal_to_what_has_the_same_entries(runtime: MeshOsRuntime) -> None:
    snapshot = after(runtime, *EVENTS)
    daemons, again = snapshot.daemons, snapshot.daemons

    assert daemons == again
    assert daemons == dict(daemons)
    assert dict(daemons) == daemons
    assert daemons != {}
    assert daemons != {**daemons, 8: daemons[7]}
    assert daemons != snapshot.peers
    assert daemons != object()
    with pytest.raises(TypeError):
        hash(daemons)
    with pytest.raises(TypeError):
        _ = daemons < again  # type: ignore[operator]


def test_it_is_read_only(runtime: MeshOsRuntime) -> None:
    daemons = after(runtime, *EVENTS).daemons

    with pytest.raises(TypeError):
        daemons[7] = daemons[70]  # type: ignore[index]
    with pytest.raises(TypeError):
        del daemons[7]  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        reversed(daemons)
    for name in ("clear", "pop", "popitem", "setdefault", "update", "__dict__"):
        assert not hasattr(daemons, name)


def test_it_is_shown_copied_and_pickled_as_a_dict(runtime: MeshOsRuntime) -> None:
    peers = after(runtime, *EVENTS).peers

    assert repr(peers) == repr(dict(peers))
    assert evaluated(repr(peers)) == peers
    for twin in (copy.copy(peers), copy.deepcopy(peers), pickle.loads(pickle.dumps(peers))):
        assert type(twin) is dict
        assert twin == peers


def test_it_is_matched(runtime: MeshOsRuntime) -> None:
    match after(runtime, *EVENTS).daemons:
        case {7: DaemonSnapshot(lifecycle=Lifecycle.RUNNING, ref=DaemonRef(_, name))}:
            assert name == "d7"
        case _:
            pytest.fail("a mapping is matched")


def test_an_iteration_outlives_snapshot_and_runtime(dispatcher: LoggingDispatcher) -> None:
    with MeshOsRuntime.start(MeshOsConfig(this_node=NODE), dispatcher) as runtime:
        keys = iter(after(runtime, *EVENTS).daemons)
    del runtime
    gc.collect()

    assert list(keys)[:-1] == EVERYTHING
    assert next(keys, None) is None


def test_callbacks_are_by_name(runtime: MeshOsRuntime) -> None:
    class Stock(InventoryProbe):
        def inventory_samples(self) -> Iterable[tuple[int, PeerInventory]]:
            return [(2, PeerInventory(cpu_load_1m=0.5, capability_set=frozenset({"gpu"})))]

    runtime.add_inventory_probe(Stock())
    snapshot = runtime.snapshot_reader().wait_for(
        lambda snapshot: any(status.calls for status in snapshot.callbacks.values()) and 2 in snapshot.peers,
        timeout=5 * SECOND,
    )

    (name,) = (name for name, status in snapshot.callbacks.items() if status.calls)
    assert "Stock" in name
    assert list(snapshot.callbacks) == sorted(snapshot.callbacks)
    assert snapshot.callbacks[name].failures == 0
    assert snapshot.callbacks.get(2) is None  # type: ignore[call-overload]
    assert "nobody" not in snapshot.callbacks
    assert snapshot.peers[2].cpu_load_1m == 0.5
    assert snapshot.peers[2].capability_set == {"gpu"}


# ---------------------------------------------------------------- snapshots


def test_only_a_runtime_makes_a_snapshot(runtime: MeshOsRuntime) -> None:
    snapshot = runtime.snapshot()

    with pytest.raises(TypeError):
        MeshOsSnapshot()
    with pytest.raises(TypeError):
        pickle.dumps(snapshot)
    with pytest.raises(TypeError):
        type("Mine", (MeshOsSnapshot,), {})
    for name in ("tick", "daemons", "another"):
        with pytest.raises(AttributeError):
            setattr(snapshot, name, 1)


def test_a_publication_is_equal_to_itself(runtime: MeshOsRuntime) -> None:
    first = runtime.snapshot()
    second = after(runtime, *EVENTS)

    assert first == runtime.snapshot_reader().read() or first.generation < second.generation
    assert first != second
    assert hash(second) == hash(second)
    assert second.generation > first.generation
    assert second.runtime_epoch_id == first.runtime_epoch_id
    assert second != second.generation
    assert repr(second).startswith("<MeshOsSnapshot of node 0000000000000001: generation ")


def test_a_new_snapshot_of_a_node_is_empty(runtime: MeshOsRuntime) -> None:
    snapshot = runtime.snapshot()

    assert snapshot.this_node == NODE
    assert snapshot.authority == "open"
    assert snapshot.published_at.utcoffset() == timedelta()
    assert snapshot.local_maintenance == Active()
    assert snapshot.freeze_until is None
    assert not any((snapshot.daemons, snapshot.replicas, snapshot.peers, snapshot.avoid_list))
    assert snapshot.in_flight == snapshot.recently_emitted == snapshot.recent_failures == ()
    assert snapshot.in_flight_migrations == snapshot.recovery == ()
    assert snapshot.audit_head_seq == snapshot.log_head_seq == snapshot.failure_head_seq == 0
    assert snapshot.metrics.refused_events == snapshot.metrics.sweep_repairs == 0


def test_a_snapshot_does_not_change(runtime: MeshOsRuntime) -> None:
    before = after(runtime, *EVENTS)
    shown = dict(before.daemons)

    later = after(runtime, DaemonLifecycle(DAEMONS[0], HealthChanged(Degraded("slow"))))

    assert before.daemons == shown
    assert later.daemons[70].health == Degraded("slow")
    assert before.daemons[70].health is None


def test_summary_counts(runtime: MeshOsRuntime) -> None:
    summary = after(runtime, *EVENTS).summary()

    assert summary.daemons == DaemonCounts(
        running=len(DAEMONS), starting=0, stopping=0, stopped=1, backing_off=0, crash_looping=0
    )
    assert summary.peers == PeerCounts(healthy=0, degraded=1, unreachable=0, unknown=1)
    assert summary.replica_chains == 2
    assert summary.avoid_list_entries == 0
    assert not summary.frozen
    assert summary.local_maintenance is MaintenancePhase.ACTIVE


# ---------------------------------------------------------------- what is in it


def test_a_daemon_is_shown(runtime: MeshOsRuntime) -> None:
    at = datetime.now(UTC).replace(microsecond=0) - SECOND
    snapshot = after(
        runtime,
        DaemonIntentUpdate(INGEST, DaemonIntent.RUN),
        DaemonLifecycle(INGEST, Started(at)),
        DaemonLifecycle(INGEST, HealthChanged(Degraded("slow"))),
        DaemonLifecycle(INGEST, SaturationChanged(0.25)),
    )

    assert snapshot.daemons[42] == DaemonSnapshot(
        ref=INGEST,
        intent=DaemonIntent.RUN,
        lifecycle=Lifecycle.RUNNING,
        health=Degraded("slow"),
        saturation=0.25,
        restart_state=Idle(),
        restarts=0,
        last_crash=None,
        started_at=at,
        placement=NODE,
    )
    assert snapshot.daemons[42].ref.name == "ingest"


def test_a_crash_is_shown(runtime: MeshOsRuntime) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    snapshot = after(
        runtime,
        DaemonIntentUpdate(INGEST, DaemonIntent.RUN),
        DaemonLifecycle(INGEST, Started(at - SECOND)),
        DaemonLifecycle(INGEST, Crashed("out of memory", at)),
    )

    daemon = snapshot.daemons[42]
    assert isinstance(daemon.restart_state, BackingOff)
    assert daemon.restart_state.until > at
    assert daemon.lifecycle is not Lifecycle.RUNNING
    assert daemon.last_crash is not None
    assert (daemon.last_crash.exception, daemon.last_crash.message) == ("", "out of memory")
    assert daemon.last_crash.at == at
    assert daemon.last_crash.event_origin is None


def test_chains_are_shown_that_somebody_holds_or_wants(runtime: MeshOsRuntime) -> None:
    snapshot = after(
        runtime,
        ReplicaUpdate(5, 3, ReplicaChange.ADDED),
        ReplicaBecameHolderAndLeader(5, 2, term=4),
        PlacementIntent(9, 3),
        ReplicaLeaderUpdate(77, 2, term=1),
    )

    assert snapshot.replicas == {
        5: ReplicaSnapshot(holders=(2, 3), desired_count=None, leader=2, term=4),
        9: ReplicaSnapshot(holders=(), desired_count=3, leader=None, term=0),
    }
    assert 77 not in snapshot.replicas
    assert len(snapshot.replicas) == snapshot.summary().replica_chains == 2


def test_peers_are_shown(runtime: MeshOsRuntime) -> None:
    snapshot = after(
        runtime,
        RttSample(3, timedelta(milliseconds=7)),
        NodeHealthUpdate(2, NodeHealth.UNREACHABLE),
        MaintenanceTransitionObserved(2, Maintenance(datetime.now(UTC))),
    )

    assert list(snapshot.peers) == [2, 3]
    assert snapshot.peers[2].health is NodeHealth.UNREACHABLE
    assert snapshot.peers[2].maintenance is MaintenancePhase.MAINTENANCE
    assert snapshot.peers[3].rtt == timedelta(milliseconds=7)
    assert snapshot.peers[3].capability_set == frozenset()


def test_a_drain_is_shown_with_what_is_left(runtime: MeshOsRuntime) -> None:
    after(runtime, DaemonIntentUpdate(INGEST, DaemonIntent.RUN), DaemonLifecycle(INGEST, Started()))
    runtime.handle().publish(UnsignedAdminEvent(EnterMaintenance(NODE, drain_for=timedelta(minutes=1))))

    snapshot = runtime.snapshot_reader().wait_for(
        lambda snapshot: snapshot.local_maintenance != Active(), timeout=5 * SECOND
    )

    state = snapshot.local_maintenance
    assert isinstance(state, EnteringMaintenance)
    assert state.phase is MaintenancePhase.ENTERING
    assert state.deadline - state.since == timedelta(minutes=1)
    assert state.daemons_left >= 1
    assert snapshot.audit_head_seq == 1


def test_actions_and_failures_are_shown(runtime: MeshOsRuntime, dispatcher: LoggingDispatcher) -> None:
    dispatcher.fail_next(DispatchError.drop("no such binary"))
    runtime.handle().publish(DaemonIntentUpdate(INGEST, DaemonIntent.RUN))

    snapshot = runtime.snapshot_reader().wait_for(lambda snapshot: bool(snapshot.recent_failures), timeout=5 * SECOND)

    (failure, *_) = snapshot.recent_failures
    assert isinstance(failure, FailureRecord)
    assert (failure.seq, failure.reason) == (1, "no such binary")
    assert (failure.source.part, failure.source.name, failure.source.target) == ("action", "start_daemon", 42)
    emitted = {action.action_id: action for action in snapshot.recently_emitted}
    assert failure.source.action_id in emitted
    assert emitted[failure.source.action_id].kind == "start_daemon"
    assert emitted[failure.source.action_id].state == "failed"
    assert [action.action_id for action in snapshot.in_flight] == sorted(a.action_id for a in snapshot.in_flight)
    assert snapshot.failure_head_seq >= 1


# ---------------------------------------------------------------- what a daemon may know


def test_metadata_is_a_record_over_the_table(runtime: MeshOsRuntime) -> None:
    snapshot = after(runtime, *EVENTS)
    fields = {"node_id": NODE, "daemon": INGEST, "maintenance": Active()}

    view = MetadataView(**fields, peers=snapshot.peers)  # type: ignore[arg-type]
    made_up = MetadataView(**fields, peers=dict(snapshot.peers))  # type: ignore[arg-type]

    assert view == made_up
    assert view.peers == snapshot.peers
    assert isinstance(made_up.peers, Mapping)
    assert list(made_up.peers) == [2, 3]
    for twin in (pickle.loads(pickle.dumps(view)), copy.deepcopy(view), evaluated(repr(view))):
        assert twin == view
    assert view != MetadataView(**fields, peers={})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hash(view)


def test_metadata_takes_peers_only(runtime: MeshOsRuntime) -> None:
    snapshot = after(runtime, *EVENTS)
    peer = snapshot.peers[2]

    for wrong in (None, [], [(2, peer)], {2: None}, {"2": peer}, {True: peer}, snapshot.daemons, snapshot.replicas):
        with pytest.raises(TypeError, match="peers"):
            MetadataView(node_id=NODE, daemon=INGEST, maintenance=Active(), peers=wrong)  # type: ignore[arg-type]


def test_an_entry_is_made_when_it_is_asked_for(runtime: MeshOsRuntime) -> None:
    """A snapshot of many daemons costs what is looked at."""
    snapshot = after(runtime, *(RttSample(node, SECOND) for node in range(2, 900)))

    first, again = snapshot.peers[500], snapshot.peers[500]

    assert first == again
    assert first is not again
    assert isinstance(first, PeerSnapshot)
    gc.collect()
    made = sum(isinstance(thing, PeerSnapshot) for thing in gc.get_objects())
    assert made <= 2
    assert sys.getsizeof(snapshot.peers) < 200
