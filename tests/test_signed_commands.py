"""Signed commands, one by one: each has its effect on a running node, through the client and with real keys."""

import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemons import PATIENCE, Counter, eventually, node
from loops import (
    CONFIG,
    NEVER,
    ONE,
    TICK,
    TIMEOUT,
    Recorder,
    crash,
    reasons,
    runs,
    seen,
    supervising,
    total,
)
from meshos import DaemonIntent, DaemonRef, DaemonRuntime, Identity, MeshOsConfig
from meshos.dispatch import (
    ComputeDispatcher,
    DropReplica,
    LoggingDispatcher,
    MeshOsAction,
    PullReplica,
    RequestEviction,
    RequestPlacement,
)
from meshos.errors import CooldownActive, FreezeInEffect, InvalidSpan, PreviewStale, VerifyError
from meshos.events import (
    ClearAvoidList,
    Cordon,
    Drain,
    DropReplicas,
    EnterMaintenance,
    ExitMaintenance,
    InvalidatePlacement,
    LocalReplicaIntent,
    LocalReplicaIntentUpdate,
    MeshOsEvent,
    NodeHealthUpdate,
    PlacementIntent,
    ReplicaBecameHolderAndLeader,
    ReplicaChange,
    ReplicaLeaderUpdate,
    ReplicaUpdate,
    RestartAllDaemons,
    RttSample,
    Uncordon,
)
from meshos.migration import MigrationAborter
from meshos.operator import (
    FlushAvoidLists,
    ForceCutover,
    ForceEvictReplica,
    ForceRestartDaemon,
    FreezeCluster,
    Global,
    IceAction,
    IceEnvelope,
    KillMigration,
    Local,
    OnPeer,
    ThawCluster,
    simulate,
)
from meshos.probes import NodeHealth
from meshos.runtime import BackoffConfig, SchedulerConfig
from meshos.scheduler import PlacementScorer
from meshos.status import Active, Maintenance
from signing import ALICE, BOB, CLUSTER, Deck, operated, verifier

MINUTE = timedelta(minutes=1)
CHAIN = 7
LED: list[MeshOsEvent] = [ReplicaUpdate(CHAIN, 2, ReplicaChange.ADDED), ReplicaBecameHolderAndLeader(CHAIN, 1, 1)]
"""A chain with copies on nodes 1 and 2 that node 1 leads."""


def holds(deck: Deck, *holders: int) -> None:
    seen(deck.runtime, lambda s: CHAIN in s.replicas and s.replicas[CHAIN].holders == holders)


def counting(daemons: DaemonRuntime, deck: Deck, count: int = 1) -> list[int]:
    """So many counters that shall run, each at one."""
    origins = [daemons.spawn("counter", Identity.generate()).origin_hash for _ in range(count)]
    for origin in origins:
        deck.runtime.set_intent(origin, DaemonIntent.RUN)
        daemons.send(origin, ONE)
    return origins


# ---------------------------------------------------------------- the nine ordinary commands


def test_enter_and_exit_maintenance() -> None:
    with node(counter=Counter) as daemons, operated(ComputeDispatcher(daemons), config=supervising()) as deck:
        origins = counting(daemons, deck, 3)
        deck.order(EnterMaintenance(deck.runtime.this_node(), MINUTE))
        out = seen(deck.runtime, lambda s: isinstance(s.local_maintenance, Maintenance))
        assert {state.lifecycle for state in out.daemons.values()} == {"stopped"}
        deck.order(ExitMaintenance(deck.runtime.this_node()))
        seen(deck.runtime, lambda s: isinstance(s.local_maintenance, Active))
        for origin in origins:
            runs(deck.runtime, origin)
            assert total(daemons, origin) == 2


