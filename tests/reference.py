"""The formats of meshos once more, from PyPI's blake3, PyNaCl and struct alone, to compare the extension with."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from blake3 import blake3
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.signing import SigningKey

ZERO = bytes(32)
U64_MAX = 2**64 - 1
REASONS = {"spawn": 1, "move": 2, "restart": 3, "takeover": 4}


def derive(context: str, *parts: bytes) -> bytes:
    """BLAKE3 in its mode for deriving keys."""
    return blake3(b"".join(parts), derive_key_context=context).digest()


def head8(digest: bytes) -> int:
    """The first 8 bytes as a little-endian number."""
    return int.from_bytes(digest[:8], "little")


def entity_id(key: SigningKey) -> bytes:
    return bytes(key.verify_key)


def origin_hash(entity: bytes) -> int:
    return head8(derive("meshos 2026 origin hash v1", entity))


def node_id(entity: bytes) -> int:
    return head8(derive("meshos 2026 node id v1", entity))


# ---------------------------------------------------------------- chain


def link(origin: int, horizon: int, sequence: int, parent: int) -> bytes:
    return struct.pack("<4Q", origin, horizon, sequence, parent)


def genesis(entity: bytes, lineage: bytes = ZERO) -> bytes:
    return derive("meshos 2026 chain genesis v1", entity, lineage)


def fork_lineage(parent: bytes, sequence: int, parent_digest: bytes, child: bytes) -> bytes:
    return derive("meshos 2026 fork v1", parent, struct.pack("<Q", sequence), parent_digest, child)


def event_digest(head: bytes, link: bytes, payload: bytes) -> bytes:
    return derive("meshos 2026 chain event v1", head, link, payload)


@dataclass
class Chain:
    """A chain that is appended to."""

    entity: bytes
    lineage: bytes = ZERO
    events: list[tuple[bytes, bytes]] = field(default_factory=list)
    digests: list[bytes] = field(init=False)
    """The digest after each event; the first is before all of them."""

    def __post_init__(self) -> None:
        self.digests = [genesis(self.entity, self.lineage)]

    @property
    def sequence(self) -> int:
        return len(self.events)

    @property
    def digest(self) -> bytes:
        return self.digests[-1]

    def append(self, payload: bytes, horizon: int = 0) -> bytes:
        """Append an event and return its link."""
        made = link(origin_hash(self.entity), horizon, self.sequence + 1, head8(self.digest))
        self.events.append((made, payload))
        self.digests.append(event_digest(self.digest, made, payload))
        return made


# ---------------------------------------------------------------- horizon

_MASK = U64_MAX
# The beginning of the default secret of XXH3.
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
)


def xxh3_64(data: bytes) -> int:
    """XXH3-64 with seed 0 of 4 to 16 bytes, as in xxHash's specification."""
    assert 4 <= len(data) <= 16
    if len(data) > 8:
        low = head8(data) ^ _secret(24) ^ _secret(32)
        high = head8(data[-8:]) ^ _secret(40) ^ _secret(48)
        product = low * high
        mixed = len(data) + _swapped(low) + high + (product & _MASK ^ product >> 64) & _MASK
        mixed = (mixed ^ mixed >> 37) * 0x165667919E3779F9 & _MASK
        return mixed ^ mixed >> 32
    first, last = int.from_bytes(data[:4], "little"), int.from_bytes(data[-4:], "little")
    mixed = (last | first << 32) ^ _secret(8) ^ _secret(16)
    mixed ^= _rotated(mixed, 49) ^ _rotated(mixed, 24)
    mixed = mixed * 0x9FB21C651E98DF25 & _MASK
    mixed ^= (mixed >> 35) + len(data)
    mixed = mixed * 0x9FB21C651E98DF25 & _MASK
    return mixed ^ mixed >> 28


def _secret(at: int) -> int:
    return head8(_SECRET[at:])


def _swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(8, "little"), "big")


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def sketch(origins: Iterable[int]) -> int:
    """The union of three bits for each origin."""
    union = 0
    for origin in origins:
        mixed = xxh3_64(struct.pack("<Q", origin))
        first, step = mixed & 0xFFFFFFFF, mixed >> 32 | 1
        for number in range(3):
            union |= 1 << (first + number * step) % 64
    return union


# ---------------------------------------------------------------- signed records


