"""The operator's client: commands that take effect once, and what it reads."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from nacl.signing import SigningKey

from meshos import MeshOsConfig, MeshOsRuntime
from meshos.dispatch import LoggingDispatcher
from meshos.errors import (
    CooldownActive,
    FreezeInEffect,
    InsufficientSignatures,
    LoopClosed,
    NotAuthorized,
    NoVerifier,
    PreviewStale,
    Replayed,
    RoleDenied,
    UnsignedRejected,
    WrongCluster,
)
from meshos.events import Cordon, LogLevel, LogLine, NodeHealthUpdate, SignedAdminCommit, UnsignedAdminEvent
from meshos.operator import (
    AdminEnvelope,
    AdminVerifier,
    AuditQuery,
    DeckClient,
    FreezeCluster,
    IceAction,
    IceEnvelope,
    LogFilter,
    OperatorKey,
    OperatorRegistry,
    Role,
    ThawCluster,
    Verdict,
)
from meshos.probes import NodeHealth
from meshos.stream import Gap

if TYPE_CHECKING:
    from collections.abc import Iterator

ALICE, BOB, EVE = (OperatorKey(SigningKey(bytes([number]) * 32)) for number in (1, 2, 3))
CLUSTER = b"test-cluster"
SOON = timedelta(seconds=10)


@pytest.fixture
def verifier() -> AdminVerifier:
    operators = OperatorRegistry()
    operators.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    operators.add(BOB.verify_key, name="bob", roles=[Role.ICE])
    return AdminVerifier(operators, cluster_id=CLUSTER)


@pytest.fixture
def runtime(verifier: AdminVerifier) -> Iterator[MeshOsRuntime]:
    with MeshOsRuntime.start(MeshOsConfig(this_node=1), LoggingDispatcher(), admin_verifier=verifier) as started:
        yield started


@pytest.fixture
def deck(runtime: MeshOsRuntime) -> DeckClient:
    return DeckClient.from_runtime(runtime, ALICE)


def agreed(deck: DeckClient, action: IceAction) -> IceEnvelope:
    envelope = deck.ice.propose(action, reason="test")
    return envelope.with_signatures([ALICE.sign(envelope), BOB.sign(envelope)])


FREEZE = FreezeCluster(ttl=timedelta(minutes=5))


def test_an_ordinary_command_is_back_with_a_receipt_once_in_effect(deck: DeckClient, runtime: MeshOsRuntime) -> None:
    receipt = deck.admin.commit(Cordon(5), reason="disk")
    snapshot = runtime.snapshot()
    assert snapshot.peers[5].cordoned
    assert snapshot.generation >= receipt.generation
    assert (receipt.event_kind, receipt.verdict, receipt.operator_ids) == (
        "cordon",
        Verdict.ACCEPTED,
        (ALICE.operator_id,),
    )
    (record,) = deck.audit()
    assert (record.seq, record.event, record.reason, record.envelope_id) == (
        receipt.audit_seq,
        Cordon(5),
        "disk",
        receipt.envelope_id,
    )


def test_two_operators_freeze_and_thaw(deck: DeckClient, runtime: MeshOsRuntime) -> None:
    assert runtime.snapshot().authority == "verified"
    alone = deck.ice.propose(FREEZE, reason="test")
    with pytest.raises(InsufficientSignatures) as refused:
        deck.ice.commit(alone.with_signatures([ALICE.sign(alone)]))
    assert (refused.value.got, refused.value.required, refused.value.audit_seq) == (1, 2, 1)
    assert runtime.snapshot().freeze_until is None
    bundle = agreed(deck, FREEZE)
    assert len(deck.ice.commit(bundle).operator_ids) == 2
    assert runtime.snapshot().freeze_until is not None
    with pytest.raises(FreezeInEffect):
        deck.admin.commit(Cordon(5), reason="test")
    with pytest.raises(Replayed):
        deck.ice.commit(bundle)
    deck.ice.commit(agreed(deck, ThawCluster()))
    assert runtime.snapshot().freeze_until is None
    with pytest.raises(CooldownActive) as cooling:
        deck.ice.commit(agreed(deck, FREEZE))
    assert cooling.value.bucket == "cluster:freeze"
    assert [cooldown.bucket for cooldown in deck.cooldowns()] == ["cluster:freeze"]


def test_what_the_operators_did_not_see_is_refused(deck: DeckClient, runtime: MeshOsRuntime) -> None:
    bundle = agreed(deck, FREEZE)
    runtime.handle().publish(NodeHealthUpdate(9, NodeHealth.HEALTHY))
    runtime.snapshot_reader().wait_for(lambda snapshot: 9 in snapshot.peers, timeout=SOON)
    with pytest.raises(PreviewStale) as refused:
        deck.ice.commit(bundle)
    assert refused.value.drift == ("node:9",)


def test_nothing_is_obeyed_without_the_right_key(deck: DeckClient, runtime: MeshOsRuntime) -> None:
    with pytest.raises(UnsignedRejected):
        runtime.handle().publish(UnsignedAdminEvent(Cordon(5)))
    with pytest.raises(NotAuthorized):
        DeckClient.from_runtime(runtime, EVE).admin.commit(Cordon(5), reason="test")
    with pytest.raises(RoleDenied):
        DeckClient.from_runtime(runtime, BOB).admin.commit(Cordon(5), reason="test")
    elsewhere = AdminEnvelope(event=Cordon(5), cluster_id=b"elsewhere", reason="test")
    with pytest.raises(WrongCluster):
        runtime.handle().publish(SignedAdminCommit(elsewhere.with_signature(ALICE.sign(elsewhere))))
    deck.admin.commit(Cordon(6), reason="test")
    assert set(runtime.snapshot().peers) == {6}
    kinds = [record.rejected_kind for record in deck.audit(AuditQuery(verdict=Verdict.REJECTED))]
    assert kinds == ["wrong_cluster", "role_denied", "not_authorized", "unsigned_rejected"]


def test_a_published_commit_takes_effect_too(deck: DeckClient, runtime: MeshOsRuntime) -> None:
    envelope = AdminEnvelope(event=Cordon(5), cluster_id=CLUSTER, reason="test")
    runtime.handle().publish(SignedAdminCommit(envelope.with_signature(ALICE.sign(envelope))))
    deck.watch(lambda snapshot: 5 in snapshot.peers and snapshot.peers[5].cordoned, timeout=SOON)


def test_an_envelope_is_obeyed_by_no_later_runtime_of_the_node(verifier: AdminVerifier) -> None:
    envelope = AdminEnvelope(event=Cordon(5), cluster_id=CLUSTER, reason="test")
    event = SignedAdminCommit(envelope.with_signature(ALICE.sign(envelope)))
    config = MeshOsConfig(this_node=1)
    with MeshOsRuntime.start(config, LoggingDispatcher(), admin_verifier=verifier) as first:
        first.handle().publish(event)
        first.snapshot_reader().wait_for(lambda snapshot: snapshot.audit_head_seq == 1, timeout=SOON)
    with MeshOsRuntime.start(config, LoggingDispatcher(), admin_verifier=verifier) as second:
        second.handle().publish(event)
        second.snapshot_reader().wait_for(lambda snapshot: snapshot.audit_head_seq == 1, timeout=SOON)
        assert second.audits()[0].rejected_kind == "replayed"
        assert not second.snapshot().peers


def test_without_a_verifier_nothing_is_obeyed_unless_the_configuration_says_so() -> None:
    with MeshOsRuntime.start(MeshOsConfig(this_node=1), LoggingDispatcher()) as closed:
        assert closed.snapshot().authority == "refused"
        with pytest.raises(NoVerifier):
            DeckClient.from_runtime(closed, ALICE).admin.commit(Cordon(5), reason="test")
    with MeshOsRuntime.start(MeshOsConfig(this_node=1, authority="open"), LoggingDispatcher()) as opened:
        receipt = DeckClient.from_runtime(opened, ALICE).admin.commit(Cordon(5), reason="test")
        assert (receipt.verdict, receipt.operator_ids) == (Verdict.UNVERIFIED, ())
        assert opened.snapshot().peers[5].cordoned


def test_queries_hold_all_their_conditions(deck: DeckClient) -> None:
    for node in (5, 6, 7):
        deck.admin.commit(Cordon(node), reason="test")
    deck.ice.commit(agreed(deck, FREEZE))
    assert [record.seq for record in deck.audit(AuditQuery(recent=2))] == [4, 3]
    assert [record.seq for record in deck.audit(AuditQuery(target=6))] == [2]
    assert [record.seq for record in deck.audit(AuditQuery(force_only=True))] == [4]
    assert [record.seq for record in deck.audit(AuditQuery(since=2, event_kind="cordon"))] == [3]
    assert [record.seq for record in deck.audit(AuditQuery(by_operator=BOB.operator_id))] == [4]
    assert deck.audit(AuditQuery(recent=0)) == ()


def test_streams_follow_say_what_they_missed_and_end(deck: DeckClient, runtime: MeshOsRuntime) -> None:
    handle = runtime.handle()
    with deck.logs(LogFilter(min_level=LogLevel.WARN)) as lines, deck.audit_stream() as audits:
        handle.publish(LogLine(LogLevel.INFO, "too quiet"))
        handle.publish(LogLine(LogLevel.ERROR, "loud"))
        line = lines.receive(timeout=SOON)
        assert not isinstance(line, Gap)
        assert line.message == "loud"
        deck.admin.commit(Cordon(5), reason="test")
        audit = audits.receive(timeout=SOON)
        assert not isinstance(audit, Gap)
        assert audit.event == Cordon(5)
        for number in range(3000):
            handle.publish(LogLine(LogLevel.ERROR, f"line {number}"))
        assert isinstance(lines.receive(timeout=SOON), Gap)
        runtime.shutdown()
        with pytest.raises(LoopClosed):
            audits.receive(timeout=SOON)


def test_the_twins_commit_and_watch(deck: DeckClient) -> None:
    async def main() -> None:
        receipt = await deck.admin.commit_async(Cordon(5), reason="test")
        snapshot = await deck.watch_async(lambda snapshot: snapshot.generation >= receipt.generation, timeout=SOON)
        assert snapshot.peers[5].cordoned
        await deck.ice.commit_async(agreed(deck, FREEZE))
        assert deck.status().freeze_until is not None

    asyncio.run(main())
