"""Snapshots: bytes that come back as they were, or not at all."""

import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

import reference
from meshos.chain import CausalEvent
from meshos.daemon import DaemonHost, MeshDaemon
from meshos.errors import SnapshotDecodeError
from meshos.snapshot import StateSnapshot
from records import ALICE, BAD_BYTES, BAD_INTS, BOB, check_refused, twins

U64 = st.integers(0, reference.U64_MAX)
ENTITY, NODE = (SigningKey(bytes([number]) * 32) for number in (1, 2))


class Echo(MeshDaemon):
    """Emits what it gets; its state is the last payload."""

    schema = 3

    def __init__(self, state: bytes = b"") -> None:
        self.state = state

    def process(self, event: CausalEvent) -> bytes:
        self.state = event.payload
        return event.payload

    def snapshot(self) -> bytes:
        return self.state

    def restore(self, state: bytes) -> None:
        self.state = state


def snapshot_of(host: DaemonHost) -> StateSnapshot:
    snapshot = host.take_snapshot()
    assert snapshot is not None
    return snapshot


def after(*payloads: bytes) -> DaemonHost:
    """A host of ALICE that took these payloads from BOB."""
    host = DaemonHost(Echo(), ALICE)
    for sequence, payload in enumerate(payloads, start=1):
        host.deliver(CausalEvent.external(BOB.origin_hash, sequence, payload))
    return host


def small() -> reference.Snapshot:
    """A snapshot with something in every section, and below 4 KiB."""
    entity = ALICE.entity_id
    chain = reference.Chain(entity)
    chain.append(b"first")
    receipt = reference.Receipt(3, 1, 1, 1, chain.digest)
    certificate = reference.certificate(
        entity, 1, reference.entity_id(NODE), 0, reference.genesis(entity), "spawn", ENTITY
    )
    return reference.Snapshot(
        kind="counter",
        schema=2,
        entity=entity,
        epoch=1,
        taken_at=1_795_262_400_123,
        head=chain.events[-1][0],
        digest=chain.digest,
        cursors={(7, 0): (3, (receipt,)), (7, 1): (9, ()), (8, 0): (1, ())},
        stats=(4, 1, 2, 3, 5, 6),
        bindings=((1, "a/b", b"token"), (2, "c", None)),
        lineage=(certificate,),
        state=b"the state",
    )


def refused(data: bytes | bytearray, **options: int) -> SnapshotDecodeError:
    with pytest.raises(SnapshotDecodeError) as raised:
        StateSnapshot.from_bytes(data, **options)
    return raised.value


# ---------------------------------------------------------------- what is in it


def test_snapshot_tells_what_the_host_knows() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    host = after(b"a", b"bc", b"def")

    snapshot = snapshot_of(host)

    assert snapshot.kind == "Echo"
    assert snapshot.schema == 3
    assert snapshot.entity_id == ALICE.entity_id
    assert snapshot.origin_hash == ALICE.origin_hash
    assert snapshot.epoch == 1
    assert snapshot.sequence == 3
    assert snapshot.processed == 3
    assert snapshot.head_link == host.head_link
    assert snapshot.head_digest == host.head_digest
    assert snapshot.cursors == {BOB.origin_hash: 3}
    assert snapshot.state == b"def"
    assert before <= snapshot.taken_at <= datetime.now(UTC)
    assert len(snapshot) == len(snapshot.to_bytes())


def test_bytes_are_those_of_the_published_format() -> None:
    host = after(b"a", b"bc")
    host.record_subscription(7, "b", b"token")
    host.record_subscription(7, "a")

    found = reference.opened(snapshot_of(host).to_bytes())

    assert (found.kind, found.schema, found.entity, found.epoch) == ("Echo", 3, ALICE.entity_id, 1)
    assert found.head == host.head_link.to_bytes()
    assert found.digest == host.head_digest
    assert {key: cursor for key, (cursor, _) in found.cursors.items()} == {(BOB.origin_hash, 0): 2}
    assert found.stats == (2, 2, 0, 0, 1, 0)
    assert found.bindings == ((7, "a", None), (7, "b", b"token"))
    assert found.state == b"bc"


def test_bytes_of_another_program_are_read() -> None:
    made = small()
    data = made.encode()

    snapshot = StateSnapshot.from_bytes(data)

    assert snapshot.to_bytes() == data
    assert (snapshot.kind, snapshot.schema, snapshot.entity_id) == ("counter", 2, ALICE.entity_id)
    assert (snapshot.sequence, snapshot.processed, snapshot.head_digest) == (1, 4, made.digest)
    assert snapshot.cursors == {7: 3, 8: 1}
    assert snapshot.state == b"the state"
    assert snapshot.taken_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=made.taken_at)


