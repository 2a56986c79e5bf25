"""Files of records, written and checked by a program that shares no code with meshos: `blake3`, PyNaCl and `struct`."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

MAGIC = b"MOSR"
KINDS = {"audit": 1, "log": 2, "failure": 3, "action": 4}
HEAD_SIZE = 32
SIGNED, RUN = 0, 5
GENESIS, ENTRY = "meshos 2026 trail genesis v1", "meshos 2026 trail entry v1"
LEVELS = ("trace", "debug", "info", "warn", "error")
PARTS = ("action", "callback", "probe", "recovery", "appender", "migration", "loop")
DISPOSITIONS = ("dispatched", "failed", "gated", "superseded")
ACTIONS = (
    "start_daemon",
    "stop_daemon",
    "apply_backoff",
    "pull_replica",
    "drop_replica",
    "request_placement",
    "request_eviction",
    "mark_avoid",
    "commit_maintenance_transition",
)
VERDICTS = {"accepted": 1, "unverified": 2, "rejected": 3}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def option(value: bytes | None) -> bytes:
    return b"\0" if value is None else b"\1" + value


def number(value: int | None) -> bytes:
    return option(None if value is None else struct.pack("<Q", value))


def start(tag: int, seq: int, unix_ms: int) -> bytes:
    return struct.pack("<BQQ", tag, seq, unix_ms)


def audit(
    seq: int,
    unix_ms: int,
    *,
    order: bytes,
    is_ice: bool,
    verdict: str,
    rejected_kind: str | None,
    operators: tuple[int, ...],
    reason: str,
    envelope_id: bytes | None,
    issued_at_ms: int | None,
    times: int,
) -> bytes:
    """The body of a record of a command; `order` is as in an envelope."""
    return b"".join(
        (
            start(1, seq, unix_ms),
            struct.pack("<BI", 2 if is_ice else 1, len(order)) + order,
            bytes([VERDICTS[verdict]]),
            b"" if rejected_kind is None else text(rejected_kind),
            struct.pack(f"<I{len(operators)}Q", len(operators), *operators),
            text(reason),
            option(envelope_id),
            number(issued_at_ms),
            struct.pack("<Q", times),
        )
    )


def log(seq: int, unix_ms: int, *, level: str, node: int, daemon: int | None, message: str) -> bytes:
    """The body of a line of the log."""
    return start(2, seq, unix_ms) + struct.pack("<BQ", LEVELS.index(level), node) + number(daemon) + text(message)


def failure(
    seq: int,
    unix_ms: int,
    *,
    part: str,
    name: str,
    target: int | None,
    action_id: int | None,
    envelope_id: bytes | None,
    reason: str,
    traceback: str | None,
) -> bytes:
    """The body of a record of a failure."""
    source = bytes([PARTS.index(part)]) + text(name) + number(target) + number(action_id) + option(envelope_id)
    return start(3, seq, unix_ms) + source + text(reason) + option(None if traceback is None else text(traceback))


def action(
    seq: int, unix_ms: int, *, action_id: int, name: str, disposition: str, reason: str, retry_after_ms: int | None
) -> bytes:
    """The body of a record of an action."""
    fields = struct.pack("<QBB", action_id, ACTIONS.index(name), DISPOSITIONS.index(disposition))
    return start(4, seq, unix_ms) + fields + text(reason) + number(retry_after_ms)


def run(run_id: int, unix_ms: int) -> bytes:
    """The body of the mark of a run."""
    return start(RUN, run_id, unix_ms)


class Trail:
    """A file, entry by entry."""

    def __init__(self, kind: str, trail_id: bytes, unix_ms: int) -> None:
        self.data = struct.pack("<4sBBH16sQ", MAGIC, 1, KINDS[kind], 0, trail_id, unix_ms)
        self.digest = blake3(self.data, derive_key_context=GENESIS).digest()
        self.seq = 0

    def add(self, body: bytes) -> None:
        self.digest = blake3(self.digest + body, derive_key_context=ENTRY).digest()
        self.data += struct.pack("<II", len(body), len(body) ^ 0xFFFF_FFFF) + body + self.digest
        if body[0] not in (SIGNED, RUN):
            (self.seq,) = struct.unpack_from("<Q", body, 1)

    def sign(self, key: SigningKey, unix_ms: int) -> None:
        signature = key.sign(signed_bytes(self.digest, self.seq)).signature
        self.add(start(SIGNED, self.seq, unix_ms) + bytes(key.verify_key) + signature)


def signed_bytes(digest: bytes, seq: int) -> bytes:
    return b"meshos.trail.v1\0" + digest + struct.pack("<Q", seq)


class Frame(NamedTuple):
    """One entry of a file."""

    offset: int
    data: bytes

    @property
    def body(self) -> bytes:
        return self.data[8:-32]

    @property
    def tag(self) -> int:
        return self.body[0]

    @property
    def seq(self) -> int:
        return int(struct.unpack_from("<Q", self.body, 1)[0])

    @property
    def is_record(self) -> bool:
        return self.tag not in (SIGNED, RUN)


def frames(data: bytes) -> Iterator[Frame]:
    """The entries of a file, whether they hold or not."""
    at = HEAD_SIZE
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        end = at + 8 + length + 32
        yield Frame(at, data[at:end])
        at = end


def checked(data: bytes, signer: bytes | None = None) -> tuple[int, bytes, int]:
    """Check a whole file; return how many records it has, its last digest, and how many `signer` vouches for."""
    assert data[:5] == MAGIC + b"\1"
    assert data[5] in KINDS.values()
    digest = blake3(data[:HEAD_SIZE], derive_key_context=GENESIS).digest()
    records = signed = 0
    for frame in frames(data):
        length, flipped = struct.unpack_from("<II", frame.data)
        assert flipped == length ^ 0xFFFF_FFFF
        if frame.tag == SIGNED:
            key, signature = frame.body[17:49], frame.body[49:]
            try:
                VerifyKey(key).verify(signed_bytes(digest, frame.seq), signature)
            except BadSignatureError as error:
                raise AssertionError(frame.offset) from error
            if key == signer:
                signed = records
        digest = blake3(digest + frame.body, derive_key_context=ENTRY).digest()
        assert frame.data[-32:] == digest, frame.offset
        records += frame.is_record
    return records, digest, signed


def golden(drain: bytes, freeze: bytes, key: SigningKey) -> dict[str, bytes]:
    """A file of each kind; the orders are as in an envelope."""
    at, file_id = 1_700_000_000_000, b"\x55" * 16
    who, why = (7, 2**64 - 1), "naïve \N{SKULL AND CROSSBONES}"
    of_drain, none = (bytes(range(16)), at), (None, None)

    def ordered(
        seq: int, order: bytes, verdict: str, refused: str | None, made: tuple[bytes | None, int | None], times: int = 1
    ) -> bytes:
        return audit(
            seq,
            at + seq,
            order=order,
            is_ice=order is freeze,
            verdict=verdict,
            rejected_kind=refused,
            operators=who,
            reason=why,
            envelope_id=made[0],
            issued_at_ms=made[1],
            times=times,
        )

    def failed(
        seq: int, part: str, name: str, ids: tuple[int | None, int | None, bytes | None], trace: str | None
    ) -> bytes:
        return failure(
            seq,
            at + seq,
            part=part,
            name=name,
            target=ids[0],
            action_id=ids[1],
            envelope_id=ids[2],
            reason="raised",
            traceback=trace,
        )

    def became(seq: int, name: str, disposition: str, retry_after_ms: int | None) -> bytes:
        return action(
            seq,
            at + seq,
            action_id=11,
            name=name,
            disposition=disposition,
            reason="not yet",
            retry_after_ms=retry_after_ms,
        )

    bodies = {
        "audit": [
            ordered(1, drain, "accepted", None, of_drain),
            ordered(2, freeze, "rejected", "signature_invalid", none, 3),
            ordered(3, drain, "unverified", None, none),
        ],
        "log": [
            log(1, at + 1, level="warn", node=1, daemon=None, message="line 1"),
            log(2, at + 2, level="trace", node=1, daemon=9, message=""),
        ],
        "failure": [
            failed(1, "probe", "Pings", (3, None, b"\x08" * 16), "File …\n"),
            failed(2, "loop", "", (None, 11, None), None),
        ],
        "action": [
            became(1, "start_daemon", "failed", 20),
            became(2, "commit_maintenance_transition", "dispatched", None),
        ],
    }
    files = {}
    for kind, records in bodies.items():
        trail = Trail(kind, file_id, at)
        for body in (run(42, at), *records):
            trail.add(body)
        trail.sign(key, at + 9)
        files[f"{kind}_records"] = trail.data
    return files
