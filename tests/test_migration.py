"""Moves of daemons: their records and messages, and what comes of a move."""

import pickle
import random
import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from blake3 import blake3

import records
from meshos import CausalEvent, DaemonRuntime, Identity, Mesh, MeshDaemon
from meshos.errors import ConfigError, IdentityError, InvalidArgument, SnapshotDecodeError
from meshos.mesh import OwnershipRecord
from meshos.migration import (
    MAX_SNAPSHOT_CHUNK_SIZE,
    MAX_SNAPSHOT_SIZE,
    SUBPROTOCOL_MIGRATION,
    IdentityEnvelope,
    MigrationMessage,
    MigrationMessageKind,
    MigrationOpts,
    MigrationPhase,
    MigrationSnapshot,
    MigrationSourceHandler,
    MigrationState,
    MigrationTargetHandler,
    SnapshotChunk,
    SnapshotReassembler,
    chunk_snapshot,
)
from meshos.snapshot import StateSnapshot

DATA = Path(__file__).parent / "data"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Blob(MeshDaemon):
    """Keeps as many bytes as it is told to."""

    name = "blob"

    def __init__(self) -> None:
        self.state = b""

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        (size,) = struct.unpack("<Q", event.payload)
        self.state = random.Random(size).randbytes(size)
        return [blake3(self.state).digest()]

    def snapshot(self) -> bytes:
        return self.state

    def restore(self, state: bytes) -> None:
        self.state = state


def blob(size: int) -> tuple[Identity, StateSnapshot]:
    """Return a snapshot with that much state, and its key."""
    identity = Identity.generate()
    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.register_factory("blob", Blob)
        runtime.start()
        handle = runtime.spawn("blob", identity)
        runtime.send(handle.origin_hash, struct.pack("<Q", size))
        snapshot = runtime.snapshot(handle.origin_hash)
    assert snapshot is not None
    return identity, snapshot


# ---------------------------------------------------------------- options


def test_the_options_have_the_documented_defaults() -> None:
    opts = MigrationOpts()

    assert (opts.mode, opts.transport_identity, opts.bytes_per_second_max) == ("stop", True, None)
    assert (opts.retry_not_ready, opts.freeze_max, opts.deadline) == (30 * SECOND, 2 * SECOND, 600 * SECOND)
    assert opts == MigrationOpts(mode="stop") != MigrationOpts(mode="live")


def test_options_are_a_record() -> None:
    opts = MigrationOpts(retry_not_ready=None, freeze_max=SECOND, bytes_per_second_max=7, transport_identity=False)

    assert pickle.loads(pickle.dumps(opts)) == opts
    assert hash(opts) == hash(pickle.loads(pickle.dumps(opts)))
    assert "transport_identity=False" in repr(opts)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "fast"),
        ("retry_not_ready", timedelta(days=31)),
        ("retry_not_ready", -SECOND),
        ("freeze_max", timedelta(0)),
        ("freeze_max", timedelta(minutes=3)),
        ("deadline", timedelta(0)),
        ("deadline", timedelta.max),
        ("bytes_per_second_max", 0),
        ("bytes_per_second_max", -1),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        MigrationOpts(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["mode", "transport_identity", "retry_not_ready", "freeze_max", "deadline"])
def test_an_option_of_another_type_is_refused_by_name(field: str) -> None:
    with pytest.raises(TypeError, match=field):
        MigrationOpts(**{field: 1.5})  # type: ignore[arg-type]


def test_names_of_the_seeds_stand_for_what_they_are() -> None:
    assert MigrationState is MigrationSnapshot
    assert SUBPROTOCOL_MIGRATION == 0x0500
    assert (MAX_SNAPSHOT_CHUNK_SIZE, MAX_SNAPSHOT_SIZE) == (1 << 20, 16 << 30)


# ---------------------------------------------------------------- chunks


@pytest.fixture(scope="module")
def large() -> StateSnapshot:
    return blob((5 << 20) + 7)[1]