def certificate(
    entity: bytes, epoch: int, node: bytes, from_sequence: int, digest: bytes, reason: str, signer: SigningKey
) -> bytes:
    body = struct.pack(
        "<BB32sQ32sQ32s32s", 1, REASONS[reason], entity, epoch, node, from_sequence, digest, entity_id(signer)
    )
    return body + signer.sign(b"meshos 2026 certificate v1\0" + body).signature


def checkpoint(
    entity: bytes, epoch: int, sequence: int, digest: bytes, unix_ms: int, node: SigningKey, previous: bytes = ZERO
) -> bytes:
    body = struct.pack("<B32sQQ32sQ32s", 1, entity, epoch, sequence, digest, unix_ms, previous)
    return body + node.sign(b"meshos 2026 checkpoint v1\0" + body).signature


def checkpoint_digest(data: bytes) -> bytes:
    """What the next checkpoint names as `previous`."""
    return derive("meshos 2026 checkpoint v1", data)


RIGHTS = {"publish": 1, "subscribe": 2, "admin": 4, "delegate": 8}


def grant(
    issuer: SigningKey,
    subject: bytes,
    channel: str | None,
    rights: Iterable[str],
    delegations: int,
    span_ms: tuple[int, int],
    nonce: bytes,
    parent: bytes = ZERO,
) -> bytes:
    """One step of a permission token."""
    bits = sum(RIGHTS[right] for right in rights)
    head = (bits, delegations, entity_id(issuer), subject, *span_ms, nonce, parent)
    scope = b"\0" if channel is None else b"\1" + bytes([len(channel)]) + channel.encode()
    body = struct.pack("<BB32s32sQQ16s32s", *head) + scope
    return body + issuer.sign(b"meshos 2026 permission token v1\0\1" + body).signature


def grant_digest(data: bytes) -> bytes:
    """What the next grant names as its parent."""
    return derive("meshos 2026 permission token v1", b"\1", data[:-64])


def token(*grants: bytes) -> bytes:
    return bytes([1, len(grants)]) + b"".join(grants)


def revocation(issuer: SigningKey, target: str, what: bytes, unix_ms: int) -> bytes:
    sort = {"token": 1, "subject": 2, "everything": 3}[target]
    body = struct.pack("<BB32s32sQ", 1, sort, entity_id(issuer), what, unix_ms)
    return body + issuer.sign(b"meshos 2026 revocation v1\0" + body).signature


def handed_key(
    key: bytes, generation: int, channel: str, publisher: SigningKey, subscriber: SigningKey, ephemeral: bytes
) -> bytes:
    """A channel's key, sealed to a subscriber."""
    public = crypto_scalarmult_base(ephemeral)
    head = struct.pack("<B32s32sQB", 1, entity_id(publisher), entity_id(subscriber), generation, len(channel))
    transcript = head + channel.encode() + public
    shared = crypto_scalarmult(ephemeral, bytes(subscriber.verify_key.to_curve25519_public_key()))
    opened = crypto_scalarmult(bytes(subscriber.to_curve25519_private_key()), public)
    assert shared == opened
    under = derive("meshos 2026 sealed channel key v1", shared, public, entity_id(subscriber))
    cipher = crypto_aead_xchacha20poly1305_ietf_encrypt(key, transcript, bytes(24), under)
    body = transcript + cipher
    return body + publisher.sign(b"meshos 2026 handed channel key v1\0" + body).signature


def sealed_payload(key: bytes, generation: int, channel: str, publisher: bytes, sequence: int, payload: bytes) -> bytes:
    """A payload of a gated channel."""
    head = struct.pack("<BQ", 1, generation)
    associated = head + publisher + struct.pack("<Q", sequence) + channel.encode()
    nonce = derive("meshos 2026 channel nonce v1", key, associated, payload)[:24]
    return head + nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(payload, associated, nonce, key)


def name(text: str) -> bytes:
    """A text after its length as a byte."""
    return bytes([len(text)]) + text.encode()


def subscribe_frame(
    channel: str, subscriber: SigningKey, after: tuple[int, int] | None, group: str | None, token: bytes
) -> bytes:
    """The body of a request to subscribe, up to and with the token."""
    body = b"\xaa" * 16 + name(channel) + entity_id(subscriber) + struct.pack("<Q", 2)
    body += b"\0" if after is None else b"\1" + struct.pack("<2Q", *after)
    body += b"\0" if group is None else b"\1" + name(group)
    return body + struct.pack("<H", len(token)) + token


def channel_event(sequence: int, emitter: bytes | None, sealed: bool, payload: bytes) -> bytes:
    who = b"\0" if emitter is None else b"\1" + emitter
    return struct.pack("<Q", sequence) + who + bytes([sealed]) + struct.pack("<I", len(payload)) + payload


