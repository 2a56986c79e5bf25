"""Messages and rows of a move by the documented formulas, made without meshos."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.signing import SigningKey

import journals
import reference

MID = b"\x77" * 16
IMAGE = blake3(b"image").digest()


def order(entity: bytes, source: SigningKey, target: SigningKey, orchestrator: SigningKey, terms: bytes = b"") -> bytes:
    """Order the move of an entity, signed by its source."""
    nodes = b"".join(reference.entity_id(key) for key in (source, target, orchestrator))
    body = (
        (b"\2" if terms else b"\1")
        + MID
        + entity
        + struct.pack("<Q", 1)
        + nodes
        + struct.pack("<QIQ", 1_767_225_630_000, 2000, 1 << 20)
    )
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


@dataclass(frozen=True)
class Image:
    """The image of the daemon of an order, frozen after its third output, with what it is sealed for."""

    entity: SigningKey
    source: SigningKey
    target: SigningKey
    rows: Sequence[bytes]
    """Rows, in their order."""
    snapshot: bytes

    def encode(self) -> bytes:
        """Put everything together."""
        return self.tagged(b"\1", self.rows, self.snapshot)

    def tagged(self, tag: bytes, rows: Sequence[bytes], snapshot: bytes) -> bytes:
        """Put an image together that begins with this tag."""
        stored = struct.pack("<BH", 2, 7) + b"counter"
        stored += struct.pack("<QI4BIQIIQ", 100, 10_000, 0, 0, 1, 1, 10_000, 64 << 20, 7, 3, 86_400_000)
        stored = journals.summed(stored + b"\1\0")
        packed = struct.pack("<I", len(rows)) + b"".join(rows)
        head = b"\1" + tag + struct.pack("<H", len(stored)) + stored + b"\1" + self.identity()
        return head + struct.pack("<Q", len(packed)) + packed + snapshot

    def since(self, copy: bytes, steps: bytes, snapshot: bytes) -> bytes:
        """Put together what came since a copy, which the row of steps goes on from."""
        return self.tagged(b"\2" + copy, (steps, *self.rows), snapshot)

    def identity(self) -> bytes:
        """Seal the key of the daemon to the target."""
        names = b"".join(reference.entity_id(key) for key in (self.entity, self.source, self.target))
        transcript = b"meshos 2026 move identity v1\0" + MID + names
        public, under = self.agreed("meshos 2026 move identity key v1", b"\x97" * 32)
        seed = bytes(self.entity)
        return public + crypto_aead_xchacha20poly1305_ietf_encrypt(seed, transcript, bytes(24), under)

    def chunk(self) -> bytes:
        """Seal all of it as one chunk."""
        image = self.encode()
        transcript = b"meshos 2026 move image v1\0" + MID + reference.entity_id(self.entity) + struct.pack("<Q", 1)
        transcript += reference.entity_id(self.source) + reference.entity_id(self.target)
        transcript += blake3(image).digest() + struct.pack("<Q", len(image))
        nonce = blake3(transcript).digest()[:16] + struct.pack("<Q", 0)
        public, under = self.agreed("meshos 2026 move image key v1", b"\x98" * 32)
        return public + crypto_aead_xchacha20poly1305_ietf_encrypt(image, transcript, nonce, under)

    def agreed(self, context: str, ephemeral: bytes) -> tuple[bytes, bytes]:
        """Make the public half of an ephemeral key, and the key that it makes with the target's."""
        public = crypto_scalarmult_base(ephemeral)
        shared = crypto_scalarmult(ephemeral, bytes(self.target.verify_key.to_curve25519_public_key()))
        return public, reference.derive(context, shared, public, reference.entity_id(self.target))


def source(publisher: bytes, log: int, channel: str) -> tuple[int, bytes]:
    """Tell which stream a channel is to a daemon, and the row of it."""
    numbered = publisher + struct.pack("<Q", log)
    stream = reference.derive("meshos 2026 channel stream v1", numbered + channel.encode())
    return int.from_bytes(stream[:8], "little"), b"\1" + numbered + reference.name(channel)
