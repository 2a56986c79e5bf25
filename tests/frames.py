"""The frames of linked streams once more, from blake3, PyNaCl, zlib and struct alone, to compare golden bytes with."""

import struct
from collections.abc import Sequence

from nacl.signing import SigningKey

import journals
import reference

VERSION = 1
SENDER_DOMAIN = b"meshos 2026 sender v1\0"


def sized(data: bytes) -> bytes:
    """Bytes after their length."""
    return struct.pack("<I", len(data)) + data


def head(kind: int, entity: bytes) -> bytes:
    return struct.pack("<BB", VERSION, kind) + entity


def flow(kind: int, entity: bytes, *numbers: int) -> bytes:
    """The beginning of a frame about an event of origin 0xaaaa in stream 7."""
    return head(kind, entity) + struct.pack(f"<{2 + len(numbers)}Q", 0xAAAA, 7, *numbers)


def lineage(certificates: Sequence[bytes]) -> bytes:
    return reference.derive("meshos 2026 lineage v1", *certificates)


def golden(chain: reference.Chain, certificates: Sequence[bytes], node: bytes) -> bytes:
    """One frame of every kind."""
    entity, (link, payload) = chain.entity, chain.events[4]
    frames = [
        flow(1, entity, 9, 8, 2) + sized(b"hello"),
        flow(2, entity, 9, 2, 6, 5) + chain.digest + b"\1",
        flow(3, entity, 9) + struct.pack("<I", 250),
        flow(4, entity, 9),
        flow(5, entity, 9, 6, 2),
        flow(6, entity, 9, 80, 2),
        flow(7, entity, 9) + node + struct.pack("<Q", 2),
        flow(8, entity, 0),
        flow(9, entity, 9, 2),
        flow(10, entity),
        head(11, entity) + struct.pack("<Q", 2) + lineage(certificates) + link + sized(payload),
        head(12, entity) + struct.pack("<QQ", 2, 5),
        head(13, entity) + struct.pack("<QQ", 0, 3),
        head(14, entity) + struct.pack("<QQ", 2, 5) + chain.digest + struct.pack("<I", 2) + b"".join(certificates),
    ]
    return b"".join(sized(frame) for frame in frames)


def sender(key: SigningKey, node: SigningKey, since_ms: int) -> bytes:
    """The record of a sender at a node."""
    record = bytes([VERSION]) + reference.entity_id(key) + reference.entity_id(node) + struct.pack("<Q", since_ms)
    message = SENDER_DOMAIN + record
    return record + node.sign(message).signature + key.sign(message).signature


def search(entity: bytes, node: bytes) -> bytes:
    """One frame of every kind of a search."""
    origin = struct.pack("<Q", reference.origin_hash(entity))
    frames = [
        bytes([VERSION, 15]) + origin,
        bytes([VERSION, 16]) + origin + entity + node + struct.pack("<Q", 2),
        bytes([VERSION, 17]) + origin,
    ]
    return b"".join(sized(frame) for frame in frames)


def due(to: bytes, stream: int, payload: bytes, *, version: int = 2) -> bytes:
    """An output that is due to another daemon."""
    named = to if version == 1 else struct.pack("<Q", reference.origin_hash(to))
    return journals.summed(bytes([version]) + named + struct.pack("<Q", stream) + sized(payload))


def reservation(up_to: int) -> bytes:
    """Up to which number a sender may have used them."""
    return journals.summed(struct.pack("<BQ", VERSION, up_to))