def test_drain() -> None:
    started: list[Counter] = []

    def make() -> Counter:
        started.append(Counter())
        return started[-1]

    with node(counter=make) as daemons, operated(ComputeDispatcher(daemons), config=supervising()) as deck:
        (origin,) = counting(daemons, deck)
        deck.order(Drain(deck.runtime.this_node(), MINUTE))
        eventually(lambda: len(started) == 2)
        seen(deck.runtime, lambda s: isinstance(s.local_maintenance, Active))
        runs(deck.runtime, origin)
        assert total(daemons, origin) == 2


def test_cordon_and_uncordon() -> None:
    dispatcher = Recorder()
    with operated(dispatcher) as deck:
        deck.order(Cordon(1))
        deck.order(Cordon(5))
        shown = deck.runtime.snapshot()
        assert (shown.cordoned, shown.peers[5].cordoned) == (True, True)
        deck.runtime.handle().publish_many(
            [ReplicaUpdate(8, 2, ReplicaChange.ADDED), LocalReplicaIntentUpdate(8, LocalReplicaIntent.HOLD)]
        )
        deck.runtime.handle().publish_many([*LED, PlacementIntent(CHAIN, 3)])
        (placement,) = dispatcher.actions.first(1)
        assert isinstance(placement, RequestPlacement)
        assert {1, 2, 5} <= set(placement.exclude)
        deck.order(Uncordon(1))
        assert dispatcher.actions.first(2)[1] == PullReplica(8, 2)
        deck.order(Uncordon(5))
        shown = deck.runtime.snapshot()
        assert (shown.cordoned, shown.peers[5].cordoned) == (False, False)


def test_restart_all_daemons() -> None:
    started: list[Counter] = []

    def make() -> Counter:
        started.append(Counter())
        return started[-1]

    with node(counter=make) as daemons, operated(ComputeDispatcher(daemons), config=supervising()) as deck:
        origins = counting(daemons, deck, 3)
        for origin in origins:
            runs(deck.runtime, origin)
        deck.order(RestartAllDaemons(deck.runtime.this_node()))
        eventually(lambda: len(started) == 6)
        for origin in origins:
            runs(deck.runtime, origin)
            assert total(daemons, origin) == 2


def slow(deck: Deck, *peers: int) -> None:
    """Put peers on the avoid list."""
    for peer in peers:
        for _ in range(3):
            deck.runtime.handle().publish(RttSample(peer, timedelta(seconds=1)))
        seen(deck.runtime, lambda s, peer=peer: peer in s.avoid_list)  # type: ignore[misc]


def avoided(deck: Deck) -> set[int]:
    return set(deck.runtime.snapshot().avoid_list)


def test_clear_avoid_list() -> None:
    with operated(LoggingDispatcher()) as deck:
        slow(deck, 5, 6)
        deck.order(ClearAvoidList(2))
        assert avoided(deck) == {5, 6}
        deck.order(ClearAvoidList(1))
        assert avoided(deck) == set()


def test_drop_replicas() -> None:
    dispatcher = Recorder()
    with operated(dispatcher) as deck:
        deck.runtime.handle().publish_many([ReplicaUpdate(chain, 1, ReplicaChange.ADDED) for chain in (7, 8, 9)])
        deck.order(DropReplicas(2, (9,)))
        deck.order(DropReplicas(1, (7, 8)))
        assert set(dispatcher.actions.first(2)) == {DropReplica(7), DropReplica(8)}
        deck.runtime.handle().publish_many([ReplicaUpdate(chain, 1, ReplicaChange.REMOVED) for chain in (7, 8)])
        seen(deck.runtime, lambda s: not s.in_flight)
        assert len(dispatcher.actions.values) == 2


