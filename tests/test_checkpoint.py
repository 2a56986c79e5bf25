"""Checkpoints: bytes that another program made are read, and nothing else is."""

import copy
import pickle
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

import reference
from meshos.chain import Checkpoint
from meshos.errors import FileDecodeError, InvalidArgument
from meshos.identity import Identity
from records import (
    ALICE,
    BAD_BYTES,
    BAD_BYTES_32,
    BAD_ENTITIES,
    BAD_INTS,
    BAD_MOMENTS,
    BAD_SIGNATURES,
    BOB,
    NOON,
    UTC,
    check_record,
    check_refused,
)

NODE = SigningKey(bytes([2]) * 32)
FIELDS: dict[str, object] = {
    "entity_id": ALICE.entity_id,
    "epoch": 3,
    "sequence": 70,
    "digest": bytes(range(32)),
    "at": NOON,
    "previous": bytes(32),
    "signature": bytes(range(64)),
}
LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def bytes_of(epoch: int = 1, sequence: int = 5, unix_ms: int = 0) -> bytes:
    return reference.checkpoint(ALICE.entity_id, epoch, sequence, bytes(range(32)), unix_ms, NODE, bytes([9]) * 32)


def test_checkpoint_is_a_record() -> None:
    check_record(Checkpoint(**FIELDS), FIELDS)  # type: ignore[arg-type]


@given(st.integers(0, reference.U64_MAX), st.integers(0, reference.U64_MAX), st.integers(0, LAST_MS))
def test_bytes_of_another_program_are_read(epoch: int, sequence: int, unix_ms: int) -> None:
    data = bytes_of(epoch, sequence, unix_ms)

    checkpoint = Checkpoint.from_bytes(data)

    assert checkpoint.to_bytes() == data
    assert checkpoint.entity_id == ALICE.entity_id
    assert checkpoint.epoch == epoch
    assert checkpoint.sequence == sequence
    assert checkpoint.digest == bytes(range(32))
    assert checkpoint.at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
    assert checkpoint.at.tzinfo is UTC
    assert checkpoint.previous == bytes([9]) * 32
    Identity.public_only(BOB.entity_id).verify(b"meshos 2026 checkpoint v1\0" + data[:-64], checkpoint.signature)


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)), st.integers(-23, 23))
def test_time_is_kept_whatever_its_zone(naive: datetime, hours: int) -> None:
    at = naive.replace(microsecond=naive.microsecond // 1000 * 1000, tzinfo=timezone(timedelta(hours=hours)))

    assert Checkpoint(**{**FIELDS, "at": at}).at == at  # type: ignore[arg-type]


def test_time_beyond_the_last_datetime_is_shown_as_that_one_and_kept() -> None:
    data = bytes_of(unix_ms=reference.U64_MAX)

    checkpoint = Checkpoint.from_bytes(data)

    assert checkpoint.at == datetime.max.replace(tzinfo=UTC)
    for twin in (copy.copy(checkpoint), pickle.loads(pickle.dumps(checkpoint))):
        assert twin == checkpoint
        assert twin.to_bytes() == data


def test_parts_of_a_millisecond_are_refused() -> None:
    """The bytes hold none, and a time that is cut off unseen is not the one that was signed."""
    with pytest.raises(InvalidArgument, match="at: must be a whole number of milliseconds"):
        Checkpoint(**{**FIELDS, "at": NOON.replace(microsecond=123_001)})  # type: ignore[arg-type]


def test_every_shorter_and_longer_input_is_refused() -> None:
    data = bytes_of()

    for length in range(len(data)):
        with pytest.raises(FileDecodeError) as raised:
            Checkpoint.from_bytes(data[:length])
        assert raised.value.offset <= length
    with pytest.raises(FileDecodeError) as raised:
        Checkpoint.from_bytes(data + b"\0")
    assert raised.value.offset == len(data)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_unknown_versions_are_refused(version: int) -> None:
    with pytest.raises(FileDecodeError) as raised:
        Checkpoint.from_bytes(bytes([version]) + bytes_of()[1:])
    assert raised.value.offset == 0


def test_bad_arguments_are_refused() -> None:
    bad = {
        "entity_id": BAD_ENTITIES,
        "epoch": BAD_INTS,
        "sequence": BAD_INTS,
        "digest": BAD_BYTES_32,
        "at": BAD_MOMENTS,
        "previous": BAD_BYTES_32,
        "signature": BAD_SIGNATURES,
    }
    check_refused(Checkpoint, FIELDS, bad)
    check_refused(Checkpoint.from_bytes, {"data": bytes_of()}, {"data": BAD_BYTES})
