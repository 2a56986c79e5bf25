"""Envelopes once more, from hashlib, struct, zlib and PyNaCl alone, to compare the extension with.

`python tests/envelopes.py` wrote `data/envelopes.json`, once; it is never written again. In it are the fields of
envelopes, and every byte that follows from them.
"""

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from nacl.signing import SigningKey

FILE = Path(__file__).parent / "data" / "envelopes.json"
U64_MAX = 2**64 - 1
Value: TypeAlias = "int | str | Sequence[Value] | Mapping[str, Value] | None"
Fields: TypeAlias = Mapping[str, Value]


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def long(data: bytes) -> bytes:
    """Bytes after their length."""
    return struct.pack("<I", len(data)) + data


def option(number: int | None) -> bytes:
    return b"\0" if number is None else b"\1" + u64(number)


def listed(items: Iterable[bytes]) -> bytes:
    items = list(items)
    return struct.pack("<I", len(items)) + b"".join(items)


def number(fields: Fields, name: str) -> int:
    value = fields[name]
    assert isinstance(value, int), name
    return value


def text(fields: Fields, name: str) -> str:
    value = fields[name]
    assert isinstance(value, str), name
    return value


def numbers(fields: Fields, name: str) -> list[int]:
    values = fields[name]
    assert isinstance(values, Sequence), name
    return [value for value in values if isinstance(value, int)]


def operator_id(public_key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"meshos.operator.v1\0" + public_key).digest()[:8], "little")


# ---------------------------------------------------------------- what is ordered

EVENTS = {
    "enter_maintenance": 1,
    "exit_maintenance": 2,
    "drain": 3,
    "cordon": 4,
    "uncordon": 5,
    "restart_all_daemons": 6,
    "clear_avoid_list": 7,
    "drop_replicas": 8,
    "invalidate_placement": 9,
}
ACTIONS = {
    "freeze_cluster": 1,
    "thaw_cluster": 2,
    "flush_avoid_lists": 3,
    "force_evict_replica": 4,
    "force_restart_daemon": 5,
    "force_cutover": 6,
    "kill_migration": 7,
}
SCOPES = {"local": 1, "on_peer": 2, "global": 3}
WARNINGS = {
    "cluster_freeze_blocks_operator_actions": 1,
    "thaw_resumes_pending_reconciles": 2,
    "thaw_has_no_freeze_to_cancel": 3,
    "global_avoid_flush_may_re_emit": 4,
    "avoid_flush_local_to_target_node_only": 5,
    "avoid_flush_recovers_peer": 6,
    "forced_eviction_bypasses_cooldown": 7,
    "forced_eviction_targets_unknown_chain": 8,
    "forced_eviction_targets_non_holder": 9,
    "forced_restart_bypasses_backoff": 10,
    "forced_restart_targets_unknown_daemon": 11,
    "forced_restart_daemon_not_in_backoff": 12,
    "forced_cutover_bypasses_placement_scorer": 13,
    "forced_cutover_targets_unknown_chain": 14,
    "forced_cutover_target_already_holder": 15,
    "kill_migration_only_local_visible": 16,
}


def event_bytes(event: Fields) -> bytes:
    kind = text(event, "kind")
    head = bytes([EVENTS[kind]]) + u64(number(event, "node"))
    if kind == "enter_maintenance":
        return head + option(None if event["drain_ms"] is None else number(event, "drain_ms"))
    if kind == "drain":
        return head + u64(number(event, "drain_ms"))
    if kind == "drop_replicas":
        return head + listed(map(u64, numbers(event, "chains")))
    return head


def action_bytes(action: Fields) -> bytes:
    kind = text(action, "kind")
    tag = bytes([ACTIONS[kind]])
    match kind:
        case "freeze_cluster":
            return tag + u64(number(action, "ttl_ms"))
        case "flush_avoid_lists":
            scope = text(action, "scope")
            ids = {"local": ["node"], "on_peer": ["peer"], "global": []}[scope]
            return tag + bytes([SCOPES[scope]]) + u64(*(number(action, name) for name in ids))
        case "force_evict_replica":
            return tag + u64(number(action, "chain"), number(action, "victim"))
        case "force_restart_daemon":
            return tag + u64(number(action, "daemon")) + long(text(action, "name").encode())
        case "force_cutover":
            return tag + u64(number(action, "chain"), number(action, "target"))
        case "kill_migration":
            return tag + u64(number(action, "migration"))
        case _:
            return tag