def test_invalidate_placement() -> None:
    asked = threading.Semaphore(0)

    class Steady(PlacementScorer):
        def score(self, chain: int, node: int, /) -> float | None:
            asked.release()
            return 1.0

        def best_alternative(self, chain: int, exclude: Collection[int], /) -> tuple[int, float] | None:
            return None

        def node_fingerprint(self, node: int, /) -> int:
            return 1

    config = MeshOsConfig(this_node=1, tick_interval=TICK, scheduler=SchedulerConfig(decision_interval=NEVER))
    with operated(LoggingDispatcher(), config=config) as deck:
        deck.runtime.install_placement_scorer(Steady())
        deck.runtime.handle().publish_many(
            [ReplicaUpdate(CHAIN, 2, ReplicaChange.ADDED), ReplicaLeaderUpdate(CHAIN, 1, 1)]
        )
        assert asked.acquire(timeout=PATIENCE)
        deck.order(InvalidatePlacement(1))
        assert asked.acquire(timeout=PATIENCE)


# ---------------------------------------------------------------- the seven break-glass actions


def test_freeze_and_thaw_the_cluster() -> None:
    dispatcher = Recorder()
    with operated(dispatcher) as deck:
        before = datetime.now(UTC)
        deck.force(FreezeCluster(MINUTE))
        until = deck.runtime.snapshot().freeze_until
        assert until is not None
        assert MINUTE - TICK < until - before < MINUTE + TIMEOUT
        deck.runtime.set_intent(42, DaemonIntent.RUN)
        deck.runtime.handle().publish_many([*LED, PlacementIntent(CHAIN, 3)])
        with pytest.raises(FreezeInEffect):
            deck.order(Cordon(5))
        holds(deck, 1, 2)
        assert dispatcher.actions.values == []
        deck.force(ThawCluster())
        assert deck.runtime.snapshot().freeze_until is None
        kinds = {type(action).__name__ for action in dispatcher.actions.first(2)}
        assert kinds == {"StartDaemon", "RequestPlacement"}


@pytest.mark.parametrize(
    ("scope", "left"),
    [(Local(1), set()), (Local(2), {5, 6}), (OnPeer(5), {6}), (OnPeer(99), {5, 6}), (Global(), set())],
    ids=str,
)
def test_flush_avoid_lists(scope: Local | OnPeer | Global, left: set[int]) -> None:
    with operated(LoggingDispatcher()) as deck:
        slow(deck, 5, 6)
        deck.force(FlushAvoidLists(scope))
        assert avoided(deck) == left
        slow(deck, 5)


def test_force_evict_replica() -> None:
    dispatcher = Recorder()
    with operated(dispatcher) as deck:
        deck.runtime.handle().publish_many(LED)
        holds(deck, 1, 2)
        receipt = deck.force(ForceEvictReplica(CHAIN, 2))
        (eviction,) = dispatcher.actions.first(1)
        assert eviction == RequestEviction(CHAIN, 2)
        assert isinstance(eviction, RequestEviction)
        assert (eviction.cause.kind, eviction.cause.envelope_id) == ("operator", receipt.envelope_id)


def test_force_restart_daemon() -> None:
    """A daemon that waits for hours after its crash is back at once."""
    backoff = BackoffConfig(initial=timedelta(hours=1), maximum=timedelta(hours=1), jitter=0)
    config = supervising(backoff=backoff)
    with node(counter=Counter) as daemons, operated(ComputeDispatcher(daemons), config=config) as deck:
        (origin,) = counting(daemons, deck)
        runs(deck.runtime, origin)
        crash(daemons, origin)
        seen(deck.runtime, lambda s: s.daemons[origin].lifecycle == "stopped")
        deck.force(ForceRestartDaemon(DaemonRef(origin, "counter")))
        runs(deck.runtime, origin)
        assert total(daemons, origin) == 2


def test_force_cutover() -> None:
    dispatcher = Recorder()
    with operated(dispatcher) as deck:
        deck.runtime.handle().publish_many(LED)
        holds(deck, 1, 2)
        deck.force(ForceCutover(CHAIN, 8))
        (placement,) = dispatcher.actions.first(1)
        assert isinstance(placement, RequestPlacement)
        assert (placement.chain, placement.target, set(placement.exclude)) == (CHAIN, 8, {1, 2})