def test_chunks_in_any_order_and_twice_make_the_snapshot_again(large: StateSnapshot) -> None:
    chunks = list(chunk_snapshot(large))
    shuffled = chunks * 2
    random.Random(7).shuffle(shuffled)
    whole = SnapshotReassembler(len(chunks), len(large))

    made = [snapshot for chunk in shuffled if (snapshot := whole.add(chunk)) is not None]

    assert made == [large]
    assert whole.missing() == ()
    assert b"".join(chunk.data for chunk in chunks) == large.to_bytes()
    assert {chunk.total for chunk in chunks} == {len(chunks)} == {6}
    assert all(blake3(chunk.data).digest() == chunk.digest for chunk in chunks)
    assert all(len(chunk.data) == MAX_SNAPSHOT_CHUNK_SIZE for chunk in chunks[:-1])


@pytest.mark.parametrize("size", [1, 100, 1000])
@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_chunks_of_any_size_fit(size: int, order: str) -> None:
    _, small = blob(333)
    chunks = list(chunk_snapshot(small, chunk_bytes_max=size))
    whole = SnapshotReassembler(len(chunks), len(small))
    shown = chunks if order == "forwards" else chunks[::-1]

    assert [whole.add(chunk) for chunk in shown] == [None] * (len(chunks) - 1) + [small]


def test_a_chunk_is_a_record(large: StateSnapshot) -> None:
    chunk = next(chunk_snapshot(large, chunk_bytes_max=10))

    fields = {"index": 0, "total": chunk.total, "digest": chunk.digest, "data": large.to_bytes()[:10]}
    records.check_record(chunk, fields)


def test_what_is_altered_or_does_not_fit_is_refused_and_changes_nothing() -> None:
    _, small = blob(333)
    chunks = list(chunk_snapshot(small, chunk_bytes_max=100))
    total = len(chunks)
    whole = SnapshotReassembler(total, len(small))
    first, second, last = chunks[0], chunks[1], chunks[-1]
    flipped = bytes([second.data[0] ^ 1]) + second.data[1:]
    whole.add(first)

    for bad, match in [
        (SnapshotChunk(1, total, second.digest, flipped), "digest"),
        (SnapshotChunk(1, total + 1, second.digest, second.data), "expected one of"),
        (SnapshotChunk(total, total, second.digest, second.data), "expected one of"),
        (SnapshotChunk(1, total, blake3(second.data[1:]).digest(), second.data[1:]), "the others have 100"),
        (SnapshotChunk(1, total, blake3(b"").digest(), b""), "0 bytes"),
        (SnapshotChunk(0, total, second.digest, second.data), "with other bytes"),
        (SnapshotChunk(total - 1, total, second.digest, second.data), "do not fit"),
    ]:
        with pytest.raises(SnapshotDecodeError, match=match):
            whole.add(bad)
        assert whole.missing() == tuple(range(1, total))

    assert [whole.add(chunk) for chunk in chunks[1:]] == [None] * (total - 2) + [small]
    assert whole.add(last) is None


def test_chunks_that_make_no_snapshot_are_refused_and_the_right_one_is_taken() -> None:
    _, small = blob(50)
    chunks = list(chunk_snapshot(small, chunk_bytes_max=200))
    data = bytes(len(chunks[-1].data))
    whole = SnapshotReassembler(len(chunks), len(small))
    for chunk in chunks[:-1]:
        whole.add(chunk)

    with pytest.raises(SnapshotDecodeError):
        whole.add(SnapshotChunk(len(chunks) - 1, len(chunks), blake3(data).digest(), data))

    assert whole.missing() == (len(chunks) - 1,)
    assert whole.add(chunks[-1]) == small


