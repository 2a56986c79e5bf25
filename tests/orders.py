"""Envelopes of the independent program, as the extension has them."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, cast

from envelopes import Admin, Blast, Fields, Ice, number, numbers, operator_id, text
from meshos import events
from meshos.daemon import DaemonRef
from meshos.events import AdminEvent
from meshos.operator import (
    AdminEnvelope,
    BlastRadius,
    BlastWarning,
    BlastWarningKind,
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
    OperatorSignature,
    ThawCluster,
)

Envelope: TypeAlias = AdminEnvelope | IceEnvelope
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


def moment(unix_ms: int) -> datetime:
    return EPOCH + unix_ms * MS


def event_of(event: Fields) -> AdminEvent:
    """The event that fields say."""
    kind, node = text(event, "kind"), number(event, "node")
    match kind:
        case "enter_maintenance":
            within = event["drain_ms"]
            return events.EnterMaintenance(node, None if within is None else number(event, "drain_ms") * MS)
        case "exit_maintenance":
            return events.ExitMaintenance(node)
        case "drain":
            return events.Drain(node, number(event, "drain_ms") * MS)
        case "cordon":
            return events.Cordon(node)
        case "uncordon":
            return events.Uncordon(node)
        case "restart_all_daemons":
            return events.RestartAllDaemons(node)
        case "clear_avoid_list":
            return events.ClearAvoidList(node)
        case "drop_replicas":
            return events.DropReplicas(node, tuple(numbers(event, "chains")))
        case _:
            assert kind == "invalidate_placement"
            return events.InvalidatePlacement(node)


def action_of(action: Fields) -> IceAction:
    """The action that fields say."""
    kind = text(action, "kind")
    match kind:
        case "freeze_cluster":
            return FreezeCluster(number(action, "ttl_ms") * MS)
        case "thaw_cluster":
            return ThawCluster()
        case "flush_avoid_lists":
            scope = text(action, "scope")
            if scope == "global":
                return FlushAvoidLists(Global())
            local = scope == "local"
            return FlushAvoidLists(Local(number(action, "node")) if local else OnPeer(number(action, "peer")))
        case "force_evict_replica":
            return ForceEvictReplica(number(action, "chain"), number(action, "victim"))
        case "force_restart_daemon":
            return ForceRestartDaemon(DaemonRef(number(action, "daemon"), text(action, "name")))
        case "force_cutover":
            return ForceCutover(number(action, "chain"), number(action, "target"))
        case _:
            assert kind == "kill_migration"
            return KillMigration(number(action, "migration"))


def blast_of(blast: Blast) -> BlastRadius:
    """The record of a preview."""
    return BlastRadius(
        affected_nodes=tuple(blast.nodes),
        affected_replicas=tuple(blast.replicas),
        affected_daemons=tuple(DaemonRef(daemon, name) for daemon, name in blast.daemons),
        estimated_drain_delay=None if blast.delay_ms is None else blast.delay_ms * MS,
        placement_churn_basis_points=blast.churn,
        warnings=tuple(BlastWarning(cast("BlastWarningKind", kind), tuple(ids)) for kind, ids in blast.warnings),
    )


def made(envelope: Admin | Ice) -> Envelope:
    """Make the envelope by its constructor."""
    header = envelope.header
    signatures = [OperatorSignature(*pair) for pair in envelope.signatures]
    common: dict[str, Any] = {
        "cluster_id": header.cluster_id,
        "reason": header.reason,
        "envelope_id": header.envelope_id,
        "issued_at": moment(header.issued_at_ms),
        "not_after": moment(header.not_after_ms),
    }
    if isinstance(envelope, Ice):
        return IceEnvelope(
            action=action_of(envelope.action),
            blast_radius=blast_of(envelope.blast),
            threshold=envelope.threshold,
            signatures=signatures,
            **common,
        )
    signature = signatures[0] if signatures else None
    return AdminEnvelope(event=event_of(envelope.event), signature=signature, **common)


def read(envelope: Admin | Ice, data: bytes | None = None) -> Envelope:
    """Read bytes as the kind of envelope that one is."""
    data = envelope.encode() if data is None else data
    return IceEnvelope.from_bytes(data) if isinstance(envelope, Ice) else AdminEnvelope.from_bytes(data)


def check_says(found: Envelope, envelope: Admin | Ice) -> None:
    """Check that an envelope says what the fields say."""
    header = envelope.header
    assert (found.envelope_id, found.reason) == (header.envelope_id, header.reason)
    assert (found.issued_at, found.not_after) == (moment(header.issued_at_ms), moment(header.not_after_ms))
    assert found.signing_bytes() == envelope.signing_bytes()
    assert found.to_bytes() == envelope.encode()
    assert found.to_text() == envelope.armoured()
    if isinstance(envelope, Ice):
        assert isinstance(found, IceEnvelope)
        assert found.action == action_of(envelope.action)
        assert found.blast_radius == blast_of(envelope.blast)
        assert (found.blast_hash, found.threshold) == (envelope.blast.hash(), envelope.threshold)
        pairs = [(one.public_key, one.signature) for one in found.signatures]
        assert [one.operator_id for one in found.signatures] == [operator_id(one) for one, _ in pairs]
    else:
        assert isinstance(found, AdminEnvelope)
        assert found.event == event_of(envelope.event)
        pairs = [(found.signature.public_key, found.signature.signature)] if found.signature else []
    assert pairs == list(envelope.signatures)