class Aborts(MigrationAborter):
    """Does what the test says."""

    def __init__(self, error: Exception | None = None, *, no_op: bool = False) -> None:
        self.error = error
        self.no_op = no_op
        self.asked: list[int] = []
        self.heard = threading.Event()

    def abort(self, migration: int, /) -> None:
        self.asked.append(migration)
        self.heard.set()
        if self.error is not None:
            raise self.error

    def is_no_op(self) -> bool:
        return self.no_op


def test_kill_migration() -> None:
    aborter = Aborts()
    with operated(LoggingDispatcher(), migration_aborter=aborter) as deck:
        deck.force(KillMigration(99))
        assert aborter.heard.wait(PATIENCE)
        assert aborter.asked == [99]
        assert reasons(deck.runtime.snapshot(), "migration") == []


@pytest.mark.parametrize(
    ("aborter", "reason"),
    [
        (None, "there is no migration aborter"),
        (Aborts(no_op=True), "the migration aborter does nothing"),
        (Aborts(ValueError("not today")), "ValueError: not today"),
    ],
    ids=["missing", "no-op", "failing"],
)
def test_a_move_that_could_not_be_ended_is_a_failure(aborter: Aborts | None, reason: str) -> None:
    with operated(LoggingDispatcher(), migration_aborter=aborter) as deck, deck.client.failures() as failures:
        deck.force(KillMigration(99))
        shown = seen(deck.runtime, lambda s: bool(reasons(s, "migration")))
        (failure,) = (record for record in shown.recent_failures if record.source.part == "migration")
        assert (failure.source.name, failure.source.target) == ("kill_migration", 99)
        assert reason in failure.reason
        assert failures.receive(timeout=TIMEOUT) == failure


# ---------------------------------------------------------------- forced actions, whatever holds them up


@pytest.mark.parametrize(
    ("action", "expected"),
    [(ForceEvictReplica(CHAIN, 2), RequestEviction), (ForceCutover(CHAIN, 8), RequestPlacement)],
    ids=["evict", "cutover"],
)
def test_a_forced_action_survives_a_freeze(action: IceAction, expected: type[MeshOsAction]) -> None:
    dispatcher = Recorder()
    with operated(dispatcher) as deck:
        deck.runtime.handle().publish_many(LED)
        holds(deck, 1, 2)
        deck.force(FreezeCluster(MINUTE))
        receipt = deck.force(action)
        assert dispatcher.actions.values == []
        deck.force(ThawCluster())
        (emitted,) = dispatcher.actions.first(1)
        assert isinstance(emitted, expected)
        assert emitted.cause.envelope_id == receipt.envelope_id


def test_forced_actions_survive_a_full_queue() -> None:
    go_on = threading.Event()

    def hold(_: MeshOsAction) -> None:
        assert go_on.wait(PATIENCE)

    dispatcher = Recorder(hold)
    config = MeshOsConfig(this_node=1, tick_interval=TICK, action_queue_capacity=2)
    with operated(dispatcher, config=config) as deck:
        deck.runtime.handle().publish_many(LED)
        holds(deck, 1, 2)
        for number in range(100, 140):
            deck.runtime.set_intent(number, DaemonIntent.RUN)
        seen(deck.runtime, lambda s: s.metrics.dropped_actions > 0)
        deck.force(ForceEvictReplica(CHAIN, 2))
        go_on.set()
        dispatcher.actions.until(lambda actions: RequestEviction(CHAIN, 2) in actions)
        assert dispatcher.actions.values.count(RequestEviction(CHAIN, 2)) == 1


# ---------------------------------------------------------------- extremes


def freeze_bytes(ttl: timedelta) -> IceEnvelope:
    """A freeze of any length; its preview is that of a node without peers."""
    from meshos.operator import BlastRadius, BlastWarning

    blast = BlastRadius(
        affected_nodes=(1,),
        affected_replicas=(),
        affected_daemons=(),
        estimated_drain_delay=ttl,
        placement_churn_basis_points=0,
        warnings=(BlastWarning("cluster_freeze_blocks_operator_actions", ()),),
    )
    envelope = IceEnvelope(
        action=FreezeCluster(ttl), blast_radius=blast, cluster_id=CLUSTER, reason="test", threshold=2
    )
    return envelope.with_signatures([ALICE.sign(envelope), BOB.sign(envelope)])