@pytest.mark.parametrize(
    ("total", "size", "bytes_max", "field"),
    [
        (1, 0, 100, "snapshot_bytes"),
        (1, 101, 100, "snapshot_bytes"),
        (0, 50, 100, "total"),
        (51, 50, 100, "total"),
        (1, (1 << 20) + 1, 1 << 30, "total"),
        (1, 50, MAX_SNAPSHOT_SIZE + 1, "bytes_max"),
        (1 << 20, MAX_SNAPSHOT_SIZE + 1, MAX_SNAPSHOT_SIZE, "snapshot_bytes"),
    ],
)
def test_a_snapshot_out_of_bounds_is_not_expected(total: int, size: int, bytes_max: int, field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        SnapshotReassembler(total, size, bytes_max=bytes_max)


@pytest.mark.parametrize("size", [0, MAX_SNAPSHOT_CHUNK_SIZE + 1, 1 << 63])
def test_chunks_are_bounded(size: int, large: StateSnapshot) -> None:
    with pytest.raises(InvalidArgument, match="chunk_bytes_max"):
        chunk_snapshot(large, chunk_bytes_max=size)


# ---------------------------------------------------------------- messages and tables


class Nodes:
    """A source and a target whose messages are carried by hand."""

    def __init__(self, size: int = 3 << 20) -> None:
        here, there = Mesh.local_cluster(2)
        self.identity, self.third = Identity.generate(), Identity.generate()
        self.here, self.there = here.entity_id, there.entity_id
        with DaemonRuntime(here) as runtime:
            runtime.register_factory("blob", Blob)
            runtime.start()
            origin = runtime.spawn("blob", self.identity).origin_hash
            runtime.send(origin, struct.pack("<Q", size))
            snapshot = runtime.snapshot(origin)
            directory = here.directory()
            assert snapshot is not None
            assert directory is not None
            self.lineage = directory.lineage(origin)
        self.snapshot, self.now = snapshot, NOON
        self.source = self.source_with()
        self.target = self.target_with()
        self.told: list[MigrationMessage] = []
        self.order = self.ordered()

    def source_with(self, rows: Iterable[tuple[int, bytes, bytes]] = ()) -> MigrationSourceHandler:
        return MigrationSourceHandler(self.here, self.identity, self.snapshot, self.lineage, rows=rows)

    def target_with(self, rows: Iterable[tuple[int, bytes, bytes]] = ()) -> MigrationTargetHandler:
        return MigrationTargetHandler(self.there, self.identity.entity_id, rows=rows)

    def ordered(self, not_after: datetime = NOON + SECOND) -> MigrationMessage:
        """Order a move on behalf of a third node."""
        entity = self.identity.entity_id
        return MigrationMessage.prepare(
            self.third, entity, 1, self.here, self.there, kind="blob", not_after=not_after, state_bytes=3 << 20
        )

    def say(self, kind: MigrationMessageKind) -> MigrationMessage:
        """Make a message of the orchestrator to the source."""
        entity, sender = self.identity.entity_id, self.third.entity_id
        return MigrationMessage(kind, self.order.attempt, entity, 1, 2, b"", sender=sender, receiver=self.here)

    def carry(self, *messages: MigrationMessage, lost: Iterable[str] = ()) -> list[str]:
        """Carry messages, and what comes of them, until nobody says anything more; return what was said."""
        queue: list[MigrationMessage] = list(messages)
        said: list[str] = []
        while queue:
            message = queue.pop(0)
            said.append(message.kind)
            if message.kind in lost:
                continue
            # What is carried is bytes.
            sent = MigrationMessage.from_bytes(message.to_bytes(), sender=message.sender, receiver=message.receiver)
            assert sent == message
            if message.receiver == self.third.entity_id:
                self.told.append(sent)
            elif message.receiver == self.there:
                queue += self.target.step(self.now, sent)
            else:
                queue += self.source.step(self.now, sent)
        return said

    def begin(self) -> None:
        """Have both sides agree."""
        agreed = [*self.source.step(self.now, self.order), *self.target.step(self.now, self.order)]
        assert [(message.kind, message.sender) for message in agreed] == [("accept", self.here), ("accept", self.there)]

    def phases(self) -> tuple[MigrationPhase | None, MigrationPhase | None]:
        return self.source.phase(), self.target.phase()


def test_two_handlers_move_a_daemon() -> None:
    nodes = Nodes()
    assert nodes.phases() == (None, None)
    nodes.begin()
    assert nodes.phases() == (MigrationPhase.SNAPSHOT, MigrationPhase.SNAPSHOT)

    said = nodes.carry(nodes.say("freeze"))

    assert said[:2] == ["freeze", "final"]
    assert said.count("pull") == said.count("chunk") == 4
    assert said[-5:] == ["prepared", "commit", "commit", "committed", "committed"]
    assert nodes.phases() == (MigrationPhase.COMPLETE, MigrationPhase.COMPLETE)
    assert nodes.target.snapshot() == nodes.snapshot
    assert [message.kind for message in nodes.told] == ["commit", "committed"]
    moved = records_of(nodes.target.rows())
    assert [(record.epoch, record.node) for record in moved] == [(1, nodes.here), (2, nodes.there)]
    moved[1].verify(moved[0])


def records_of(rows: Iterable[tuple[int, bytes, bytes]]) -> list[OwnershipRecord]:
    """Read the records of ownership among rows."""
    return [OwnershipRecord.from_bytes(value) for table, _, value in rows if table == 8]


@pytest.mark.parametrize("lost", ["final", "chunk", "prepared", "commit", "committed"])
def test_what_is_lost_is_said_again(lost: str) -> None:
    nodes = Nodes()
    nodes.begin()
    nodes.carry(nodes.say("freeze"), lost=[lost])
    said: list[str] = []

    for _ in range(100):
        nodes.now += SECOND / 10
        said += nodes.carry(*nodes.source.step(nodes.now), *nodes.target.step(nodes.now))

    assert nodes.phases() == (MigrationPhase.COMPLETE, MigrationPhase.COMPLETE)
    assert lost in said or lost == "committed"


@pytest.mark.parametrize("lost", ["prepared", "commit", "committed"])
def test_handlers_go_on_with_the_rows_of_others(lost: str) -> None:
    """After a crash nothing but the rows is left."""
    nodes = Nodes()
    nodes.begin()
    nodes.carry(nodes.say("freeze"), lost=[lost])
    nodes.source, nodes.target = nodes.source_with(nodes.source.rows()), nodes.target_with(nodes.target.rows())

    for _ in range(400):
        nodes.now += SECOND / 10
        nodes.carry(*nodes.source.step(nodes.now), *nodes.target.step(nodes.now))

    if lost == "prepared":
        # The source had decided nothing: it aborts, and the target hears so when it asks.
        assert nodes.phases() == (None, None)
        assert nodes.target.snapshot() is None
    else:
        assert nodes.phases()[1] is MigrationPhase.COMPLETE or lost == "committed"
        assert max(record.epoch for record in records_of(nodes.source.rows())) == 2
        assert max(record.epoch for record in records_of(nodes.target.rows())) == 2


def test_an_abort_before_the_commit_point_leaves_the_source_as_it_was() -> None:
    nodes = Nodes()
    nodes.begin()
    nodes.carry(nodes.say("freeze"), lost=["chunk"])
    assert nodes.phases() == (MigrationPhase.TRANSFER, MigrationPhase.TRANSFER)

    said = nodes.carry(nodes.say("abort_request"))

    assert sorted(said) == ["abort", "abort_request", "outcome"]
    assert nodes.phases() == (None, None)
    assert [record.epoch for record in records_of(nodes.source.rows())] == [1]
    assert [message.kind for message in nodes.source.step(nodes.now, nodes.order)] == ["reject"]


def test_an_abort_after_the_commit_point_changes_nothing() -> None:
    nodes = Nodes()
    nodes.begin()
    nodes.carry(nodes.say("freeze"), lost=["committed"])

    assert nodes.carry(nodes.say("abort_request")) == ["abort_request", "outcome"]
    assert nodes.told[-1].body[:1] == b"\1"
    assert nodes.source.phase() is MigrationPhase.CUTOVER


def test_an_order_that_is_late_forged_or_of_a_stranger_moves_nothing() -> None:
    nodes = Nodes(size=10)
    forged = MigrationMessage.from_bytes(
        nodes.order.to_bytes()[:-1] + bytes([nodes.order.to_bytes()[-1] ^ 1]), sender=nodes.third.entity_id
    )
    late = nodes.ordered(not_after=NOON - SECOND)
    stranger = MigrationMessage.from_bytes(nodes.order.to_bytes(), sender=nodes.there)

    for handler in (nodes.source, nodes.target):
        assert [message.kind for message in handler.step(NOON, forged)] == ["reject"]
        assert [message.kind for message in handler.step(NOON, late)] == ["reject"]
        assert handler.step(NOON, stranger) == ()
        assert handler.phase() is None


def test_a_message_that_does_not_say_its_sender_is_refused() -> None:
    nodes = Nodes(size=10)
    nameless = MigrationMessage.from_bytes(nodes.order.to_bytes())

    with pytest.raises(InvalidArgument, match="sender"):
        nodes.source.step(NOON, nameless)


def test_a_message_is_a_record_and_says_what_its_bytes_say() -> None:
    nodes = Nodes(size=10)
    message = nodes.say("freeze")

    fields = {
        "kind": "freeze",
        "attempt": nodes.order.attempt,
        "entity_id": nodes.identity.entity_id,
        "epoch": 1,
        "step": 2,
        "body": b"",
    }
    records.check_record(message, fields)
    assert (message.sender, message.receiver) == (nodes.third.entity_id, nodes.here)
    assert MigrationMessage.from_bytes(message.to_bytes()) == message
    assert nodes.order.kind == "prepare"


def test_every_message_of_the_documented_bytes_is_read() -> None:
    for name in ("move_frames", "move_asides"):
        data = (DATA / f"{name}_v1.bin").read_bytes()
        kinds = set()
        while data:
            (length,) = struct.unpack_from("<I", data)
            made, data = data[4 : 4 + length], data[4 + length :]
            message = MigrationMessage.from_bytes(made)
            kinds.add(message.kind)
            assert message.to_bytes() == made
            again = MigrationMessage(
                message.kind, message.attempt, message.entity_id, message.epoch, message.step, message.body
            )
            assert again == message
        every = [get_args(kind)[0] for kind in get_args(MigrationMessageKind)]
        assert kinds == set(every[:14] if name == "move_frames" else every[14:])


@pytest.mark.parametrize("data", [b"", b"\1", b"\2" * 100, bytes(66)])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="data"):
        MigrationMessage.from_bytes(data)


