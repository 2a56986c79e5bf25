"""What commands alone decided is rebuilt from the audit, bit for bit, and goes on in the next run."""

from __future__ import annotations

import pickle
import random
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import envelopes
import replays
import trails
from daemons import eventually
from loops import TICK, TIMEOUT, Recorder, seen
from meshos import DaemonIntent, DaemonRef, MeshOsConfig, MeshOsRuntime
from meshos.audit import (
    AdminAuditRecord,
    FileAdminAuditAppender,
    FileLogAppender,
    ForcedOrder,
    MaintenanceOrder,
    ReplayReport,
    replay_records,
)
from meshos.dispatch import LoggingDispatcher, RequestPlacement
from meshos.errors import BrokenLink, FileDecodeError, FreezeInEffect, InvalidArgument, Replayed, VerifyError
from meshos.events import (
    AdminEvent,
    ClearAvoidList,
    Cordon,
    Drain,
    DropReplicas,
    EnterMaintenance,
    ExitMaintenance,
    InvalidatePlacement,
    ReplicaBecameHolderAndLeader,
    RestartAllDaemons,
    Uncordon,
)
from meshos.operator import (
    FlushAvoidLists,
    ForceCutover,
    ForceEvictReplica,
    ForceRestartDaemon,
    FreezeCluster,
    Global,
    IceAction,
    KillMigration,
    Local,
    OnPeer,
    ThawCluster,
    Verdict,
)
from meshos.status import Active, EnteringMaintenance, ExitingMaintenance, MaintenancePhase
from pages import ROOT
from signing import ALICE, Deck, verifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshos.dispatch import ActionDispatcher
    from meshos.operator import AdminVerifier

MINUTE = timedelta(minutes=1)
MS = timedelta(milliseconds=1)
DAY = timedelta(days=1)
DATA = ROOT / "tests" / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.chain"


@contextmanager
def kept(
    file: Path,
    dispatcher: ActionDispatcher | None = None,
    *,
    required: bool = True,
    checked_by: AdminVerifier | None = None,
) -> Iterator[Deck]:
    """Give a running node that keeps its audit in a file, and the client of an operator."""
    config = MeshOsConfig(this_node=1, tick_interval=TICK, audit="required" if required else "best_effort")
    with MeshOsRuntime.start(
        config,
        dispatcher or LoggingDispatcher(),
        admin_verifier=checked_by or verifier(),
        admin_audit_appender=FileAdminAuditAppender(file),
    ) as runtime:
        yield Deck(runtime)


def live(deck: Deck) -> bytes:
    return deck.runtime.snapshot().control_digest


def is_replayed(file: Path, deck: Deck) -> bool:
    """Whether the file tells of what the node shows; while its last entry is written, it does not yet."""
    try:
        return replay_records(file).digest == live(deck)
    except FileDecodeError:
        return False


def commit(deck: Deck, command: AdminEvent | IceAction) -> bool:
    """Whether the node obeyed a command of both operators."""
    try:
        if isinstance(command, ICE):
            deck.force(command)
        else:
            deck.order(command)
    except VerifyError:
        return False
    return True


ICE = (
    FreezeCluster,
    ThawCluster,
    FlushAvoidLists,
    ForceEvictReplica,
    ForceRestartDaemon,
    ForceCutover,
    KillMigration,
)
EVERY: list[AdminEvent | IceAction] = [
    Cordon(1),
    Cordon(5),
    Uncordon(5),
    EnterMaintenance(5, MINUTE),
    EnterMaintenance(1, None),
    ExitMaintenance(1),
    Drain(6, MINUTE),
    RestartAllDaemons(1),
    ClearAvoidList(1),
    DropReplicas(1, (7, 8)),
    InvalidatePlacement(1),
    ForceEvictReplica(7, 2),
    ForceCutover(7, 3),
    ForceRestartDaemon(DaemonRef(42, "ingest")),
    FlushAvoidLists(Local(1)),
    FlushAvoidLists(OnPeer(2)),
    FlushAvoidLists(Global()),
    KillMigration(42),
    FreezeCluster(MINUTE),
    ThawCluster(),
    FreezeCluster(60 * MINUTE),
]