@dataclass(frozen=True)
class Blast:
    """What an action will touch."""

    nodes: Sequence[int] = ()
    replicas: Sequence[int] = ()
    daemons: Sequence[tuple[int, str]] = ()
    delay_ms: int | None = None
    churn: int = 0
    warnings: Sequence[tuple[str, Sequence[int]]] = ()

    def encode(self) -> bytes:
        return (
            b"\1"
            + listed(map(u64, self.nodes))
            + listed(map(u64, self.replicas))
            + listed(u64(daemon) + long(name.encode()) for daemon, name in self.daemons)
            + option(self.delay_ms)
            + struct.pack("<I", self.churn)
            + listed(bytes([WARNINGS[kind], len(ids)]) + u64(*ids) for kind, ids in self.warnings)
        )

    def hash(self) -> bytes:
        return hashlib.sha256(b"meshos.blast.v1\0" + self.encode()).digest()


# ---------------------------------------------------------------- envelopes


@dataclass(frozen=True)
class Header:
    """What both kinds have."""

    cluster_id: bytes = b"prod-eu"
    envelope_id: bytes = bytes(range(16))
    issued_at_ms: int = 1_700_000_000_000
    not_after_ms: int = 1_700_000_300_000
    reason: str = "incident 42"

    def encode(self) -> bytes:
        cluster = hashlib.sha256(self.cluster_id).digest()
        return b"\1" + cluster + self.envelope_id + u64(self.issued_at_ms, self.not_after_ms)


def file_bytes(signed: bytes, blast: bytes, signatures: Sequence[tuple[bytes, bytes]]) -> bytes:
    data = b"MOSE\1" + long(signed) + long(blast) + listed(key + signature for key, signature in signatures)
    return resealed(data)


def resealed(data: bytes) -> bytes:
    """Close bytes with a sum that fits."""
    return data + struct.pack("<I", zlib.crc32(data))


def armour(label: str, data: bytes) -> str:
    body = base64.b64encode(data).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


@dataclass(frozen=True)
class Admin:
    """An ordinary command."""

    event: Fields
    header: Header = field(default_factory=Header)
    signatures: Sequence[tuple[bytes, bytes]] = ()

    def signing_bytes(self) -> bytes:
        return (
            b"meshos.admin.v1\0"
            + self.header.encode()
            + long(event_bytes(self.event))
            + long(self.header.reason.encode())
        )

    def encode(self) -> bytes:
        return file_bytes(self.signing_bytes(), b"", self.signatures)

    def armoured(self) -> str:
        return armour("MESHOS ADMIN ENVELOPE", self.encode())

    def signed(self, *keys: SigningKey) -> "Admin":
        return replace(self, signatures=sign(keys, self.signing_bytes()))


@dataclass(frozen=True)
class Ice:
    """A break-glass action."""

    action: Fields
    blast: Blast
    header: Header = field(default_factory=Header)
    threshold: int = 2
    signatures: Sequence[tuple[bytes, bytes]] = ()

    def signing_bytes(self) -> bytes:
        return (
            b"meshos.ice.v1\0"
            + self.header.encode()
            + bytes([self.threshold])
            + self.blast.hash()
            + long(action_bytes(self.action))
            + long(self.header.reason.encode())
        )

    def encode(self) -> bytes:
        return file_bytes(self.signing_bytes(), self.blast.encode(), self.signatures)

    def armoured(self) -> str:
        return armour("MESHOS ICE ENVELOPE", self.encode())

    def signed(self, *keys: SigningKey) -> "Ice":
        return replace(self, signatures=sign(keys, self.signing_bytes()))


def sign(keys: Iterable[SigningKey], message: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(key.verify_key), key.sign(message).signature) for key in keys]


def key(seed: int) -> SigningKey:
    """The key of an operator in the tests: 32 times the same byte."""
    return SigningKey(bytes([seed]) * 32)


# ---------------------------------------------------------------- the vectors


def vectors() -> dict[str, Admin | Ice]:
    """One envelope of each sort, and those at the edges."""
    return {**admin_vectors(), **ice_vectors()}


def admin_vectors() -> dict[str, Admin]:
    """Ordinary commands."""
    node: Fields = {"node": 7}
    admin: dict[str, Fields] = {
        "enter_maintenance": {**node, "drain_ms": None},
        "enter_maintenance_within": {"node": 7, "drain_ms": 600_000},
        "exit_maintenance": node,
        "drain": {**node, "drain_ms": 300_000},
        "cordon": node,
        "uncordon": node,
        "restart_all_daemons": node,
        "clear_avoid_list": node,
        "drop_replicas": {**node, "chains": [9, 8, 9]},
        "drop_nothing": {**node, "chains": []},
        "invalidate_placement": node,
        "last_node": {"node": U64_MAX, "drain_ms": 999_999_999_999},
    }
    kinds = {
        "enter_maintenance_within": "enter_maintenance",
        "drop_nothing": "drop_replicas",
        "last_node": "drain",
    }
    made = {name: Admin({"kind": kinds.get(name, name), **fields}).signed(key(1)) for name, fields in admin.items()}
    made["not_signed"] = Admin({"kind": "cordon", "node": 7})
    made["of_another_time"] = Admin(
        {"kind": "cordon", "node": 7},
        Header(b"\xff" * 255, bytes([255]) * 16, 0, 253_402_300_799_999, "\N{SKULL}" * 256),
    ).signed(key(3))
    return made


