"""What a stranger can check: a chain, who spoke for it, and the first event that is not what it was."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

import reference
from meshos.chain import CausalEvent, CausalLink, Certificate, ChainReport, Checkpoint, OwnerSpan, verify, verify_chain
from meshos.compute import Receipt
from meshos.errors import BadSignature, BrokenLink, ChainError, FileDecodeError, InvalidArgument
from meshos.identity import EntityId
from records import ALICE, BAD_BYTES_32, BAD_ENTITIES, BAD_INTS, BOB, Cases, check_record, check_refused

ENTITY, NODE, OTHER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
ALICE_ID, NODE_ID, OTHER_ID = (EntityId(reference.entity_id(key)) for key in (ENTITY, NODE, OTHER))


@dataclass
class Story:
    """A chain with its signed records, as bytes."""

    chain: reference.Chain
    certificates: list[bytes]
    checkpoints: list[bytes]

    def sign(self, sequence: int, *, epoch: int = 1, node: SigningKey = NODE) -> None:
        """Add a checkpoint at `sequence`."""
        previous = reference.checkpoint_digest(self.checkpoints[-1]) if self.checkpoints else reference.ZERO
        digest = self.chain.digests[sequence]
        self.checkpoints.append(reference.checkpoint(ALICE_ID, epoch, sequence, digest, sequence, node, previous))

    def certify(self, epoch: int, node: SigningKey, sequence: int, reason: str, signer: SigningKey) -> None:
        """Add a certificate from `sequence` on."""
        digest = self.chain.digests[sequence]
        node_id = reference.entity_id(node)
        self.certificates.append(reference.certificate(ALICE_ID, epoch, node_id, sequence, digest, reason, signer))

    def export(self, first: int = 1) -> bytes:
        """The file of the events from `first` on."""
        return reference.export(ALICE_ID, self.certificates, self.checkpoints, self.chain.events[first - 1 :])

    def verify(self, first: int = 1) -> ChainReport:
        return verify(
            events_of(self.chain.events[first - 1 :]),
            [Checkpoint.from_bytes(data) for data in self.checkpoints],
            [Certificate.from_bytes(data) for data in self.certificates],
            ALICE_ID,
        )


def events_of(events: list[tuple[bytes, bytes]]) -> list[CausalEvent]:
    return [CausalEvent(CausalLink.from_bytes(link), payload) for link, payload in events]


def story(events: int = 5) -> Story:
    """A chain that one node spoke for from the beginning, signed at its end."""
    told = Story(reference.Chain(ALICE_ID), [], [])
    told.certify(1, NODE, 0, "spawn", ENTITY)
    for number in range(1, events + 1):
        told.chain.append(f"event {number}".encode())
    if events:
        told.sign(events)
    return told


def receipt(told: Story, sequence: int) -> Receipt:
    return Receipt(
        origin_hash=ALICE_ID.origin_hash,
        epoch=1,
        processed=sequence,
        sequence=sequence,
        head=told.chain.digests[sequence],
        event_origin=7,
        event_sequence=sequence,
    )


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes | bytearray], Path]:
    path = tmp_path / "a.chain"

    def written(data: bytes | bytearray) -> Path:
        path.write_bytes(data)
        return path

    return written


Written = Callable[[bytes | bytearray], Path]


# ---------------------------------------------------------------- good chains


def test_report_says_what_is_proved(file: Written) -> None:
    told = story(5)
    expected = ChainReport(
        entity_id=ALICE_ID,
        events=5,
        first_sequence=1,
        last_sequence=5,
        signed_through=5,
        digest=told.chain.digest,
        owners=(OwnerSpan(node=NODE_ID, epoch=1, first_sequence=1, last_sequence=5, rolled_back_from=None),),
    )

    assert told.verify() == expected
    assert verify_chain(file(told.export()), ALICE_ID) == expected


def test_report_and_spans_are_records() -> None:
    span = {"node": NODE_ID, "epoch": 1, "first_sequence": 1, "last_sequence": 5, "rolled_back_from": 3}
    check_record(OwnerSpan(**span), span, by_keyword=True)  # type: ignore[arg-type]
    report = {
        "entity_id": ALICE_ID,
        "events": 5,
        "first_sequence": 1,
        "last_sequence": 5,
        "signed_through": 4,
        "digest": bytes(range(32)),
        "owners": (OwnerSpan(**span), OwnerSpan(**{**span, "rolled_back_from": None})),  # type: ignore[arg-type]
    }
    check_record(ChainReport(**report), report, by_keyword=True)  # type: ignore[arg-type]


def test_tail_after_a_checkpoint_is_vouched_for() -> None:
    told = story(3)
    told.chain.append(b"event 4")
    told.sign(4)

    report = told.verify(first=4)

    assert (report.events, report.first_sequence, report.last_sequence) == (1, 4, 4)
    assert report.digest == told.chain.digest


def test_events_after_the_last_checkpoint_are_counted_and_not_signed() -> None:
    told = story(3)
    told.chain.append(b"event 4")

    report = told.verify()

    assert (report.last_sequence, report.signed_through) == (4, 3)


def test_chain_without_events_is_proved_to_be_empty(file: Written) -> None:
    told = story(0)

    report = verify_chain(file(told.export()), ALICE_ID)

    assert (report.events, report.last_sequence, report.signed_through) == (0, 0, 0)
    assert report.digest == reference.genesis(ALICE_ID)


def test_owners_follow_each_other() -> None:
    told = story(3)
    told.certify(2, OTHER, 3, "move", NODE)
    told.chain.append(b"event 4")
    told.sign(4, epoch=2, node=OTHER)

    report = told.verify()

    assert [(span.node, span.first_sequence, span.last_sequence) for span in report.owners] == [
        (NODE_ID, 1, 3),
        (OTHER_ID, 4, 4),
    ]


def test_restart_declares_what_it_rolled_back() -> None:
    told = story(3)
    told.certify(2, NODE, 2, "restart", NODE)
    told.chain.events.pop()
    told.chain.digests.pop()
    told.chain.append(b"another event 3")

    report = told.verify()

    assert report.digest == told.chain.digest
    assert report.owners[0].rolled_back_from is not None
    assert report.owners[1].rolled_back_from is None


def test_records_come_from_any_iterable_and_payloads_of_any_size() -> None:
    told = story(2)
    told.chain.append(bytes(300_000))

    def lazily(items: list[CausalEvent]) -> Iterator[CausalEvent]:
        yield from items

    report = verify(
        lazily(events_of(told.chain.events)),
        iter([Checkpoint.from_bytes(data) for data in told.checkpoints]),
        tuple(Certificate.from_bytes(data) for data in told.certificates),
        ALICE_ID,
    )

    assert report.digest == told.chain.digest


# ---------------------------------------------------------------- bad chains


@given(st.integers(0, 4), st.integers(0, 7), st.data())
def test_altered_payload_is_named(index: int, bit: int, data: st.DataObject) -> None:
    told = story(5)
    link, payload = told.chain.events[index]
    changed = bytearray(payload)
    changed[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << bit
    told.chain.events[index] = (link, bytes(changed))

    with pytest.raises(BrokenLink) as raised:
        told.verify()

    assert raised.value.kind == "altered"
    assert raised.value.sequence == index + 1
    assert raised.value.origin == ALICE_ID.origin_hash


@given(st.integers(0, 3))
def test_missing_event_is_a_gap(index: int) -> None:
    told = story(5)
    del told.chain.events[index]

    with pytest.raises(BrokenLink) as raised:
        told.verify()

    assert (raised.value.kind, raised.value.expected, raised.value.found) == ("gap", index + 1, index + 2)


def test_last_event_cut_off_is_found_in_a_file(file: Written) -> None:
    told = story(5)
    told.chain.events.pop()

    with pytest.raises(BrokenLink) as raised:
        verify_chain(file(told.export()), ALICE_ID)
    assert raised.value.kind == "gap"


def test_events_out_of_order_are_a_gap() -> None:
    told = story(5)
    events = told.chain.events
    events[1], events[2] = events[2], events[1]

    with pytest.raises(BrokenLink) as raised:
        told.verify()
    assert (raised.value.kind, raised.value.sequence) == ("gap", 2)


def test_event_of_another_chain_is_named() -> None:
    told = story(3)
    told.chain.events[1] = (reference.link(BOB.origin_hash, 0, 2, 0), b"foreign")

    with pytest.raises(BrokenLink) as raised:
        told.verify()

    error = raised.value
    assert (error.kind, error.sequence) == ("wrong_origin", 2)
    assert (error.expected, error.found) == (ALICE.origin_hash, BOB.origin_hash)


def test_node_that_is_not_certified_speaks_for_nobody() -> None:
    told = story(3)
    told.checkpoints.clear()
    told.sign(3, node=OTHER)

    with pytest.raises(BadSignature) as raised:
        told.verify()
    assert raised.value.sequence == 3


def test_certificate_that_a_stranger_signed_is_refused() -> None:
    told = story(3)
    told.certify(2, OTHER, 3, "move", OTHER)

    with pytest.raises(BadSignature):
        told.verify()


def test_two_chains_under_one_key_are_a_fork() -> None:
    told, twin = story(3), story(2)
    twin.chain.append(b"another event 3")
    twin.sign(3)
    told.checkpoints.append(
        reference.checkpoint(
            ALICE_ID, 1, 3, twin.chain.digest, 9, NODE, reference.checkpoint_digest(told.checkpoints[-1])
        )
    )

    with pytest.raises(BrokenLink) as raised:
        told.verify()
    assert (raised.value.kind, raised.value.sequence) == ("forked", 3)


def test_chain_without_certificates_proves_nothing() -> None:
    told = story(3)
    told.certificates.clear()

    with pytest.raises(BadSignature):
        told.verify()


def test_chain_is_checked_for_the_entity_asked_for(file: Written) -> None:
    with pytest.raises(BrokenLink) as raised:
        verify_chain(file(story(3).export()), BOB.entity_id)
    assert raised.value.kind == "wrong_origin"


# ---------------------------------------------------------------- files


def test_every_flipped_bit_of_a_file_is_found(file: Written) -> None:
    data = bytearray(story(3).export())
    path = file(data)

    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ChainError):
            verify_chain(path, ALICE_ID)
        data[bit // 8] ^= 1 << bit % 8


def test_file_cut_off_anywhere_is_refused(file: Written) -> None:
    data = story(3).export()

    for length in range(len(data)):
        with pytest.raises(FileDecodeError) as raised:
            verify_chain(file(data[:length]), ALICE_ID)
        assert raised.value.offset <= length
    with pytest.raises(FileDecodeError):
        verify_chain(file(data + b"\0"), ALICE_ID)


@pytest.mark.parametrize("length", [2**16, 2**31, 2**32 - 33, 2**32 - 1])
def test_frame_lengths_that_do_not_fit_are_refused_at_once(file: Written, length: int) -> None:
    data = bytearray(story(3).export())
    data[44:48] = length.to_bytes(4, "little")

    with pytest.raises(FileDecodeError):
        verify_chain(file(data), ALICE_ID)


def test_file_is_named_in_any_form(file: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(story(3).export())

    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(path)

    monkeypatch.chdir(tmp_path)
    for form in (path, str(path), Named(), path.name):
        assert verify_chain(form, ALICE_ID).events == 3


def test_system_errors_pass_through_as_they_are(tmp_path: Path) -> None:
    missing = tmp_path / "missing.chain"

    with pytest.raises(FileNotFoundError) as raised:
        verify_chain(missing, ALICE_ID)
    assert (raised.value.errno, raised.value.filename) == (2, str(missing))
    with pytest.raises(OSError, match=r"directory|denied"):
        verify_chain(tmp_path, ALICE_ID)


# ---------------------------------------------------------------- receipts


def test_receipts_of_the_chain_fit(file: Written) -> None:
    told = story(5)
    path = file(told.export())

    for receipts in ((), [receipt(told, 3)], (receipt(told, number) for number in range(6))):
        assert verify_chain(path, ALICE_ID, receipts=receipts).events == 5


def test_receipt_of_another_history_is_found(file: Written) -> None:
    told, other = story(5), story(2)
    other.chain.append(b"another event 3")

    with pytest.raises(BrokenLink) as raised:
        verify_chain(file(told.export()), ALICE_ID, receipts=[receipt(told, 2), receipt(other, 3)])

    assert (raised.value.kind, raised.value.sequence) == ("receipt", 3)
    assert raised.value.expected == reference.head8(other.chain.digests[3])
    assert raised.value.found == reference.head8(told.chain.digests[3])


def test_receipt_beyond_the_end_does_not_fit(file: Written) -> None:
    told, longer = story(5), story(9)

    with pytest.raises(BrokenLink) as raised:
        verify_chain(file(told.export()), ALICE_ID, receipts=[receipt(longer, 9)])
    assert (raised.value.kind, raised.value.sequence) == ("receipt", 9)


def test_receipt_of_another_daemon_does_not_fit(file: Written) -> None:
    told = story(5)
    foreign = Receipt(
        origin_hash=BOB.origin_hash,
        epoch=1,
        processed=3,
        sequence=3,
        head=told.chain.digests[3],
        event_origin=7,
        event_sequence=3,
    )

    with pytest.raises(BrokenLink) as raised:
        verify_chain(file(told.export()), ALICE_ID, receipts=[foreign])
    assert (raised.value.kind, raised.value.found) == ("wrong_origin", BOB.origin_hash)


# ---------------------------------------------------------------- arguments


def test_bad_arguments_are_refused(file: Written) -> None:
    told = story(3)
    good = {
        "events": events_of(told.chain.events),
        "checkpoints": [Checkpoint.from_bytes(data) for data in told.checkpoints],
        "certificates": [Certificate.from_bytes(data) for data in told.certificates],
        "entity_id": ALICE_ID,
    }
    lists: Cases = [(value, TypeError) for value in (None, 3, [3], "ab", b"ab", [None])]
    bad: dict[str, Cases] = dict.fromkeys(good, lists)
    check_refused(verify, good, {**bad, "entity_id": BAD_ENTITIES})

    path = file(told.export())
    files: Cases = [
        *((value, TypeError) for value in (None, 3, True, bytes(path), [str(path)], object())),
        ("a\0b", InvalidArgument),
    ]
    bad = {"file": files, "entity_id": BAD_ENTITIES, "receipts": lists}
    check_refused(verify_chain, {"file": path, "entity_id": ALICE_ID, "receipts": ()}, bad)
    with pytest.raises(TypeError):
        verify_chain(path, ALICE_ID, [])  # type: ignore[call-arg]


def test_bad_fields_of_reports_are_refused() -> None:
    span = {"node": NODE_ID, "epoch": 1, "first_sequence": 1, "last_sequence": 1, "rolled_back_from": None}
    optional = [case for case in BAD_INTS if case[0] is not None]
    bad: dict[str, Cases] = {"node": BAD_ENTITIES, "epoch": BAD_INTS, "rolled_back_from": optional}
    check_refused(OwnerSpan, span, {**bad, "first_sequence": BAD_INTS, "last_sequence": BAD_INTS})
    report = {"entity_id": ALICE_ID, "events": 1, "first_sequence": 1, "last_sequence": 1, "signed_through": 1}
    bad = {**dict.fromkeys(report, BAD_INTS), "entity_id": BAD_ENTITIES, "digest": BAD_BYTES_32}
    owners: Cases = [(value, TypeError) for value in (None, [], (3,), [OwnerSpan(**span)])]  # type: ignore[arg-type]
    check_refused(ChainReport, {**report, "digest": bytes(32), "owners": ()}, {**bad, "owners": owners})