@given(
    st.text(min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
    U64,
    U64,
    st.dictionaries(st.tuples(U64, U64), st.tuples(U64, st.just(())), max_size=5),
    st.tuples(U64, U64, U64, U64, U64, U64),
    st.binary(max_size=100),
)
def test_every_snapshot_is_read_and_written_alike(
    kind: str,
    schema: int,
    epoch: int,
    taken_at: int,
    cursors: dict[tuple[int, int], tuple[int, tuple[()]]],
    stats: tuple[int, int, int, int, int, int],
    state: bytes,
) -> None:
    made = replace(
        small(), kind=kind, schema=schema, epoch=epoch, taken_at=taken_at, cursors=dict(cursors), stats=stats
    )
    data = replace(made, state=state, lineage=()).encode()

    snapshot = StateSnapshot.from_bytes(data)

    assert snapshot.to_bytes() == data
    assert snapshot.kind == kind
    assert snapshot.epoch == epoch
    assert snapshot.taken_at.year >= 1970
    assert snapshot.cursors == {origin: cursor for (origin, stream), (cursor, _) in cursors.items() if stream == 0}


def test_state_is_handed_out_without_a_copy_where_it_is_a_whole_object() -> None:
    state = bytes(1000)
    host = DaemonHost(Echo(state), ALICE)

    assert snapshot_of(host).state is state


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_bytes_may_change_after_they_were_read(form: type[bytes | bytearray | memoryview]) -> None:
    data = bytearray(small().encode())

    snapshot = StateSnapshot.from_bytes(form(data))
    data[:] = bytes(len(data))

    assert snapshot.to_bytes() == small().encode()


def test_snapshot_is_copied_pickled_compared_and_shown() -> None:
    snapshot = snapshot_of(after(b"a"))

    for twin in twins(snapshot):
        assert twin == snapshot
        assert hash(twin) == hash(snapshot)
    assert snapshot != snapshot_of(after(b"b"))
    assert snapshot != snapshot.to_bytes()
    origin = f"{ALICE.origin_hash:016x}"
    assert repr(snapshot) == (f'<StateSnapshot of {origin} "Echo": epoch 1, sequence 1, 1 processed, 1 bytes of state>')


def test_snapshot_is_frozen() -> None:
    snapshot = StateSnapshot.from_bytes(small().encode())

    with pytest.raises(AttributeError):
        snapshot.state = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        snapshot.cursors[7] = 9  # type: ignore[index]
    with pytest.raises(TypeError):
        StateSnapshot()


# ---------------------------------------------------------------- damage


def test_snapshot_cut_off_anywhere_is_refused() -> None:
    data = small().encode()

    for length in range(len(data)):
        error = refused(data[:length])
        assert error.kind in {"truncated", "corrupt"}
        assert error.offset <= length


def test_every_flipped_bit_is_found() -> None:
    data = bytearray(small().encode())
    assert len(data) <= 4096

    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert refused(data).kind in {"corrupt", "newer_version"}
        data[bit // 8] ^= 1 << bit % 8
    assert StateSnapshot.from_bytes(data)


LARGE = replace(small(), state=bytes(range(256)) * 1024).encode()


@given(st.integers(0, len(LARGE) * 8 - 1))
def test_flipped_bit_of_a_large_snapshot_is_found(bit: int) -> None:
    data = bytearray(LARGE)
    data[bit // 8] ^= 1 << bit % 8

    assert refused(data).kind in {"corrupt", "newer_version"}


@given(st.integers(0, len(LARGE) - 1))
def test_large_snapshot_cut_off_anywhere_is_refused(length: int) -> None:
    assert refused(LARGE[:length]).kind in {"truncated", "corrupt"}


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    refused(data)
    refused(reference.sealed([data]))


def test_bytes_after_the_end_are_refused() -> None:
    assert refused(small().encode() + b"\0").kind == "corrupt"


def test_large_state_is_read_and_written_by_several_threads() -> None:
    data = replace(small(), state=bytes(4 << 20)).encode()

    def round_trip(_: int) -> bytes:
        return StateSnapshot.from_bytes(data).to_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(round_trip, range(8))) == {data}


# ---------------------------------------------------------------- whole by its digest, and wrong


def resealed(tag: int, body: bytes) -> bytes:
    """The small snapshot with another body in one section, closed anew."""
    bodies = list(small().sections())
    bodies[tag - 1] = body
    return reference.sealed(reference.section(number, body) for number, body in enumerate(bodies, start=1))


def with_sections(*sections: bytes) -> bytes:
    return reference.sealed(sections)


SECTIONS = [reference.section(tag, body) for tag, body in enumerate(small().sections(), start=1)]
HEADER, HEAD, CURSORS, STATS, BINDINGS, LINEAGE, STATE = small().sections()


@pytest.mark.parametrize("version", [2, 3, 255, 256, 65_535])
def test_newer_version_is_refused_by_name(version: int) -> None:
    error = refused(reference.sealed(SECTIONS, version=version))

    assert error.kind == "newer_version"
    assert str(version) in str(error)


def test_other_formats_are_refused() -> None:
    assert refused(reference.sealed(SECTIONS, magic=b"MESHCHN1")).kind == "corrupt"
    assert refused(reference.sealed(SECTIONS, version=0)).kind == "corrupt"


def test_unknown_section_is_skipped_only_when_it_may_be() -> None:
    appended = reference.section(8, b"of a later release", flags=0)

    assert StateSnapshot.from_bytes(with_sections(*SECTIONS, appended)).state == b"the state"
    error = refused(with_sections(*SECTIONS, reference.section(8, b"", flags=1)))
    assert error.kind == "unknown_section"
    assert refused(with_sections(*SECTIONS, reference.section(8, b"", flags=2))).kind == "corrupt"
    assert refused(with_sections(reference.section(0, b"", flags=0), *SECTIONS)).kind == "corrupt"


@pytest.mark.parametrize("missing", range(7))
def test_missing_section_is_refused(missing: int) -> None:
    assert refused(with_sections(*SECTIONS[:missing], *SECTIONS[missing + 1 :])).kind == "corrupt"


@pytest.mark.parametrize("twice", range(7))
def test_section_that_comes_twice_is_refused(twice: int) -> None:
    assert refused(with_sections(*SECTIONS[: twice + 1], *SECTIONS[twice:])).kind == "corrupt"


@pytest.mark.parametrize("first", range(6))
def test_sections_out_of_order_are_refused(first: int) -> None:
    sections = list(SECTIONS)
    sections[first], sections[first + 1] = sections[first + 1], sections[first]

    assert refused(with_sections(*sections)).kind == "corrupt"


@pytest.mark.parametrize("tag", range(1, 8))
@pytest.mark.parametrize(
    "length", [2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
)
def test_lengths_that_are_too_large_are_refused_at_once(tag: int, length: int) -> None:
    sections = list(SECTIONS)
    sections[tag - 1] = reference.section(tag, small().sections()[tag - 1], length=length)

    error = refused(with_sections(*sections))

    assert error.kind == "truncated"
    assert error.offset <= len(with_sections(*sections))


@pytest.mark.parametrize("tag", range(1, 7))
@pytest.mark.parametrize("change", [-1, 1])
def test_section_that_is_one_byte_off_is_refused(tag: int, change: int) -> None:
    body = small().sections()[tag - 1]
    body = body[:-1] if change < 0 else body + b"\0"

    assert refused(resealed(tag, body)).kind in {"corrupt", "truncated"}


@pytest.mark.parametrize("count", [0, 2, 4, 2**16, 2**31, 2**32 - 1])
def test_cursor_counts_that_do_not_fit_are_refused_at_once(count: int) -> None:
    assert refused(resealed(3, struct.pack("<I", count) + CURSORS[4:])).kind in {"corrupt", "truncated"}


@pytest.mark.parametrize("count", [0, 1, 3, 2**16, 2**31, 2**32 - 1])
def test_binding_counts_that_do_not_fit_are_refused_at_once(count: int) -> None:
    assert refused(resealed(5, struct.pack("<I", count) + BINDINGS[4:])).kind in {"corrupt", "truncated"}


@pytest.mark.parametrize("kind", [b"", b"\xff\xfe", b"k" * 256, b"\xc3"], ids=["empty", "not_text", "long", "half"])
def test_kinds_that_no_daemon_has_are_refused(kind: bytes) -> None:
    header = struct.pack("<H", len(kind)) + kind + HEADER[2 + len("counter") :]

    assert refused(resealed(1, header)).kind == "corrupt"


def test_head_of_another_entity_is_refused() -> None:
    head = reference.link(BOB.origin_hash, 0, 1, 0)

    assert refused(resealed(2, head + HEAD[32:])).kind == "corrupt"


def test_certificates_of_another_entity_or_out_of_order_are_refused() -> None:
    (good,) = small().lineage
    foreign = reference.certificate(BOB.entity_id, 2, BOB.entity_id, 0, bytes(32), "spawn", NODE)

    assert refused(resealed(6, good + foreign)).kind == "corrupt"
    assert refused(resealed(6, good + good)).kind == "corrupt"


def test_cursors_out_of_order_are_refused() -> None:
    entries = [struct.pack("<3QB", origin, 0, 1, 0) for origin in (8, 7)]

    assert refused(resealed(3, struct.pack("<I", 2) + b"".join(entries))).kind == "corrupt"
    assert refused(resealed(3, struct.pack("<I", 2) + entries[0] * 2)).kind == "corrupt"


# ---------------------------------------------------------------- arguments


def test_size_is_checked_before_anything_else() -> None:
    data = small().encode()

    assert StateSnapshot.from_bytes(data, bytes_max=len(data))
    error = refused(data, bytes_max=len(data) - 1)
    assert error.kind == "too_large"
    assert refused(b"not a snapshot", bytes_max=3).kind == "too_large"
    assert refused(b"", bytes_max=0).kind == "truncated"


def test_bad_arguments_are_refused() -> None:
    good = {"data": small().encode(), "bytes_max": 10_000}
    check_refused(StateSnapshot.from_bytes, good, {"data": BAD_BYTES, "bytes_max": BAD_INTS})
    with pytest.raises(TypeError):
        StateSnapshot.from_bytes(small().encode(), 10_000)  # type: ignore[call-arg]