MS = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("ttl", "good"),
    [
        (timedelta(seconds=1) - MS, False),
        (timedelta(seconds=1), True),
        (timedelta(hours=24), True),
        (timedelta(hours=24) + MS, False),
        (timedelta(days=100_000), False),
    ],
    ids=str,
)
def test_a_freeze_lasts_from_a_second_to_a_day(ttl: timedelta, *, good: bool) -> None:
    with operated(LoggingDispatcher()) as deck:
        if good:
            deck.force(FreezeCluster(ttl))
            until = deck.runtime.snapshot().freeze_until
            assert until is not None
            assert abs(until - datetime.now(UTC) - ttl) < TIMEOUT
        else:
            with pytest.raises((InvalidSpan, VerifyError)) as refused:
                deck.client.ice.commit(freeze_bytes(ttl))
            assert refused.value.kind == "invalid_span"
            assert deck.runtime.snapshot().freeze_until is None


def test_the_shortest_freeze_ends_by_itself() -> None:
    dispatcher = Recorder()
    with operated(dispatcher) as deck:
        deck.force(FreezeCluster(timedelta(seconds=1)))
        deck.runtime.set_intent(42, DaemonIntent.RUN)
        assert deck.runtime.snapshot().freeze_until is not None
        dispatcher.actions.first(1)
        seen(deck.runtime, lambda s: s.freeze_until is None)
        deck.order(Cordon(5))


@pytest.mark.parametrize("days", [-1, 1])
def test_an_operator_whose_clock_is_a_day_off_is_refused(days: int) -> None:
    with operated(LoggingDispatcher()) as deck:
        now = datetime.now(UTC) + timedelta(days=days)
        issued = now.replace(microsecond=0)
        envelope = IceEnvelope(
            action=ThawCluster(),
            blast_radius=simulate(deck.runtime.snapshot(), ThawCluster()),
            cluster_id=CLUSTER,
            reason="test",
            threshold=2,
            issued_at=issued,
            not_after=issued + timedelta(days=2),
        )
        with pytest.raises(VerifyError) as refused:
            deck.client.ice.commit(envelope.with_signatures([ALICE.sign(envelope), BOB.sign(envelope)]))
        assert refused.value.kind == ("envelope_from_future" if days > 0 else "envelope_expired")


def test_a_restart_of_one_daemon_does_not_hold_up_a_freeze() -> None:
    with operated(LoggingDispatcher(), admin_verifier=verifier(cooldown=MINUTE)) as deck:
        daemon = DaemonRef(42, "ingest")
        deck.force(ForceRestartDaemon(daemon))
        deck.force(KillMigration(42))
        with pytest.raises(CooldownActive):
            deck.force(ForceRestartDaemon(daemon))
        deck.force(FreezeCluster(MINUTE))
        assert deck.runtime.snapshot().freeze_until is not None
        # A thaw waits for none, and holds up none: the freeze before it does.
        deck.force(ThawCluster())
        deck.force(ThawCluster())
        with pytest.raises(CooldownActive) as cooling:
            deck.force(FreezeCluster(MINUTE))
        assert cooling.value.bucket == "cluster:freeze"


