"""Moves of several daemons, so many at a time."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from meshos import CausalEvent, DaemonRuntime, Identity, Mesh, MeshDaemon, MigrationError, WaitTimeout
from meshos.errors import DaemonNotFound, InvalidArgument
from meshos.migration import MigrationOpts, MigrationOutcome

PATIENCE = timedelta(seconds=30)


class Slow(MeshDaemon):
    """Says how many of its kind take a snapshot at once."""

    name = "slow"
    lock = threading.Lock()
    inside = 0
    most = 0
    gate = threading.Event()

    def process(self, event: CausalEvent) -> None:
        """Take an event."""

    def snapshot(self) -> bytes:
        with Slow.lock:
            Slow.inside += 1
            Slow.most = max(Slow.most, Slow.inside)
        Slow.gate.wait(10)
        with Slow.lock:
            Slow.inside -= 1
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing over."""


@pytest.fixture
def pair() -> Iterator[tuple[DaemonRuntime, DaemonRuntime]]:
    Slow.inside, Slow.most, Slow.gate = 0, 0, threading.Event()
    here, there = Mesh.local_cluster(2)
    with DaemonRuntime(here) as home, DaemonRuntime(there) as away:
        for runtime in (home, away):
            runtime.register_factory("slow", Slow)
            runtime.start()
        here.wait_for_peer(there.node_id, timeout=PATIENCE)
        yield home, away
    here.close()
    there.close()


def test_a_group_moves_so_many_at_a_time(pair: tuple[DaemonRuntime, DaemonRuntime]) -> None:
    home, away = pair
    origins = [home.spawn("slow", Identity.generate()).origin_hash for _ in range(9)]
    missing = Identity.generate().origin_hash
    found: list[dict[int, object]] = []
    nodes = home.mesh().node_id, away.mesh().node_id
    opts = MigrationOpts(freeze_max=PATIENCE)

    def call() -> None:
        found.append({**home.migrate_all([*origins, missing], *nodes, opts, at_once=3, timeout=PATIENCE)})

    caller = threading.Thread(target=call)
    caller.start()
    while Slow.inside < 3:
        assert caller.is_alive()
    Slow.gate.set()
    caller.join()
    assert Slow.most == 3
    (ended,) = found
    assert list(ended) == [*origins, missing]
    outcomes = [ended[origin] for origin in origins]
    assert all(isinstance(outcome, MigrationOutcome) and outcome.epoch == 2 for outcome in outcomes), outcomes
    assert isinstance(ended[missing], DaemonNotFound)
    assert away.daemon_count() == 9


def test_what_fails_does_not_end_the_others(pair: tuple[DaemonRuntime, DaemonRuntime]) -> None:
    home, away = pair
    Slow.gate.set()
    origins = [home.spawn("slow", Identity.generate()).origin_hash for _ in range(3)]
    away.simulate_not_ready(True)
    nodes = home.mesh().node_id, away.mesh().node_id
    ended = home.migrate_all(origins, *nodes, MigrationOpts(retry_not_ready=None))
    assert all(isinstance(error, MigrationError) for error in ended.values()), ended
    away.simulate_not_ready(False)
    moved = asyncio.run(home.migrate_all_async(origins, *nodes))
    assert all(isinstance(outcome, MigrationOutcome) for outcome in moved.values()), moved


def test_after_its_time_nothing_more_begins(pair: tuple[DaemonRuntime, DaemonRuntime]) -> None:
    home, away = pair
    origins = [home.spawn("slow", Identity.generate()).origin_hash for _ in range(3)]
    nodes = home.mesh().node_id, away.mesh().node_id
    opts = MigrationOpts(freeze_max=PATIENCE)
    ended = home.migrate_all(origins, *nodes, opts, at_once=1, timeout=timedelta(milliseconds=50))
    assert all(isinstance(error, WaitTimeout) for error in ended.values()), ended
    Slow.gate.set()
    again = home.migrate_all(origins[1:], *nodes, opts)
    assert all(isinstance(outcome, MigrationOutcome) for outcome in again.values()), again


def test_what_makes_no_sense_is_refused(pair: tuple[DaemonRuntime, DaemonRuntime]) -> None:
    home, away = pair
    nodes = home.mesh().node_id, away.mesh().node_id
    with pytest.raises(InvalidArgument, match="at_once"):
        home.migrate_all([], *nodes, at_once=0)
    with pytest.raises(InvalidArgument, match="twice"):
        home.migrate_all([1, 1], *nodes)
    assert home.migrate_all([], *nodes) == {}


def test_events_that_had_to_wait_are_all_accounted_for(pair: tuple[DaemonRuntime, DaemonRuntime]) -> None:
    home, away = pair
    origin = home.spawn("slow", Identity.generate()).origin_hash
    nodes = home.mesh().node_id, away.mesh().node_id
    move = home.start_migration_with(origin, *nodes, MigrationOpts(freeze_max=PATIENCE))
    while Slow.inside == 0:
        assert move.phase() is not None
    away.post(origin, b"one")
    away.post(origin, b"two")
    orchestrator = home.migration_orchestrator()
    while orchestrator.stats().queued < 2:
        assert Slow.inside == 1
    during = orchestrator.stats()
    assert (during.waiting, during.shipped, during.committed) == (2, 0, 0)
    Slow.gate.set()
    move.wait(PATIENCE)
    after = orchestrator.stats()
    assert after.queued == after.shipped + after.thawed + after.redirected + after.waiting
    assert (after.waiting, after.committed, away.migration_orchestrator().stats().arrived) == (0, 1, 1)
    assert away.migration_orchestrator().stats().taken_in == after.shipped == 2
