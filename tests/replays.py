"""What an audit tells of, rebuilt by a program that shares no code with meshos: `blake3` and `struct`."""

import struct
from dataclasses import dataclass, field

from blake3 import blake3

import trails

CONTEXT = "meshos 2026 control state v1"
DAY_MS = 86_400_000
FORCED_MS, FREEZE_MS, TOUCHED_MS = 600_000, DAY_MS, 7 * DAY_MS
ACCEPTED, REJECTED = 1, 3


def numbers(data: bytes, count: int, at: int = 1) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}Q", data, at)


def option(data: bytes, at: int, size: int) -> tuple[bytes | None, int]:
    """What may be absent, and where it ends."""
    return (data[at + 1 : at + 1 + size], at + 1 + size) if data[at] else (None, at + 1)


@dataclass
class Command:
    """One record of a command."""

    seq: int
    at: int
    is_ice: bool
    order: bytes
    verdict: int
    envelope_id: bytes | None
    issued_at: int | None

    @classmethod
    def read(cls, body: bytes) -> "Command":
        seq, at = numbers(body, 2)
        is_ice, size = struct.unpack_from("<BI", body, 17)
        here = 22 + size
        order, verdict = body[22:here], body[here]
        here += 1
        if verdict == REJECTED:
            here += 4 + struct.unpack_from("<I", body, here)[0]
        here += 4 + 8 * struct.unpack_from("<I", body, here)[0]
        here += 4 + struct.unpack_from("<I", body, here)[0]
        envelope_id, here = option(body, here, 16)
        issued_at, here = option(body, here, 8)
        issued = None if issued_at is None else int.from_bytes(issued_at, "little")
        return cls(seq, at, is_ice == 2, order, verdict, envelope_id, issued)


Forced = tuple[int, int, int, bytes | None]
"""Node, since, until, envelope."""


@dataclass
class State:
    """What commands alone decide."""

    obeyed: list[int] = field(default_factory=lambda: [0] * 16)
    freeze: tuple[int, int] | None = None
    cordoned: set[int] = field(default_factory=set)
    out: dict[int, tuple[int, int | None, bool]] = field(default_factory=dict)
    forced: dict[int, list[Forced | None]] = field(default_factory=dict)
    envelopes: list[tuple[bytes, int]] = field(default_factory=list)
    touched: dict[tuple[int, int], int] = field(default_factory=dict)

    def begin_run(self, at: int) -> None:
        if self.freeze and at < self.freeze[0]:
            self.freeze = (at, at + self.freeze[1] - self.freeze[0])
        for pair in self.forced.values():
            for place, order in enumerate(pair):
                if order and at < order[1]:
                    pair[place] = (order[0], at, at + order[2] - order[1], order[3])
        for node, (since, deadline, returns) in self.out.items():
            if at < since:
                self.out[node] = (at, None if deadline is None else at + deadline - since, returns)
        self.touched = {bucket: min(at, then) for bucket, then in self.touched.items()}

    def forget(self, at: int) -> None:
        if self.freeze and self.freeze[1] <= at:
            self.freeze = None
        self.out = {node: out for node, out in self.out.items() if not (out[2] and out[1] is not None and out[1] <= at)}
        self.forced = {
            chain: pair for chain, pair in self.forced.items() if any(order and order[2] > at for order in pair)
        }
        self.touched = {bucket: then for bucket, then in self.touched.items() if then + TOUCHED_MS > at}

    def apply(self, command: Command) -> None:
        self.forget(command.at)
        tag = command.order[0]
        self.obeyed[tag - 1 + (9 if command.is_ice else 0)] += 1
        if command.verdict == ACCEPTED and command.envelope_id is not None and command.issued_at is not None:
            self.envelopes.append((command.envelope_id, command.issued_at))
        if command.is_ice:
            self.ice(tag, command)
        else:
            self.admin(tag, command.at, command.order)

    def admin(self, tag: int, at: int, order: bytes) -> None:
        (node,) = numbers(order, 1)
        if tag == 1:
            self.out[node] = (at, at + numbers(order, 1, 10)[0] if order[9] else None, False)
        elif tag == 2:
            self.out.pop(node, None)
        elif tag == 3:
            self.out[node] = (at, at + numbers(order, 1, 9)[0], True)
        elif tag == 4:
            self.cordoned.add(node)
        elif tag == 5:
            self.cordoned.discard(node)

    def ice(self, tag: int, command: Command) -> None:
        at, order = command.at, command.order
        bucket: tuple[int, int] | None = None
        if tag == 1:
            self.freeze = (at, at + min(numbers(order, 1)[0], FREEZE_MS))
            bucket = (1, 0)
        elif tag == 2:
            self.freeze = None
        elif tag == 3:
            bucket = (2, 0) if order[1] == 3 else (3, numbers(order, 1, 2)[0])
        elif tag in (4, 6):
            chain, node = numbers(order, 2)
            pair = self.forced.setdefault(chain, [None, None])
            pair[tag == 6] = (node, at, at + FORCED_MS, command.envelope_id)
            bucket = (3, node)
        else:
            bucket = (4 if tag == 5 else 5, numbers(order, 1)[0])
        if bucket and command.verdict == ACCEPTED:
            self.touched[bucket] = at

    def encode(self) -> bytes:
        def listed(entries: list[bytes]) -> bytes:
            return struct.pack("<I", len(entries)) + b"".join(entries)

        def maybe(value: bytes | None) -> bytes:
            return b"\0" if value is None else b"\1" + value

        def u64(*values: int) -> bytes:
            return struct.pack(f"<{len(values)}Q", *values)

        def force(order: Forced | None) -> bytes:
            return maybe(None if order is None else u64(*order[:3]) + maybe(order[3]))

        return b"".join(
            (
                b"MOSC\1" + u64(*self.obeyed),
                maybe(u64(*self.freeze) if self.freeze else None),
                listed([u64(node) for node in sorted(self.cordoned)]),
                listed(
                    [
                        u64(node, since) + maybe(None if deadline is None else u64(deadline)) + bytes([returns])
                        for node, (since, deadline, returns) in sorted(self.out.items())
                    ]
                ),
                listed([u64(chain) + force(pair[0]) + force(pair[1]) for chain, pair in sorted(self.forced.items())]),
                listed([envelope_id + u64(issued_at) for envelope_id, issued_at in self.envelopes]),
                u64(0),
                listed([bytes([sort]) + u64(number, at) for (sort, number), at in sorted(self.touched.items())]),
                u64(0),
            )
        )


def digest(data: bytes) -> bytes:
    """The digest of what a file of audit records tells of."""
    steps: list[Command | int] = []
    places: dict[int, int] = {}
    for frame in trails.frames(data):
        if frame.tag == trails.RUN:
            steps.append(numbers(frame.body, 2)[1])
            places.clear()
        elif frame.tag == trails.KINDS["audit"]:
            command = Command.read(frame.body)
            if command.verdict != REJECTED:
                places[command.seq] = len(steps)
                steps.append(command)
            elif command.seq in places:
                # It was written too late to count.
                steps[places.pop(command.seq)] = command
    state = State()
    for step in steps:
        if isinstance(step, int):
            state.begin_run(step)
        elif step.verdict != REJECTED:
            state.apply(step)
    return blake3(state.encode(), derive_key_context=CONTEXT).digest()