def test_of_two_commits_for_one_target_at_once_one_is_obeyed() -> None:
    with operated(LoggingDispatcher(), admin_verifier=verifier(cooldown=MINUTE)) as deck:
        bundles = [deck.agreed(FreezeCluster(MINUTE)) for _ in range(8)]
        start = threading.Barrier(len(bundles))
        kinds: list[str] = []

        def commit(bundle: IceEnvelope) -> None:
            start.wait()
            try:
                deck.client.ice.commit(bundle)
                kinds.append("accepted")
            except VerifyError as error:
                kinds.append(error.kind)

        threads = [threading.Thread(target=commit, args=(bundle,)) for bundle in bundles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(kinds) == ["accepted"] + 7 * ["ice_cooldown_active"]
        assert sum(record.times for record in deck.client.audit()) == len(bundles)


def test_what_a_preview_did_not_show_is_not_touched() -> None:
    with operated(LoggingDispatcher()) as deck:
        bundle = deck.agreed(FreezeCluster(MINUTE))
        deck.runtime.handle().publish(NodeHealthUpdate(9, NodeHealth.HEALTHY))
        seen(deck.runtime, lambda s: 9 in s.peers)
        with pytest.raises(PreviewStale) as stale:
            deck.client.ice.commit(bundle)
        assert stale.value.drift == ("node:9",)
        assert deck.runtime.snapshot().freeze_until is None
        # What shrank since is no surprise: the preview names more than is touched.
        wide = deck.agreed(ForceEvictReplica(CHAIN, 2))
        deck.client.ice.commit(wide)


# ---------------------------------------------------------------- the preview and what then happens

NODES = st.integers(1, 5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    holders=st.sets(NODES, min_size=1),
    target=NODES,
    evict=st.booleans(),
    sick=st.sets(st.integers(2, 5)),
    cordoned=st.sets(NODES),
    desired=st.one_of(st.none(), st.integers(0, 5)),
)
def test_the_leader_does_what_the_preview_said(
    *,
    holders: set[int],
    target: int,
    evict: bool,
    sick: set[int],
    cordoned: set[int],
    desired: int | None,
) -> None:
    """In any state, a forced action is about the chain and the node of its preview, or about nothing."""
    dispatcher = Recorder()
    action = ForceEvictReplica(CHAIN, target) if evict else ForceCutover(CHAIN, target)
    with operated(dispatcher, config=CONFIG) as deck:
        # Frozen, so that nothing else comes first.
        deck.order(Cordon(9))
        for each in sorted(cordoned):
            deck.order(Cordon(each))
        deck.force(FreezeCluster(MINUTE))
        handle = deck.runtime.handle()
        handle.publish_many([ReplicaUpdate(CHAIN, holder, ReplicaChange.ADDED) for holder in sorted(holders)])
        handle.publish_many([NodeHealthUpdate(peer, NodeHealth.UNREACHABLE) for peer in sorted(sick)])
        if desired is not None:
            handle.publish(PlacementIntent(CHAIN, desired))
        handle.publish(ReplicaLeaderUpdate(CHAIN, 1, 1))
        seen(deck.runtime, lambda s: CHAIN in s.replicas and s.replicas[CHAIN].leader == 1)
        preview = simulate(deck.runtime.snapshot(), action)
        receipt = deck.force(action)
        kinds = {warning.kind for warning in preview.warnings}
        nothing = kinds & {"forced_eviction_targets_non_holder", "forced_cutover_target_already_holder"}
        assert bool(nothing) == ((target not in holders) if evict else (target in holders))
        deck.force(ThawCluster())
        if not nothing:
            eventually(lambda: bool(ordered_by(dispatcher, receipt.envelope_id)))
        # One look at everything that the thaw set free.
        deck.order(InvalidatePlacement(1))
        for emitted in ordered_by(dispatcher, receipt.envelope_id):
            assert (emitted.chain, emitted.victim if isinstance(emitted, RequestEviction) else emitted.target) == (
                *preview.affected_replicas,
                *preview.affected_nodes,
            )


def ordered_by(dispatcher: Recorder, envelope_id: bytes) -> list[RequestEviction | RequestPlacement]:
    """The actions that come of an envelope."""
    return [
        action
        for action in dispatcher.actions.values
        if isinstance(action, RequestEviction | RequestPlacement) and action.cause.envelope_id == envelope_id
    ]