def test_a_body_that_is_none_of_its_kind_is_refused() -> None:
    entity = Identity.generate().entity_id

    with pytest.raises(InvalidArgument, match="message"):
        MigrationMessage("pull", bytes(16), entity, 1, 1, b"")
    with pytest.raises(InvalidArgument, match="kind"):
        MigrationMessage("fly", bytes(16), entity, 1, 1, b"")  # type: ignore[arg-type]


def test_rows_of_another_kind_are_refused() -> None:
    nodes = Nodes(size=10)

    for rows in ([(13, b"", b"")], [(8, b"key", b"no record")]):
        with pytest.raises(InvalidArgument, match="rows"):
            nodes.source_with(rows)
        with pytest.raises(InvalidArgument, match="rows"):
            nodes.target_with(rows)
    with pytest.raises(TypeError, match="rows"):
        nodes.target_with([1])  # type: ignore[list-item]


def test_a_source_needs_the_records_of_its_daemon() -> None:
    nodes, others = Nodes(size=10), Nodes(size=10)

    for lineage in ((), others.lineage):
        with pytest.raises(InvalidArgument, match="lineage"):
            MigrationSourceHandler(nodes.here, nodes.identity, nodes.snapshot, lineage)


# ---------------------------------------------------------------- keys


def ordered() -> tuple[Identity, Identity, MigrationMessage]:
    """Return a daemon, the target that it is ordered to, and the order."""
    daemon, source, target = Identity.generate(), Identity.generate(), Identity.generate()
    order = MigrationMessage.prepare(
        source, daemon.entity_id, 1, source.entity_id, target.entity_id, kind="blob", not_after=NOON
    )
    return daemon, target, order