def channel_frames(
    channel: str, subscriber: SigningKey, emitter: bytes, node: bytes, publisher: bytes, token: bytes
) -> bytes:
    """One of each frame of a channel, each after its length."""
    nonce, at, who = b"\xaa" * 16, name(channel), name(channel) + entity_id(subscriber)
    asked = subscribe_frame(channel, subscriber, (5, 3), "pagers", token)
    proof = subscriber.sign(b"meshos 2026 subscription v1\0" + publisher + node + asked).signature
    plain = subscribe_frame(channel, subscriber, None, None, b"")
    frames = [
        (32, asked + b"\1" + proof),
        (32, plain + b"\0"),
        (33, nonce + struct.pack("<2Q", 5, 4)),
        (34, nonce + b"\1"),
        (35, nonce + who),
        (36, nonce),
        (37, at + struct.pack("<Q", 5) + channel_event(3, emitter, False, b"hot")),
        (38, who + struct.pack("<2Q", 6, 7) + channel_event(3, None, True, b"")),
        (39, at + struct.pack("<3Q", 5, 4, 9)),
        (40, at + struct.pack("<2Q", 5, 9)),
        (41, who + struct.pack("<3Q", 5, 4, 9)),
        (42, who + struct.pack("<2Q", 6, 7)),
        (43, who + b"\4"),
        (44, who),
    ]
    return sized(frames)


def sized(frames: Iterable[tuple[int, bytes]]) -> bytes:
    """Frames of these kinds and bodies, each after its length."""
    return b"".join(struct.pack("<I", len(body) + 2) + bytes([1, kind]) + body for kind, body in frames)


def publish_frames(channel: str, publisher: SigningKey, node: bytes, owner: bytes, token: bytes) -> bytes:
    """One of each frame about what is published on a channel of another node, each after its length."""
    nonce = b"\xaa" * 16

    def head(token: bytes) -> bytes:
        return nonce + name(channel) + entity_id(publisher) + struct.pack("<H", len(token)) + token

    payload = struct.pack("<I", 3) + b"hot"
    proof = publisher.sign(b"meshos 2026 publication v1\0" + owner + node + head(token) + payload).signature
    frames = [
        (45, head(token) + b"\1" + proof + payload),
        (45, head(b"") + b"\0" + bytes(4)),
        (46, nonce + struct.pack("<Q", 3)),
        *((47, nonce + bytes([reason])) for reason in range(1, 7)),
    ]
    return sized(frames)


def fork_record(
    parent: bytes,
    child: SigningKey,
    fork_sequence: int,
    parent_digest: bytes,
    from_snapshot_sequence: int | None,
    signer: SigningKey,
) -> bytes:
    body = struct.pack(
        "<BB32s32sQ32sQ32s",
        1,
        from_snapshot_sequence is not None,
        parent,
        entity_id(child),
        fork_sequence,
        parent_digest,
        from_snapshot_sequence or 0,
        entity_id(signer),
    )
    message = b"meshos 2026 fork v1\0" + body
    return body + signer.sign(message).signature + child.sign(message).signature


# ---------------------------------------------------------------- files


def export(
    entity: bytes, certificates: Sequence[bytes], checkpoints: Sequence[bytes], events: Iterable[tuple[bytes, bytes]]
) -> bytes:
    frames = [(1, body) for body in certificates] + [(2, body) for body in checkpoints]
    frames += [(3, made + payload) for made, payload in events]
    data = b"MESHCHN1" + entity
    data += b"".join(struct.pack("<II", kind, len(body)) + body for kind, body in frames)
    return data + struct.pack("<II", 4, 32) + blake3(data).digest()


@dataclass(frozen=True)
class Receipt:
    """What a snapshot keeps of one acknowledged event."""

    sequence: int
    epoch: int
    processed: int
    position: int
    digest: bytes

    def encode(self) -> bytes:
        return struct.pack("<4Q32s", self.sequence, self.epoch, self.processed, self.position, self.digest)


