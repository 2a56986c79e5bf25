"""Messages and rows of a move by the documented formulas, made without meshos."""

import struct
import zlib

from blake3 import blake3
from nacl.signing import SigningKey

import reference

MID = b"\x77" * 16
IMAGE = blake3(b"image").digest()


def order(
    entity: bytes, source: SigningKey, target: SigningKey, orchestrator: SigningKey, terms: bytes = b""
) -> bytes:
    """Order the move of an entity, signed by its source."""
    nodes = b"".join(reference.entity_id(key) for key in (source, target, orchestrator))
    body = (b"\2" if terms else b"\1") + MID + entity + struct.pack("<Q", 1) + nodes + struct.pack("<QIQ", 1_767_225_630_000, 2000, 1 << 20)
    body += struct.pack("<H", 7) + b"counter" + terms + reference.entity_id(source)
    return body + source.sign(b"meshos 2026 move order v1\0" + body).signature


def queued(sequence: int, payload: bytes) -> bytes:
    numbers = struct.pack("<QQQQI", 0xAAAA, 0, sequence, sequence - 1, len(payload))
    return b"\t" * 32 + numbers + payload


def queue(*made: bytes) -> bytes:
    return struct.pack("<I", len(made)) + b"".join(made)


def frozen(head: bytes) -> bytes:
    return struct.pack("<Q", 3) + head + IMAGE


def frames(entity: bytes, ordered: bytes, head: bytes, records: list[bytes]) -> bytes:
    """One of each message, each after its length."""
    five, six = queued(5, b"five"), queued(6, b"")
    lineage = struct.pack("<I", 1) + records[0]
    text = b"ValueError: no"
    bodies = [
        (112, ordered),
        (113, b""),
        (114, b"\1" + bytes(4)),
        (114, b"\t" + struct.pack("<I", len(text)) + text),
        (115, b""),
        (116, frozen(head) + struct.pack("<Q", 5) + lineage + queue(five, six)),
        (117, struct.pack("<Q", 1) + frozen(head)),
        (118, records[1] + struct.pack("<Q", 1) + queue(six)),
        (119, b""),
        (120, b""),
        (121, b""),
        (122, b""),
        (123, b"\0"),
        (123, b"\1" + records[1]),
        (123, b"\2"),
        (124, IMAGE + struct.pack("<I", 3)),
        (125, IMAGE + struct.pack("<I", 0) + IMAGE + struct.pack("<I", 5) + b"image"),
    ]
    return framed(entity, bodies)


def framed(entity: bytes, bodies: list[tuple[int, bytes]]) -> bytes:
    """Put headers before bodies, and lengths before both."""
    made = b""
    for step, (kind, body) in enumerate(bodies, start=1):
        frame = bytes([1, kind]) + MID + entity + struct.pack("<QII", 1, step, len(body)) + body
        made += struct.pack("<I", len(frame)) + frame
    return made


def asides(
    entity: bytes, source: SigningKey, target: SigningKey, orchestrator: SigningKey, head: bytes, records: list[bytes]
) -> bytes:
    """One of each message that no machine decides, each after its length."""
    ordered = order(entity, source, target, orchestrator, b"\3" + struct.pack("<Q", 1 << 23))
    text = b"ValueError: no"
    report = b"\2" + struct.pack("<QQQQQI", 5, 4, 3, 2, 1, 6)
    bodies = [
        (126, records[1]),
        (127, report + b"\0"),
        (127, report + b"\1\t" + struct.pack("<I", len(text)) + text),
        (128, struct.pack("<Q", reference.origin_hash(entity))),
        (129, entity + reference.entity_id(source) + struct.pack("<QQH", 1, 1 << 20, 7) + b"counter"),
        (130, ordered),
        (131, ordered + frozen(head) + struct.pack("<Q", 5)),
        (132, IMAGE),
    ]
    return framed(entity, bodies)


def rows(entity: bytes, ordered: bytes, head: bytes, records: list[bytes]) -> bytes:
    """One of each row, key and value after their length."""
    lineage = struct.pack("<I", 1) + records[0]
    held = frozen(head) + struct.pack("<Q", 5) + lineage + queue(queued(5, b"five"), queued(6, b""))
    until = struct.pack("<Q", 1_767_225_660_000)
    bodies = [
        (1, ordered),
        (2, ordered + held),
        (3, until),
        (4, b""),
        (5, ordered),
        (6, b"\1" + until),
        (6, b"\2" + until),
    ]
    made = b""
    for role, body in bodies:
        value = b"\1" + body
        row = entity + bytes([role]) + MID + value + struct.pack("<I", zlib.crc32(value))
        made += struct.pack("<I", len(row)) + row
    return made