@pytest.mark.parametrize("required", [True, False])
def test_every_command_changes_the_state_as_its_record_does(file: Path, *, required: bool) -> None:
    digests = set()
    with kept(file, required=required) as deck:
        for command in EVERY:
            assert commit(deck, command)
            eventually(lambda: is_replayed(file, deck))
            digests.add(live(deck))
        assert replays.digest(file.read_bytes()) == live(deck)
        report = replay_records(file)
        until = deck.runtime.snapshot().freeze_until

    assert len(digests) == len(EVERY)
    assert (report.records, report.accepted, report.rejected, report.runs) == (len(EVERY), len(EVERY), 0, 1)
    assert (report.cordoned, report.freeze_until) == ((1,), until)
    assert [(order.node, order.returns) for order in report.maintenance] == [(5, False), (6, True)]
    assert [(order.chain, order.order, order.node) for order in report.forced] == [(7, "evict", 2), (7, "cutover", 3)]
    assert report.envelopes == len(EVERY)


@pytest.mark.parametrize("seed", range(6))
def test_random_commands_and_restarts_replay_to_the_live_digest(file: Path, seed: int) -> None:
    draw = random.Random(seed)
    checked_by = verifier(cooldown=draw.choice([timedelta(0), 50 * MS, MINUTE]))
    accepted = rejected = 0
    for _ in range(4):
        with kept(file, required=draw.random() < 0.7, checked_by=checked_by) as deck:
            assert replay_records(file).digest == live(deck)
            for _ in range(15):
                if commit(deck, draw.choice(EVERY)):
                    accepted += 1
                else:
                    rejected += 1
                eventually(lambda: is_replayed(file, deck))
    report = replay_records(file)
    assert report.digest == replays.digest(file.read_bytes()), "another program comes to the same"
    assert (report.accepted, report.rejected, report.runs) == (accepted, rejected, 4)
    assert accepted
    assert rejected


def test_what_was_refused_leaves_the_state_alone(file: Path) -> None:
    with kept(file) as deck:
        deck.order(Cordon(5))
        deck.force(FreezeCluster(MINUTE))
        before = live(deck)
        for _ in range(3):
            with pytest.raises(FreezeInEffect):
                deck.order(Cordon(6))
        assert live(deck) == before
    report = replay_records(file)
    assert (report.digest, report.accepted, report.rejected) == (before, 2, 3)


def test_time_alone_changes_nothing(file: Path) -> None:
    with kept(file) as deck:
        deck.force(FreezeCluster(timedelta(seconds=1)))
        before = live(deck)
        seen(deck.runtime, lambda s: s.freeze_until is None)
        assert live(deck) == before
    report = replay_records(file)
    assert report.digest == before
    assert report.at is not None
    assert report.freeze_until is not None
    assert replay_records(file, at=report.freeze_until).freeze_until is None
    assert replay_records(file, at=report.freeze_until - MS).freeze_until == report.freeze_until


def test_a_moment_in_the_past(file: Path) -> None:
    digests = []
    with kept(file) as deck:
        moments = []
        for command in (Cordon(5), Cordon(6), Uncordon(5)):
            deck.order(command)
            moments.append(deck.client.audit()[0].committed_at)
            digests.append(live(deck))
    assert replay_records(file, at=moments[0] - DAY) == ReplayReport(
        **dict.fromkeys(("records", "accepted", "rejected", "runs", "envelopes"), 0),
        at=moments[0] - DAY,
        freeze_until=None,
        cordoned=(),
        maintenance=(),
        forced=(),
        digest=replay_records(file, at=moments[0] - DAY).digest,
    )
    assert replay_records(file, at=moments[2]).digest == digests[2]
    assert replay_records(file, at=moments[2] + DAY).cordoned == (6,)
    # What was recorded within one millisecond cannot be told apart.
    assert replay_records(file, at=moments[1] - MS).digest in (
        digests[0],
        replay_records(file, at=moments[0] - MS).digest,
    )


# ---------------------------------------------------------------- the bytes of the state, which never change

AT_MS = 1_700_000_000_000
GOLDEN = "20f3aed41d0c2770978cb774bb22235c7e24f5051d8cc0f1723bab93e655309c"
EVERY_KIND = "9f4ab605beb0b4c682fb37ba2d0b02ccd58382e41225744745b01b8abb00d918"
"""Digests that were computed once, by `replays.py`."""