@dataclass(frozen=True)
class Snapshot:
    """All that a snapshot holds."""

    kind: str
    schema: int
    entity: bytes
    epoch: int
    taken_at: int
    head: bytes
    digest: bytes
    cursors: dict[tuple[int, int], tuple[int, tuple[Receipt, ...]]]
    """Of each (origin, stream): cursor and receipts."""
    stats: tuple[int, int, int, int, int, int]
    bindings: tuple[tuple[int, str, bytes | None], ...]
    """Publisher, channel and token of each subscription."""
    lineage: tuple[bytes, ...]
    state: bytes

    def encode(self) -> bytes:
        return sealed(section(tag, body) for tag, body in enumerate(self.sections(), start=1))

    def sections(self) -> tuple[bytes, ...]:
        """The bodies of sections 1 to 7."""
        kind = self.kind.encode()
        header = struct.pack("<H", len(kind)) + kind
        header += struct.pack("<I32sQQ", self.schema, self.entity, self.epoch, self.taken_at)
        cursors = struct.pack("<I", len(self.cursors))
        for (origin, stream), (cursor, receipts) in sorted(self.cursors.items()):
            cursors += struct.pack("<3QB", origin, stream, cursor, len(receipts))
            cursors += b"".join(receipt.encode() for receipt in receipts)
        return (
            header,
            self.head + self.digest,
            cursors,
            struct.pack("<6Q", *self.stats),
            ledger(self.bindings),
            b"".join(self.lineage),
            self.state,
        )


def ledger(bindings: Sequence[tuple[int, str, bytes | None]]) -> bytes:
    """A ledger of subscriptions; nothing at all for an empty one."""
    if not bindings:
        return b""
    data = struct.pack("<I", len(bindings))
    for publisher, channel, token in sorted(bindings, key=lambda binding: binding[:2]):
        data += struct.pack("<QH", publisher, len(channel)) + channel.encode()
        data += b"\0" if token is None else struct.pack("<BH", 1, len(token)) + token
    return data


def section(tag: int, body: bytes, *, flags: int = 1, length: int | None = None) -> bytes:
    """One section of a snapshot; `length` is what it claims, if not the truth."""
    return struct.pack("<HHQ", tag, flags, len(body) if length is None else length) + body


def sealed(sections: Iterable[bytes], *, version: int = 1, magic: bytes = b"MESHSNAP") -> bytes:
    """A snapshot of these sections, closed by its digest."""
    data = magic + struct.pack("<H", version) + b"".join(sections)
    return data + blake3(data).digest()


def opened(data: bytes) -> Snapshot:
    """Read a snapshot that is known to be good."""
    assert data[:8] == b"MESHSNAP"
    assert blake3(data[:-32]).digest() == data[-32:]
    bodies: list[bytes] = []
    at, end = 10, len(data) - 32
    while at < end:
        tag, flags, length = struct.unpack_from("<HHQ", data, at)
        assert (tag, flags) == (len(bodies) + 1, 1)
        bodies.append(data[at + 12 : at + 12 + length])
        at += 12 + length
    header, head, cursors, stats, bindings, lineage, state = bodies
    (kind_length,) = struct.unpack_from("<H", header)
    schema, entity, epoch, taken_at = struct.unpack_from("<I32sQQ", header, 2 + kind_length)
    return Snapshot(
        kind=header[2 : 2 + kind_length].decode(),
        schema=schema,
        entity=entity,
        epoch=epoch,
        taken_at=taken_at,
        head=head[:32],
        digest=head[32:],
        cursors=_cursors(cursors),
        stats=struct.unpack("<6Q", stats),
        bindings=_bindings(bindings),
        lineage=tuple(lineage[at : at + 210] for at in range(0, len(lineage), 210)),
        state=state,
    )


def _cursors(data: bytes) -> dict[tuple[int, int], tuple[int, tuple[Receipt, ...]]]:
    (count,) = struct.unpack_from("<I", data)
    at, cursors = 4, {}
    for _ in range(count):
        origin, stream, cursor, kept = struct.unpack_from("<3QB", data, at)
        at += 25
        receipts = tuple(Receipt(*struct.unpack_from("<4Q32s", data, at + 64 * number)) for number in range(kept))
        at += 64 * kept
        cursors[origin, stream] = (cursor, receipts)
    assert at == len(data)
    return cursors


def _bindings(data: bytes) -> tuple[tuple[int, str, bytes | None], ...]:
    if not data:
        return ()
    (count,) = struct.unpack_from("<I", data)
    at, bindings = 4, []
    for _ in range(count):
        publisher, length = struct.unpack_from("<QH", data, at)
        channel = data[at + 10 : at + 10 + length].decode()
        at += 10 + length
        token = None
        if data[at]:
            (size,) = struct.unpack_from("<H", data, at + 1)
            token = data[at + 3 : at + 3 + size]
            at += 2 + size
        at += 1
        bindings.append((publisher, channel, token))
    assert at == len(data)
    return tuple(bindings)
