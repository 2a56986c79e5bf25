"""Records of operators as JSON, for the operator socket and for the command line. docs/cli.md has the names.

Ids of nodes, chains, daemons and operators are text, `0x` and 16 hexadecimal digits, since many readers of JSON keep 53
bits of a number. Moments are RFC 3339 in UTC, spans are milliseconds.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

from meshos._checks import identifier
from meshos.audit import ActionRecord, AdminAuditRecord, FailureRecord, LogRecord
from meshos.daemon import DaemonRef
from meshos.errors import InvalidArgument, MeshOsError, VerifyError
from meshos.operator import Global, IceAction, IceEnvelope, Local, OnPeer

if TYPE_CHECKING:
    from meshos._frames import Message
    from meshos.audit import Record, ReplayReport
    from meshos.events import AdminEvent
    from meshos.operator import AvoidScope, BlastRadius, CommitReceipt, Cooldown
    from meshos.status import MeshOsSnapshot

_ACTIONS = {action.kind: action for action in get_args(IceAction)}
_MILLISECOND = timedelta(milliseconds=1)


def handle(number: int) -> str:
    """Write the id of a node, chain, daemon or operator."""
    return f"0x{number:016x}"


def moment(at: datetime | None) -> str | None:
    """Write a point in time."""
    return None if at is None else f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def milliseconds(span: timedelta | None) -> int | None:
    """Write a span."""
    return None if span is None else span // _MILLISECOND


# ---------------------------------------------------------------- orders


def order(event: AdminEvent | IceAction) -> Message:
    """Write a command or a break-glass action: its kind, and its fields under their names."""
    written: Message = {"kind": event.kind}
    for name in event.__match_args__:
        value: object = getattr(event, name)
        if name in ("drain_for", "ttl"):
            written[f"{name}_ms"] = milliseconds(value if isinstance(value, timedelta) else None)
        else:
            written[name] = _field(value)
    return written


def _field(value: object) -> object:
    match value:
        case int():
            return handle(value)
        case tuple():
            return [_field(each) for each in value]
        case DaemonRef(number, name):
            return {"id": handle(number), "name": name}
        case Local(node):
            return {"kind": "local", "node": handle(node)}
        case OnPeer(peer):
            return {"kind": "on_peer", "peer": handle(peer)}
        case Global():
            return {"kind": "global"}
        case _:
            message = f"an order with a {type(value).__name__} in it"
            raise TypeError(message)


def action(written: object) -> IceAction:
    """Read a break-glass action; raises `InvalidArgument`."""
    fields = _object(written, "action")
    kind = fields.pop("kind", None)
    cls = _ACTIONS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise InvalidArgument("action", "must have a known kind")
    values: list[object] = []
    for name in cls.__match_args__:
        given = fields.pop(f"{name}_ms" if name == "ttl" else name, None)
        if name == "ttl":
            values.append(span(given, name))
        elif name == "scope":
            values.append(_scope(given))
        elif name == "daemon":
            values.append(_daemon(given))
        else:
            values.append(number(given, name))
    if fields:
        raise InvalidArgument("action", "has a field that is not its own")
    made: IceAction = cls(*values)
    return made


def _scope(written: object) -> AvoidScope:
    match written:
        case {"kind": "local", "node": node, **rest} if not rest:
            return Local(number(node, "node"))
        case {"kind": "on_peer", "peer": peer, **rest} if not rest:
            return OnPeer(number(peer, "peer"))
        case {"kind": "global", **rest} if not rest:
            return Global()
        case _:
            raise InvalidArgument("scope", "must be local with a node, on_peer with a peer, or global")


def _daemon(written: object) -> DaemonRef:
    match written:
        case {"id": given, "name": name, **rest} if not rest:
            return DaemonRef(number(given, "id"), text(name, "name"))
        case {"id": given, **rest} if not rest:
            return DaemonRef(number(given, "id"))
        case _:
            raise InvalidArgument("daemon", "must have an id, and may have a name")


def number(written: object, name: str) -> int:
    """Read an id: text, decimal or hexadecimal after `0x`; raises `InvalidArgument`."""
    if isinstance(written, str):
        with suppress(ValueError):
            return identifier(written)
    raise InvalidArgument(name, "must be text: a number below 2^64, decimal, or hexadecimal after 0x")


def text(written: object, name: str) -> str:
    """Read text, without halves of characters, which JSON can write; raises `InvalidArgument`."""
    if isinstance(written, str):
        with suppress(UnicodeEncodeError):
            written.encode()
            return written
    raise InvalidArgument(name, "must be Unicode text")


def span(written: object, name: str) -> timedelta:
    """Read a span in milliseconds; raises `InvalidArgument`."""
    if isinstance(written, bool) or not isinstance(written, int) or not 0 <= written <= 1 << 40:
        raise InvalidArgument(f"{name}_ms", "must be a number of milliseconds")
    return timedelta(milliseconds=written)


def _object(written: object, name: str) -> Message:
    if not isinstance(written, dict):
        raise InvalidArgument(name, "must be an object")
    return dict(written)


# ---------------------------------------------------------------- what is shown


def preview(blast: BlastRadius) -> Message:
    """Write what an action will touch."""
    return {
        "affected_nodes": [handle(node) for node in blast.affected_nodes],
        "affected_replicas": [handle(chain) for chain in blast.affected_replicas],
        "affected_daemons": [{"id": handle(daemon.id), "name": daemon.name} for daemon in blast.affected_daemons],
        "estimated_drain_delay_ms": milliseconds(blast.estimated_drain_delay),
        "placement_churn_basis_points": blast.placement_churn_basis_points,
        "warnings": [
            {"kind": warning.kind, "targets": [handle(target) for target in warning.targets]}
            for warning in blast.warnings
        ],
    }


def envelope(found: IceEnvelope) -> Message:
    """Write a break-glass envelope but for its signatures."""
    return {
        "envelope_id": found.envelope_id.hex(),
        "cluster_sha256": found.cluster_hash.hex(),
        "action": order(found.action),
        "reason": found.reason,
        "issued_at": moment(found.issued_at),
        "not_after": moment(found.not_after),
        "threshold": found.threshold,
        "blast_radius": preview(found.blast_radius),
    }


def receipt(found: CommitReceipt) -> Message:
    """Write what a node gave for a command that took effect."""
    return {
        "envelope_id": found.envelope_id.hex(),
        "event_kind": found.event_kind,
        "verdict": str(found.verdict),
        "operator_ids": [handle(operator) for operator in found.operator_ids],
        "committed_at": moment(found.committed_at),
        "audit_seq": found.audit_seq,
        "generation": found.generation,
    }


def cooldown(found: Cooldown) -> Message:
    """Write what is left alone."""
    return {"bucket": found.bucket, "until": moment(found.until)}


def audit(found: AdminAuditRecord) -> Message:
    """Write an audit record."""
    return {
        "seq": found.seq,
        "committed_at": moment(found.committed_at),
        "event": order(found.event),
        "envelope_id": None if found.envelope_id is None else found.envelope_id.hex(),
        "operator_ids": [handle(operator) for operator in found.operator_ids],
        "reason": found.reason,
        "verdict": str(found.verdict),
        "rejected_kind": found.rejected_kind,
        "times": found.times,
        "chain_pending": found.chain_pending,
    }


def record(found: Record) -> Message:
    """Write a record of any sort."""
    match found:
        case AdminAuditRecord():
            return audit(found)
        case LogRecord():
            return {
                "seq": found.seq,
                "at": moment(found.at),
                "level": str(found.level),
                "node": handle(found.node),
                "daemon": _option(found.daemon),
                "message": found.message,
                "chain_pending": found.chain_pending,
            }
        case FailureRecord(source=source):
            return {
                "seq": found.seq,
                "at": moment(found.at),
                "source": {
                    "part": source.part,
                    "name": source.name,
                    "target": _option(source.target),
                    "action_id": source.action_id,
                    "envelope_id": None if source.envelope_id is None else source.envelope_id.hex(),
                },
                "reason": found.reason,
                "traceback": found.traceback,
                "chain_pending": found.chain_pending,
            }
        case ActionRecord():
            return {
                "seq": found.seq,
                "at": moment(found.at),
                "action_id": found.action_id,
                "action": found.action,
                "disposition": found.disposition,
                "reason": found.reason,
                "retry_after_ms": milliseconds(found.retry_after),
                "chain_pending": found.chain_pending,
            }


def _option(number: int | None) -> str | None:
    return None if number is None else handle(number)


def replay(found: ReplayReport) -> Message:
    """Write what an audit tells of."""
    return {
        "records": found.records,
        "accepted": found.accepted,
        "rejected": found.rejected,
        "runs": found.runs,
        "at": moment(found.at),
        "freeze_until": moment(found.freeze_until),
        "cordoned": [handle(node) for node in found.cordoned],
        "maintenance": [
            {
                "node": handle(each.node),
                "since": moment(each.since),
                "deadline": moment(each.deadline),
                "returns": each.returns,
            }
            for each in found.maintenance
        ],
        "forced": [
            {
                "order": each.order,
                "chain": handle(each.chain),
                "node": handle(each.node),
                "until": moment(each.until),
                "envelope_id": None if each.envelope_id is None else each.envelope_id.hex(),
            }
            for each in found.forced
        ],
        "envelopes": found.envelopes,
        "digest": found.digest.hex(),
    }


def status(snapshot: MeshOsSnapshot) -> Message:
    """Write the summary of a snapshot."""
    summary = snapshot.summary()
    peers, daemons = summary.peers, summary.daemons
    return {
        "node": handle(snapshot.this_node),
        "runtime_epoch_id": handle(snapshot.runtime_epoch_id),
        "generation": snapshot.generation,
        "published_at": moment(snapshot.published_at),
        "authority": snapshot.authority,
        "freeze_until": moment(snapshot.freeze_until),
        "maintenance": str(summary.local_maintenance),
        "cordoned": snapshot.cordoned,
        "peers": {name: getattr(peers, name) for name in ("healthy", "degraded", "unreachable", "unknown")},
        "daemons": {
            name: getattr(daemons, name)
            for name in ("running", "starting", "stopping", "stopped", "backing_off", "crash_looping")
        },
        "replica_chains": summary.replica_chains,
        "avoid_list_entries": summary.avoid_list_entries,
        "recently_emitted": summary.recently_emitted,
        "recent_failures": summary.recent_failures,
        "audit_head_seq": snapshot.audit_head_seq,
        "control_digest": snapshot.control_digest.hex(),
    }


def error(found: BaseException) -> Message:
    """Write an error; of one that is not ours, only its class."""
    if not isinstance(found, MeshOsError):
        return {"error": type(found).__name__, "kind": "other", "message": "the request failed"}
    written: Message = {"error": type(found).__name__, "kind": found.kind, "message": str(found)}
    if isinstance(found, VerifyError):
        written["audit_seq"] = found.audit_seq
    return written
