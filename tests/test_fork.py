"""Forks: descent that both sides signed, and a chain whose genesis says where it comes from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

import reference
from meshos.chain import CausalChainBuilder, ForkRecord, fork_entity
from meshos.errors import BadSignature, ChainError, FileDecodeError, IdentityError, InvalidArgument
from meshos.identity import Identity
from records import (
    ALICE,
    BAD_BYTES,
    BAD_BYTES_32,
    BAD_ENTITIES,
    BAD_INTS,
    BOB,
    CAROL,
    Cases,
    check_record,
    check_refused,
)

PARENT, CHILD, OPERATOR = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
FIELDS: dict[str, object] = {
    "parent": ALICE.entity_id,
    "child": BOB.entity_id,
    "fork_sequence": 7,
    "parent_digest": bytes(range(32)),
    "from_snapshot_sequence": 5,
    "signer": CAROL.entity_id,
    "signatures": (bytes(range(64)), bytes(64)),
}
OPTIONAL_INTS = [case for case in BAD_INTS if case[0] is not None]

sequences = st.integers(0, reference.U64_MAX)
digests = st.binary(min_size=32, max_size=32)


def bytes_of(fork_sequence: int = 7, snapshot: int | None = 5, signer: SigningKey = PARENT) -> bytes:
    return reference.fork_record(ALICE.entity_id, CHILD, fork_sequence, bytes(range(32)), snapshot, signer)


def test_fork_record_is_a_record() -> None:
    check_record(ForkRecord(**FIELDS), FIELDS)  # type: ignore[arg-type]
    without_snapshot = {**FIELDS, "from_snapshot_sequence": None}
    check_record(ForkRecord(**without_snapshot), without_snapshot)  # type: ignore[arg-type]


@given(sequences, digests, st.booleans())
def test_fork_is_signed_by_parent_and_child(sequence: int, digest: bytes, from_snapshot: bool) -> None:
    snapshot = sequence if from_snapshot else None

    child, record, chain = fork_entity(ALICE, sequence, digest, from_snapshot_sequence=snapshot)

    record.verify()
    assert (record.parent, record.child, record.signer) == (ALICE.entity_id, child.entity_id, ALICE.entity_id)
    assert (record.fork_sequence, record.parent_digest) == (sequence, digest)
    assert record.from_snapshot_sequence == snapshot
    assert not child.is_read_only
    assert child != ALICE
    assert chain.entity_id == child.entity_id
    expected = reference.fork_record(
        ALICE.entity_id, child.to_signing_key(), sequence, digest, snapshot, ALICE.to_signing_key()
    )
    assert record.to_bytes() == expected


@given(sequences, digests)
def test_chain_of_the_child_descends_from_the_parent(sequence: int, digest: bytes) -> None:
    child, _, chain = fork_entity(ALICE, sequence, digest)
    lineage = reference.fork_lineage(ALICE.entity_id, sequence, digest, child.entity_id)
    theirs = reference.Chain(child.entity_id, lineage)

    assert chain.head_link.parent_hash == reference.head8(lineage)
    assert chain.head_digest == theirs.digest
    assert chain.append(b"first").link.to_bytes() == theirs.append(b"first")
    assert chain.head_digest != CausalChainBuilder(child.entity_id).head_digest


@pytest.mark.parametrize("signer", [PARENT, OPERATOR], ids=["parent", "operator"])
@pytest.mark.parametrize("snapshot", [None, 0, 7])
def test_bytes_of_another_program_are_read(signer: SigningKey, snapshot: int | None) -> None:
    data = bytes_of(7, snapshot, signer)

    record = ForkRecord.from_bytes(data)

    record.verify()
    assert record.to_bytes() == data
    assert record.signer == reference.entity_id(signer)
    assert record.from_snapshot_sequence == snapshot


def test_every_shorter_and_longer_input_is_refused() -> None:
    data = bytes_of()

    for length in range(len(data)):
        with pytest.raises(FileDecodeError):
            ForkRecord.from_bytes(data[:length])
    with pytest.raises(FileDecodeError):
        ForkRecord.from_bytes(data + b"\0")


def test_every_flipped_bit_is_refused() -> None:
    data = bytes_of()

    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ChainError):
            ForkRecord.from_bytes(changed)


def test_record_that_nobody_signed_is_refused() -> None:
    with pytest.raises(BadSignature) as raised:
        ForkRecord(**FIELDS).verify()  # type: ignore[arg-type]
    assert (raised.value.origin, raised.value.sequence) == (ALICE.origin_hash, 7)


def test_public_parent_cannot_fork() -> None:
    with pytest.raises(IdentityError) as raised:
        fork_entity(Identity.public_only(ALICE.entity_id), 0, bytes(32))
    assert raised.value.kind == "read_only"


def test_snapshot_after_the_fork_is_refused() -> None:
    with pytest.raises(InvalidArgument) as raised:
        fork_entity(ALICE, 5, bytes(32), from_snapshot_sequence=6)
    assert raised.value.argument == "from_snapshot_sequence"


def test_bad_arguments_are_refused() -> None:
    signatures: Cases = [
        *((value, TypeError) for value in (None, [bytes(64), bytes(64)], bytes(128), ("a", "b"), (bytes(64), None))),
        *((value, InvalidArgument) for value in ((), (bytes(64),), (bytes(64),) * 3, (bytes(64), bytes(63)))),
    ]
    bad: dict[str, Cases] = {
        "parent": BAD_ENTITIES,
        "child": BAD_ENTITIES,
        "fork_sequence": BAD_INTS,
        "parent_digest": BAD_BYTES_32,
        "from_snapshot_sequence": OPTIONAL_INTS,
        "signer": BAD_ENTITIES,
        "signatures": signatures,
    }
    check_refused(ForkRecord, FIELDS, bad)
    check_refused(ForkRecord.from_bytes, {"data": bytes_of()}, {"data": BAD_BYTES})
    given_ = {"parent": ALICE, "fork_sequence": 3, "parent_digest": bytes(32), "from_snapshot_sequence": None}
    parents: Cases = [(value, TypeError) for value in (ALICE.entity_id, None, bytes(32))]
    bad = {"parent": parents, "fork_sequence": BAD_INTS, "parent_digest": BAD_BYTES_32}
    check_refused(fork_entity, given_, {**bad, "from_snapshot_sequence": OPTIONAL_INTS})