def test_a_sealed_key_is_opened_by_the_target_of_the_order_alone() -> None:
    daemon, target, order = ordered()

    envelope = IdentityEnvelope.seal(daemon, order)
    opened = IdentityEnvelope.from_bytes(envelope.to_bytes()).open(target, order)

    assert opened == daemon
    assert opened.sign(b"here") == daemon.sign(b"here")
    assert len(envelope.to_bytes()) == 80
    assert pickle.loads(pickle.dumps(envelope)) == envelope
    _, other, later = ordered()
    altered = bytearray(envelope.to_bytes())
    altered[-1] ^= 1
    for wrong, node, about in (
        (envelope, other, order),
        (envelope, target, later),
        (envelope, daemon, order),
        (IdentityEnvelope.from_bytes(altered), target, order),
    ):
        with pytest.raises(IdentityError) as caught:
            wrong.open(node, about)
        assert caught.value.kind == "sealed_for_another"


def test_what_cannot_be_sealed_is_refused() -> None:
    daemon, target, order = ordered()

    with pytest.raises(IdentityError) as caught:
        IdentityEnvelope.seal(Identity.public_only(daemon.entity_id), order)
    assert caught.value.kind == "read_only"
    with pytest.raises(InvalidArgument, match="identity"):
        IdentityEnvelope.seal(target, order)
    with pytest.raises(InvalidArgument, match="order"):
        IdentityEnvelope.seal(daemon, MigrationMessage("freeze", order.attempt, daemon.entity_id, 1, 1, b""))
    with pytest.raises(InvalidArgument, match="data"):
        IdentityEnvelope.from_bytes(bytes(79))
