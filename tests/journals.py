"""The formats of a store once more, from blake3, PyNaCl, zlib and struct alone, to compare the golden bytes with."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

import reference

PUT = 1
TABLES = {"node": 1, "daemons": 2, "journal": 3, "outputs": 4, "snapshots": 5, "checkpoints": 6, "certificates": 7}
TABLES |= {"dead_letters": 9, "outbox": 11, "streams": 12}
PROCESSED, PASSED_OVER = 1, 2


def summed(data: bytes) -> bytes:
    """Bytes with their CRC-32 behind them."""
    return data + struct.pack("<I", zlib.crc32(data))


@dataclass(frozen=True)
class Step:
    """One step of a daemon."""

    sequence: int
    outputs: int
    digest: bytes
    outcome: int = PROCESSED
    receipt: bool = False

    def encode(self) -> bytes:
        head = struct.pack("<BB", self.outcome, self.receipt) + reference.link(7, 0, self.sequence, 0)
        head += struct.pack("<QQI", 0, 1_000 + self.sequence, self.outputs) + (self.digest if self.outputs else b"")
        return head + struct.pack("<I", 2) + b"in"


def binding(entity: bytes) -> bytes:
    return reference.derive("meshos 2026 journal genesis v1", entity)


def steps(entity: bytes, digest: bytes, made: Sequence[Step]) -> bytes:
    """The first row of steps of a daemon whose chain began with `digest`."""
    before = binding(entity)
    row = struct.pack("<BQQ", 1, 1, 1) + before + struct.pack("<Q", 0) + digest
    row += struct.pack("<I", len(made)) + b"".join(step.encode() for step in made)
    return row + reference.derive("meshos 2026 journal steps v1", before, row)


def outputs(chain: reference.Chain, count: int, first: int = 1) -> bytes:
    """The row of some outputs of a chain."""
    begin, end = first - 1, first - 1 + count
    row = struct.pack("<BQ", 1, first) + chain.digests[begin] + struct.pack("<I", count)
    for link, payload in chain.events[begin:end]:
        row += link[8:16] + struct.pack("<I", len(payload)) + payload
    return row + chain.digests[end]


def snapshot_row(entity: bytes, state: bytes, digest: bytes) -> bytes:
    row = b"\1" + blake3(state).digest() + struct.pack("<QQ", len(state), 3) + binding(entity)
    return summed(row + struct.pack("<QQQ", 2, 1, 3) + digest + struct.pack("<Q", 7))


def write(table: str, key: bytes, value: bytes | None) -> bytes:
    data = struct.pack("<BB", TABLES[table], len(key)) + key
    return data + (b"\0" if value is None else struct.pack("<BI", PUT, len(value)) + value)


def segment(store: bytes, commits: Sequence[Sequence[bytes]]) -> bytes:
    """The first file of commits of a store."""
    digest = reference.derive("meshos 2026 store genesis v1", store)
    data = summed(b"MESHSEGM" + struct.pack("<H", 1) + store + struct.pack("<QQ", 1, 0) + digest)
    salt = store + struct.pack("<Q", 1) + digest
    for number, writes in enumerate(commits, start=1):
        body = struct.pack("<I", len(writes)) + b"".join(writes)
        mark = struct.pack("<IQ", len(body), number)
        data += b"FRAM" + mark + struct.pack("<I", zlib.crc32(salt + mark)) + body
        digest = reference.derive("meshos 2026 store commit v1", digest, struct.pack("<Q", number), body)
        data += digest
    return data


def store_head(store: bytes, node: bytes) -> bytes:
    return summed(b"MESHSTOR" + struct.pack("<H", 1) + store + node + struct.pack("<Q", 7))


def node_key(seed: bytes) -> bytes:
    return summed(b"MESHNKEY" + struct.pack("<H", 1) + seed)


def stored_daemon(entity: bytes, seed: bytes, node_seed: bytes, nonce: bytes, *, version: int = 2) -> bytes:
    """What a store has of a daemon of the kind "counter" that runs, with a snapshot every 100 events."""
    key = reference.derive("meshos 2026 sealed key v1", node_seed)
    row = struct.pack("<BH", version, 7) + b"counter"
    if version == 1:
        row += struct.pack("<QI4BIQ", 100, 10_000, 0, 0, 1, 0, 10_000, 64 << 20) + bytes(6)
    else:
        row += struct.pack("<QI4BIQIIQ", 100, 10_000, 0, 0, 1, 1, 10_000, 64 << 20, 7, 3, 86_400_000)
    row += b"\1\1" + nonce
    return summed(row + crypto_aead_xchacha20poly1305_ietf_encrypt(seed, entity, nonce, key))


def dead_letter() -> bytes:
    """An event from outside that was passed over after five tries."""
    row = struct.pack("<B4Q", 1, 7, 0, 3, 0) + struct.pack(
        "<QQQIB", 0, 1_800_000_000_000_000_003, 1_800_000_000_100, 5, 0
    )
    for text in (b"ValueError", b"not a number"):
        row += struct.pack("<H", len(text)) + text
    return summed(row + struct.pack("<I", 6) + b"poison")