def written(orders: list[tuple[bool, envelopes.Fields]]) -> bytes:
    """A file of another program, with two runs of which the second has a clock that was set back."""
    trail = trails.Trail("audit", bytes(16), AT_MS)
    trail.add(trails.run(1, AT_MS))
    for seq, (is_ice, fields) in enumerate(orders, start=1):
        order = envelopes.action_bytes(fields) if is_ice else envelopes.event_bytes(fields)
        trail.add(
            trails.audit(
                seq,
                AT_MS + seq,
                order=order,
                is_ice=is_ice,
                verdict="accepted",
                rejected_kind=None,
                operators=(7, 8),
                reason="test",
                envelope_id=bytes([seq]) * 16,
                issued_at_ms=AT_MS - seq,
                times=1,
            )
        )
    trail.add(trails.run(2, AT_MS - 3_600_000))
    return trail.data


def test_known_states_have_known_digests(file: Path) -> None:
    golden = DATA / "audit_records_v1.bin"
    assert replay_records(golden).digest.hex() == replays.digest(golden.read_bytes()).hex() == GOLDEN
    node: envelopes.Fields = {"node": 7}
    plain = (
        "exit_maintenance",
        "cordon",
        "uncordon",
        "restart_all_daemons",
        "clear_avoid_list",
        "invalidate_placement",
    )
    orders: list[tuple[bool, envelopes.Fields]] = [(False, {"kind": kind, **node}) for kind in plain]
    orders += [
        (False, {"kind": "enter_maintenance", "node": 8, "drain_ms": None}),
        (False, {"kind": "enter_maintenance", "node": 9, "drain_ms": 60_000}),
        (False, {"kind": "drain", "node": 10, "drain_ms": 60_000}),
        (False, {"kind": "drop_replicas", "node": 7, "chains": [1, 2]}),
        (False, {"kind": "cordon", "node": 2**64 - 1}),
        (True, {"kind": "thaw_cluster"}),
        (True, {"kind": "freeze_cluster", "ttl_ms": 300_000}),
        (True, {"kind": "flush_avoid_lists", "scope": "global"}),
        (True, {"kind": "flush_avoid_lists", "scope": "on_peer", "peer": 5}),
        (True, {"kind": "force_evict_replica", "chain": 100, "victim": 7}),
        (True, {"kind": "force_cutover", "chain": 100, "target": 42}),
        (True, {"kind": "force_cutover", "chain": 101, "target": 43}),
        (True, {"kind": "force_restart_daemon", "daemon": 7, "name": "ab"}),
        (True, {"kind": "kill_migration", "migration": 999}),
    ]
    file.write_bytes(written(orders))
    assert replay_records(file).digest.hex() == replays.digest(file.read_bytes()).hex() == EVERY_KIND


# ---------------------------------------------------------------- the next run


def test_the_next_run_goes_on_where_the_last_one_was(file: Path) -> None:
    with kept(file) as first:
        for command in (Cordon(1), Cordon(5), EnterMaintenance(5, None), FreezeCluster(MINUTE)):
            assert commit(first, command)
        until, digest = first.runtime.snapshot().freeze_until, live(first)
    with kept(file) as second:
        shown = second.runtime.snapshot()
        assert (shown.freeze_until, shown.cordoned, shown.peers[5].cordoned) == (until, True, True)
        assert shown.peers[5].maintenance is MaintenancePhase.ENTERING
        assert shown.control_digest == digest
        with pytest.raises(FreezeInEffect):
            second.order(Uncordon(1))
        second.force(ThawCluster())
        second.order(Uncordon(1))
        digest = live(second)
    with kept(file) as third:
        shown = third.runtime.snapshot()
        assert (shown.freeze_until, shown.cordoned, shown.control_digest) == (None, False, digest)
    report = replay_records(file)
    assert (report.runs, report.digest, report.cordoned) == (3, digest, (5,))


def entering(deck: Deck) -> EnteringMaintenance:
    state = deck.runtime.snapshot().local_maintenance
    assert isinstance(state, EnteringMaintenance)
    return state