def ice_vectors() -> dict[str, Ice]:
    """Break-glass actions."""
    made = {}
    nodes = (2, 3, 300)
    ice: dict[str, tuple[Fields, Blast]] = {
        "freeze_cluster": (
            {"ttl_ms": 300_000},
            Blast(nodes=(2, 3), delay_ms=300_000, warnings=[("cluster_freeze_blocks_operator_actions", ())]),
        ),
        "thaw_cluster": ({}, Blast(nodes=nodes, warnings=[("thaw_has_no_freeze_to_cancel", ())])),
        "flush_local": (
            {"scope": "local", "node": 7},
            Blast(nodes=(7,), warnings=[("avoid_flush_local_to_target_node_only", ())]),
        ),
        "flush_on_peer": (
            {"scope": "on_peer", "peer": 300},
            Blast(nodes=nodes, churn=500, warnings=[("avoid_flush_recovers_peer", (300,))]),
        ),
        "flush_global": (
            {"scope": "global"},
            Blast(nodes=nodes, churn=1000, warnings=[("global_avoid_flush_may_re_emit", ())]),
        ),
        "force_evict_replica": (
            {"chain": 100, "victim": 7},
            Blast((7,), (100,), churn=1500, warnings=[("forced_eviction_bypasses_cooldown", (100, 7))]),
        ),
        "force_restart_daemon": (
            {"daemon": 7, "name": "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve"},
            Blast(daemons=[(7, "counter")], warnings=[("forced_restart_bypasses_backoff", (7,))]),
        ),
        "force_cutover": (
            {"chain": 100, "target": 42},
            Blast((42,), (100,), churn=1500, warnings=[("forced_cutover_bypasses_placement_scorer", (100, 42))]),
        ),
        "kill_migration": ({"migration": 999}, Blast(warnings=[("kill_migration_only_local_visible", (999,))])),
    }
    for name, (fields, blast) in ice.items():
        kind = "flush_avoid_lists" if name.startswith("flush_") else name
        made[name] = Ice({"kind": kind, **fields}, blast).signed(key(1), key(2))
    counts = {1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 1, 7: 2, 8: 1, 9: 2, 10: 1, 11: 0, 12: 0, 13: 2, 14: 1, 15: 2, 16: 1}
    everything = Blast(
        nodes=(0, 1, U64_MAX),
        replicas=(0, U64_MAX),
        daemons=[(0, ""), (U64_MAX, "n" * 255)],
        delay_ms=0,
        churn=10_000,
        warnings=[(kind, (U64_MAX, 1)[: counts[tag]]) for kind, tag in WARNINGS.items()],
    )
    edge = Ice({"kind": "force_restart_daemon", "daemon": U64_MAX, "name": "n" * 255}, everything, threshold=64)
    made["everything"] = edge.signed(*map(key, range(1, 6)))
    made["no_signatures"] = Ice({"kind": "thaw_cluster"}, Blast(nodes=(1,)), threshold=1)
    return made


def row(envelope: Admin | Ice) -> dict[str, Value]:
    """Everything of one envelope, as the file has it."""
    header = envelope.header
    fields: dict[str, Value] = {
        "cluster_id": header.cluster_id.hex(),
        "envelope_id": header.envelope_id.hex(),
        "issued_at_ms": header.issued_at_ms,
        "not_after_ms": header.not_after_ms,
        "reason": header.reason,
    }
    if isinstance(envelope, Ice):
        blast = envelope.blast
        fields |= {
            "action": envelope.action,
            "threshold": envelope.threshold,
            "blast": {
                "nodes": list(blast.nodes),
                "replicas": list(blast.replicas),
                "daemons": [{"id": daemon, "name": name} for daemon, name in blast.daemons],
                "delay_ms": blast.delay_ms,
                "churn": blast.churn,
                "warnings": [{"kind": kind, "targets": list(ids)} for kind, ids in blast.warnings],
            },
            "blast_bytes": blast.encode().hex(),
            "blast_hash": blast.hash().hex(),
        }
    else:
        fields["event"] = envelope.event
    return fields | {
        "signing_bytes": envelope.signing_bytes().hex(),
        "signatures": [
            {"operator_id": f"{operator_id(key):016x}", "public_key": key.hex(), "signature": signature.hex()}
            for key, signature in envelope.signatures
        ],
        "file": envelope.encode().hex(),
        "text": envelope.armoured(),
    }


if __name__ == "__main__":
    with FILE.open("x", encoding="utf-8") as file:
        json.dump({name: row(envelope) for name, envelope in vectors().items()}, file, indent=1, ensure_ascii=True)
        file.write("\n")
