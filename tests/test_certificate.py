"""Certificates: bytes that another program made are read, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

import reference
from meshos.chain import Certificate
from meshos.errors import FileDecodeError
from meshos.identity import Identity
from records import (
    ALICE,
    BAD_BYTES,
    BAD_BYTES_32,
    BAD_ENTITIES,
    BAD_INTS,
    BAD_SIGNATURES,
    BOB,
    Cases,
    check_record,
    check_refused,
)

ENTITY, NODE = SigningKey(bytes([1]) * 32), SigningKey(bytes([2]) * 32)
FIELDS: dict[str, object] = {
    "entity_id": ALICE.entity_id,
    "epoch": 3,
    "node": BOB.entity_id,
    "from_sequence": 70,
    "digest": bytes(range(32)),
    "reason": "move",
    "signer": ALICE.entity_id,
    "signature": bytes(range(64)),
}


def bytes_of(reason: str = "spawn", epoch: int = 1, from_sequence: int = 0) -> bytes:
    entity = reference.entity_id(ENTITY)
    digest = reference.genesis(entity)
    return reference.certificate(entity, epoch, reference.entity_id(NODE), from_sequence, digest, reason, ENTITY)


def test_certificate_is_a_record() -> None:
    check_record(Certificate(**FIELDS), FIELDS)  # type: ignore[arg-type]


@given(st.sampled_from(sorted(reference.REASONS)), st.integers(0, reference.U64_MAX), st.integers(0, reference.U64_MAX))
def test_bytes_of_another_program_are_read(reason: str, epoch: int, from_sequence: int) -> None:
    data = bytes_of(reason, epoch, from_sequence)

    certificate = Certificate.from_bytes(data)

    assert certificate.to_bytes() == data
    assert certificate.entity_id == ALICE.entity_id
    assert certificate.epoch == epoch
    assert certificate.node == BOB.entity_id
    assert certificate.from_sequence == from_sequence
    assert certificate.digest == reference.genesis(ALICE.entity_id)
    assert certificate.reason == reason
    assert certificate.signer == ALICE.entity_id
    Identity.public_only(certificate.signer).verify(b"meshos 2026 certificate v1\0" + data[:-64], certificate.signature)


def test_every_shorter_and_longer_input_is_refused() -> None:
    data = bytes_of()

    for length in range(len(data)):
        with pytest.raises(FileDecodeError) as raised:
            Certificate.from_bytes(data[:length])
        assert raised.value.offset <= length
    with pytest.raises(FileDecodeError) as raised:
        Certificate.from_bytes(data + b"\0")
    assert raised.value.offset == len(data)


@pytest.mark.parametrize(("place", "value"), [(0, 0), (0, 2), (0, 255), (1, 0), (1, 5), (1, 255)])
def test_unknown_versions_and_reasons_are_refused(place: int, value: int) -> None:
    data = bytearray(bytes_of())
    data[place] = value

    with pytest.raises(FileDecodeError) as raised:
        Certificate.from_bytes(data)
    assert raised.value.offset == place


def test_bad_arguments_are_refused() -> None:
    reasons: Cases = [*((value, TypeError) for value in (b"spawn", 1, None)), ("Spawn", ValueError), ("", ValueError)]
    bad: dict[str, Cases] = {
        "entity_id": BAD_ENTITIES,
        "epoch": BAD_INTS,
        "node": BAD_ENTITIES,
        "from_sequence": BAD_INTS,
        "digest": BAD_BYTES_32,
        "signer": BAD_ENTITIES,
        "signature": BAD_SIGNATURES,
    }
    check_refused(Certificate, FIELDS, bad)
    for value, expected in reasons:
        with pytest.raises(expected, match="reason"):
            Certificate(**{**FIELDS, "reason": value})  # type: ignore[arg-type]
    check_refused(Certificate.from_bytes, {"data": bytes_of()}, {"data": BAD_BYTES})