def test_a_node_in_maintenance_is_still_there_after_a_restart(file: Path) -> None:
    with kept(file) as first:
        first.order(EnterMaintenance(1, MINUTE))
        deadline = entering(first).deadline
    with kept(file) as second:
        assert entering(second).deadline == deadline
        second.order(ExitMaintenance(1))
        assert isinstance(second.runtime.snapshot().local_maintenance, ExitingMaintenance)
    with kept(file) as third:
        assert isinstance(third.runtime.snapshot().local_maintenance, Active)


def test_what_was_forced_and_not_carried_out_is_forced_in_the_next_run(file: Path) -> None:
    with kept(file) as first:
        receipt = first.force(ForceCutover(7, 8))
    dispatcher = Recorder()
    with kept(file, dispatcher) as second:
        second.runtime.handle().publish(ReplicaBecameHolderAndLeader(7, 1, 1))
        (placement,) = dispatcher.actions.first(1)
    assert isinstance(placement, RequestPlacement)
    assert (placement.target, placement.cause.envelope_id) == (8, receipt.envelope_id)


def test_an_envelope_is_obeyed_in_one_run_only(file: Path) -> None:
    with kept(file) as first:
        bundle = first.agreed(ThawCluster())
        first.client.ice.commit(bundle)
    with kept(file, checked_by=verifier()) as second, pytest.raises(Replayed):
        second.client.ice.commit(bundle)


def record(seq: int, at: datetime, event: AdminEvent | IceAction) -> AdminAuditRecord:
    return AdminAuditRecord(
        seq=seq,
        committed_at=at,
        event=event,
        envelope_id=bytes([seq]) * 16,
        operator_ids=(ALICE.operator_id,),
        reason="test",
        verdict=Verdict.ACCEPTED,
        rejected_kind=None,
    )


@pytest.mark.parametrize(
    ("ago", "ttl", "left"),
    [
        (timedelta(0), MINUTE, MINUTE),
        (DAY, MINUTE, None),
        # The clock was set back by a day: the freeze lasts as long as it was ordered for, and not a day longer.
        (-DAY, MINUTE, MINUTE),
        (12 * timedelta(hours=1), DAY, 12 * timedelta(hours=1)),
    ],
    ids=["no jump", "a day ahead", "a day back", "half a day ahead"],
)
def test_a_clock_that_jumps_between_two_runs(
    file: Path, ago: timedelta, ttl: timedelta, left: timedelta | None
) -> None:
    with_freeze = FileAdminAuditAppender(file)
    now = datetime.now(UTC)
    with_freeze.append(record(1, now - ago, FreezeCluster(ttl)))
    with_freeze.append(record(2, now - ago, Cordon(5)))
    with_freeze.close()
    with kept(file) as deck:
        until = deck.runtime.snapshot().freeze_until
        assert (until is None) == (left is None)
        if until is not None and left is not None:
            assert abs(until - datetime.now(UTC) - left) < TIMEOUT
        assert replay_records(file).digest == live(deck)
        deck.force(ThawCluster())
        deck.runtime.set_intent(42, DaemonIntent.RUN)
        deck.order(Cordon(6))
        assert replay_records(file).digest == live(deck) == replays.digest(file.read_bytes())
        assert replay_records(file).cordoned == (5, 6)


# ---------------------------------------------------------------- what is no audit


def test_an_empty_file_tells_of_nothing(file: Path) -> None:
    FileAdminAuditAppender(file).close()
    report = replay_records(file)
    assert (report.records, report.runs, report.cordoned, report.envelopes) == (0, 1, (), 0)
    assert pickle.loads(pickle.dumps(report)) == report
    order = MaintenanceOrder(node=1, since=datetime.now(UTC), deadline=None, returns=False)
    forced = ForcedOrder(chain=7, order="evict", node=2, until=datetime.now(UTC), envelope_id=None)
    assert pickle.loads(pickle.dumps((order, forced))) == (order, forced)


def test_what_is_no_audit_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replay_records(file)
    FileLogAppender(file).close()
    with pytest.raises(FileDecodeError, match="log records"):
        replay_records(file)
    audit = tmp_path / "other.chain"
    with kept(audit) as deck:
        deck.order(Cordon(5))
    data = bytearray(audit.read_bytes())
    data[-40] ^= 1
    audit.write_bytes(data)
    with pytest.raises((BrokenLink, FileDecodeError)):
        replay_records(audit)
    with pytest.raises(TypeError):
        replay_records(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        replay_records(audit, at=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        replay_records(audit, at=datetime.now())
