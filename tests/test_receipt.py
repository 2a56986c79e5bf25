"""Receipts: what one acknowledged event left behind."""

from meshos.compute import Receipt
from records import BAD_BOOLS, BAD_BYTES_32, BAD_INTS, check_record, check_refused

FIELDS: dict[str, object] = {
    "origin_hash": 1,
    "epoch": 2,
    "processed": 3,
    "sequence": 4,
    "head": bytes(range(32)),
    "event_origin": 5,
    "event_sequence": 6,
    "duplicate": True,
}


def test_receipt_is_a_record() -> None:
    check_record(Receipt(**FIELDS), FIELDS, by_keyword=True)  # type: ignore[arg-type]


def test_whether_it_is_a_duplicate_is_not_compared() -> None:
    """It tells of a try and not of the event."""
    first = Receipt(**{**FIELDS, "duplicate": False})  # type: ignore[arg-type]
    again = Receipt(**FIELDS)  # type: ignore[arg-type]

    assert first == again
    assert hash(first) == hash(again)
    assert not Receipt(**{name: FIELDS[name] for name in FIELDS if name != "duplicate"}).duplicate  # type: ignore[arg-type]


def test_everything_else_is_compared() -> None:
    receipt = Receipt(**FIELDS)  # type: ignore[arg-type]

    for name in FIELDS:
        if name != "duplicate":
            other = bytes(32) if name == "head" else 99
            assert Receipt(**{**FIELDS, name: other}) != receipt  # type: ignore[arg-type]


def test_bad_arguments_are_refused() -> None:
    bad = dict.fromkeys(FIELDS, BAD_INTS)
    check_refused(Receipt, FIELDS, {**bad, "head": BAD_BYTES_32, "duplicate": BAD_BOOLS})
