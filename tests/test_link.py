"""One link of a chain: four numbers in 32 bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshos.chain import CausalLink
from meshos.errors import InvalidArgument
from records import BAD_BYTES_32, BAD_INTS, check_record, check_refused

numbers = st.integers(0, 2**64 - 1)
FIELDS = ("origin_hash", "horizon_encoded", "sequence", "parent_hash")


def test_link_is_a_record() -> None:
    check_record(CausalLink(1, 2, 3, 4), dict(zip(FIELDS, (1, 2, 3, 4), strict=True)))
    largest = 2**64 - 1
    check_record(CausalLink(*[largest] * 4), dict.fromkeys(FIELDS, largest))


@given(numbers, numbers, numbers, numbers)
def test_bytes_are_four_little_endian_numbers(origin: int, horizon: int, sequence: int, parent: int) -> None:
    link = CausalLink(origin, horizon, sequence, parent)

    assert link.to_bytes() == struct.pack("<4Q", origin, horizon, sequence, parent)
    assert CausalLink.from_bytes(link.to_bytes()) == link


@given(numbers, numbers, st.integers(0, 3))
def test_links_that_differ_in_one_field_are_not_equal(value: int, other: int, place: int) -> None:
    values = [value] * 4
    link = CausalLink(*values)

    values[place] = other

    assert (CausalLink(*values) == link) == (value == other)


def test_every_bytes_like_object_is_read() -> None:
    link = CausalLink(1, 2, 3, 4)

    for data in (link.to_bytes(), bytearray(link.to_bytes()), memoryview(link.to_bytes())):
        assert CausalLink.from_bytes(data) == link


def test_bad_arguments_are_refused() -> None:
    check_refused(CausalLink, dict.fromkeys(FIELDS, 1), dict.fromkeys(FIELDS, BAD_INTS))
    check_refused(CausalLink.from_bytes, {"data": bytes(32)}, {"data": BAD_BYTES_32})


def test_message_names_argument_and_value_that_is_wrong() -> None:
    with pytest.raises(InvalidArgument, match=r"^data: must be 32 bytes, not 5$"):
        CausalLink.from_bytes(b"short")
    with pytest.raises(TypeError, match=r"^sequence must be an int, not str$"):
        CausalLink(1, 2, "3", 4)  # type: ignore[arg-type]


def test_links_match_by_position() -> None:
    match CausalLink(1, 2, 3, 4):
        case CausalLink(origin, _, sequence, _):
            assert (origin, sequence) == (1, 3)
        case _:
            pytest.fail("a link is matched")
