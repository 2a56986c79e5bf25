"""What every record keeps, and which values no argument of a kind accepts: checked the same way for all of them."""

import copy
import datetime
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta, timezone
from typing import TypeAlias, cast

import pytest
from nacl.signing import VerifyKey

import meshos.audit
import meshos.capability
import meshos.chain
import meshos.channel
import meshos.compute
import meshos.control
import meshos.daemon
import meshos.dispatch
import meshos.events
import meshos.identity
import meshos.migration
import meshos.operator
import meshos.probes
import meshos.recovery
import meshos.runtime
import meshos.scheduler
import meshos.status
import meshos.testing
from meshos.errors import InvalidArgument

MODULES = (
    meshos.audit,
    meshos.capability,
    meshos.chain,
    meshos.channel,
    meshos.compute,
    meshos.control,
    meshos.daemon,
    meshos.dispatch,
    meshos.events,
    meshos.identity,
    meshos.migration,
    meshos.operator,
    meshos.probes,
    meshos.recovery,
    meshos.runtime,
    meshos.scheduler,
    meshos.status,
    meshos.testing,
)
UTC = datetime.UTC
NOON = datetime.datetime(2026, 11, 21, 12, 0, 0, 123_000, tzinfo=UTC)
ALICE, BOB, CAROL = (meshos.identity.Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))


def check_record(record: object, fields: Mapping[str, object], *, by_keyword: bool = False) -> None:
    """Check all that a record is: its fields, and how it is made, compared, shown, copied, pickled and matched."""
    cls = cast("Callable[..., object]", type(record))
    for name, value in fields.items():
        assert getattr(record, name) == value, name
        with pytest.raises(AttributeError):
            setattr(record, name, value)
        with pytest.raises(AttributeError):
            delattr(record, name)
    with pytest.raises(AttributeError):
        setattr(record, "another", 1)  # noqa: B010  mypy knows that there is none

    assert cls(**fields) == record
    assert getattr(record, "__match_args__", None) == (() if by_keyword else tuple(fields))
    if by_keyword:
        if fields:
            with pytest.raises(TypeError):
                cls(*fields.values())
    else:
        assert cls(*fields.values()) == record
    with pytest.raises(TypeError):
        cls(**fields, another=1)

    for twin in twins(record):
        assert type(twin) is type(record)
        assert twin == record
        assert hash(twin) == hash(record)
        assert repr(twin) == repr(record)
    assert record != object()
    assert record.__eq__(1) is NotImplemented
    with pytest.raises(TypeError):
        _ = record < record  # type: ignore[operator]
    assert evaluated(repr(record)) == record


def twins(record: object) -> Iterator[object]:
    """Yield copies of all sorts."""
    yield copy.copy(record)
    yield copy.deepcopy(record)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(record, protocol))


def evaluated(text: str) -> object:
    """Evaluate a repr with the public names in view."""
    names: dict[str, object] = {"datetime": datetime, "VerifyKey": VerifyKey}
    for module in MODULES:
        names.update(vars(module))
    return eval(text, names)


Cases: TypeAlias = Sequence[tuple[object, type[Exception]]]
"""Values that an argument does not accept, each with the error that it raises."""


class Index:
    """A number that is no `int`, as those of NumPy."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


BAD_INTS: Cases = [
    *((value, TypeError) for value in ("1", b"1", 1.0, None, True, False, [1], object())),
    *((value, InvalidArgument) for value in (-1, -(2**64), 2**64, 2**64 + 1, 10**5000, Index(-1), Index(2**64))),
]
BAD_BYTES_32: Cases = [
    *((value, TypeError) for value in ("x" * 32, 32, None, [0] * 32, 1.5)),
    *((value, InvalidArgument) for value in (b"", bytes(31), bytes(33), bytearray(31), memoryview(bytes(33)))),
]
BAD_SIGNATURES: Cases = [
    *((value, TypeError) for value in ("x" * 64, 64, None, [0] * 64)),
    *((value, InvalidArgument) for value in (b"", bytes(63), bytes(65), bytes(128))),
]
BAD_BYTES: Cases = [(value, TypeError) for value in ("text", 3, None, [1, 2], 1.5, (b"a",), object())]
BAD_TEXTS: Cases = [
    *((value, TypeError) for value in (b"text", 3, None, True, ["a"])),
    ("\ud800", InvalidArgument),
]
BAD_ENTITIES: Cases = [(value, TypeError) for value in (bytes(ALICE.entity_id), ALICE.entity_id.hex(), ALICE, None, 7)]
BAD_MOMENTS: Cases = [
    *((value, TypeError) for value in (0, 1.5, "2026-11-21", None, NOON.date(), NOON.time())),
    *(
        (value, InvalidArgument)
        for value in (
            NOON.replace(tzinfo=None),
            datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime.datetime.min.replace(tzinfo=UTC),
            datetime.datetime(1970, 1, 1, tzinfo=timezone(timedelta(seconds=1))),
        )
    ),
]
BAD_SPANS: Cases = [
    *((value, TypeError) for value in (0, 1.5, "1 s", None, NOON)),
    *((value, InvalidArgument) for value in (timedelta(microseconds=-1), timedelta.min)),
]
BAD_SHARES: Cases = [
    *((value, TypeError) for value in ("0.5", None, True, b"", [0.5])),
    *((value, InvalidArgument) for value in (-0.001, 1.001, float("nan"), float("inf"), -1, 2, 10**400)),
]
BAD_BOOLS: Cases = [(value, TypeError) for value in (0, 1, None, "yes", 1.0)]


def check_refused(call: Callable[..., object], good: Mapping[str, object], bad: Mapping[str, Cases]) -> None:
    """Check that a call takes `good`, and refuses each bad value with an error that names the argument."""
    call(**good)
    for name, cases in bad.items():
        for value, expected in cases:
            with pytest.raises(expected) as raised:
                call(**{**good, name: value})
            assert type(raised.value) is expected, (name, value)
            assert name in str(raised.value)
            if isinstance(raised.value, InvalidArgument):
                assert raised.value.argument == name
