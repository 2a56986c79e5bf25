"""Records of ownership and the messages about them by the documented formulas, made without meshos."""

import struct

from blake3 import blake3
from nacl.signing import SigningKey

import reference

NOBODY = bytes(32)


def record(
    certificate: bytes, signer: SigningKey, previous: bytes = NOBODY, source: bytes = NOBODY, mid: bytes = bytes(16)
) -> bytes:
    """Bind a certificate to the record before it."""
    body = b"\1" + previous + source + mid + certificate
    return body + signer.sign(b"meshos 2026 ownership record v1\0" + body).signature


def digest(made: bytes) -> bytes:
    return blake3(made, derive_key_context="meshos 2026 ownership record v1").digest()


def records(
    entity: SigningKey, first: SigningKey, second: SigningKey, authority: SigningKey, digests: list[bytes]
) -> list[bytes]:
    """Make a record of each kind."""
    who = reference.entity_id(entity)
    one, two = reference.entity_id(first), reference.entity_id(second)
    spawn = record(reference.certificate(who, 1, one, 0, digests[0], "spawn", entity), entity)
    moved = reference.certificate(who, 2, two, 3, digests[3], "move", first)
    moved = record(moved, first, digest(spawn), one, b"\x77" * 16)
    restarted = reference.certificate(who, 3, two, 4, digests[4], "restart", second)
    restarted = record(restarted, second, digest(moved), two)
    taken = reference.certificate(who, 5, one, 4, digests[4], "takeover", authority)
    return [spawn, moved, restarted, record(taken, authority, digest(restarted), two)]


def lineage(made: list[bytes]) -> bytes:
    return struct.pack("<I", len(made)) + b"".join(made)


def frames(entity: bytes, made: list[bytes]) -> bytes:
    """One of each message, each after its length."""
    bodies = [
        (64, lineage(made[:1])),
        (65, entity + struct.pack("<Q", 1)),
        (66, made[1]),
        (67, entity + struct.pack("<QI", 2, 3000)),
        (68, made[3]),
        (69, entity + b"\1"),
        (69, entity + b"\2"),
        (70, blake3(b"state").digest() + struct.pack("<Q", 5) + lineage(made)),
        (70, bytes(40) + lineage(made)),
    ]
    framed = [
        bytes([1, kind]) + struct.pack("<QQ", 7, number) + body for number, (kind, body) in enumerate(bodies, start=1)
    ]
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in framed)
