"""Frames and heartbeats by the documented formulas, made without meshos."""

import struct

from blake3 import blake3
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.signing import SigningKey

import reference

HEARTBEAT, DATA = 1, 2
NO_LOAD = bytes.fromhex("000000000000f87f")


def mesh_id(cluster_id: bytes) -> bytes:
    return blake3(cluster_id, derive_key_context="meshos 2026 mesh v1").digest()[:16]


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<H", len(raw)) + raw


def optional(value: int | None) -> bytes:
    return b"\0" if value is None else b"\1" + struct.pack("<Q", value)


def heartbeat(
    unix_ms: int,
    interval_ms: int,
    session: bytes,
    *,
    load: float | None = None,
    memory: tuple[int | None, int | None] = (None, None),
    software: str = "",
    echoes: tuple[tuple[int, int, int, int], ...] = (),
    tags: tuple[str, ...] = (),
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Encode what a node says; an echo is a node, its run and counter, and the microseconds since."""
    parts = [b"\1\0", struct.pack("<QI", unix_ms, interval_ms), session]
    parts += [NO_LOAD if load is None else struct.pack("<d", load), *map(optional, memory), text(software)]
    parts += [bytes([len(echoes)]), *(struct.pack("<QQQI", *echo) for echo in echoes)]
    parts += [struct.pack("<I", len(tags)), *map(text, sorted(tags))]
    pairs = sorted((metadata or {}).items())
    parts += [struct.pack("<I", len(pairs)), *(text(key) + text(value) for key, value in pairs)]
    return b"".join(parts)


def header(seal: int, kind: int, mesh: bytes, sender: bytes, to: bytes, run: int, number: int, body: bytes) -> bytes:
    start = b"MSHF" + bytes([1, seal, kind, 0]) + mesh + sender + to
    return start + struct.pack("<QQI", run, number, len(body)) + body


def signed(key: SigningKey, kind: int, mesh: bytes, run: int, number: int, body: bytes) -> bytes:
    """Make a frame to everybody."""
    covered = header(1, kind, mesh, reference.entity_id(key), bytes(32), run, number, body)
    digest = blake3(covered, derive_key_context="meshos 2026 frame v1").digest()
    return covered + key.sign(digest).signature


class Side:
    """One side of a session."""

    def __init__(self, key: SigningKey, run: int, secret: bytes) -> None:
        self.node = reference.entity_id(key)
        self.run = run
        self.secret = secret
        self.public = crypto_scalarmult_base(secret)

    def bytes(self) -> bytes:
        return self.node + struct.pack("<Q", self.run) + self.public


def session_key(mesh: bytes, sender: Side, to: Side) -> bytes:
    """Return the key of what `sender` sends; with its secret, or with that of `to`."""
    shared = crypto_scalarmult(sender.secret, to.public)
    assert shared == crypto_scalarmult(to.secret, sender.public)
    data = shared + mesh + sender.bytes() + to.bytes()
    return blake3(data, derive_key_context="meshos 2026 session v1").digest()


def tagged(mesh: bytes, sender: Side, to: Side, number: int, body: bytes) -> bytes:
    """Make a frame to one node."""
    covered = header(2, DATA, mesh, sender.node, to.node, sender.run, number, body)
    return covered + blake3(covered, key=session_key(mesh, sender, to)).digest()
