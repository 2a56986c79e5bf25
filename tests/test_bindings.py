"""The ledger of subscriptions: ordered, without doubles, and read strictly."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from meshos.channel import ChannelName
from meshos.daemon import DaemonBindings, SubscriptionBinding
from meshos.errors import ChannelNameError, FileDecodeError, InvalidArgument
from records import BAD_BYTES, BAD_INTS, Cases, check_record, check_refused, twins

publishers = st.integers(0, reference.U64_MAX)
channels = st.lists(st.text("abc-_0", min_size=1, max_size=5), min_size=1, max_size=3).map("/".join)
tokens = st.none() | st.binary(max_size=40)
entries = st.lists(st.tuples(publishers, channels, tokens), max_size=8, unique_by=lambda entry: entry[:2])


def made(subscriptions: list[tuple[int, str, bytes | None]]) -> DaemonBindings:
    return DaemonBindings([SubscriptionBinding(*subscription) for subscription in subscriptions])


def test_subscription_is_a_record() -> None:
    fields = {"publisher": 7, "channel": ChannelName("a/b"), "token": b"token", "queue_group": ChannelName("g")}
    check_record(SubscriptionBinding(7, "a/b", b"token", "g"), fields)
    check_record(SubscriptionBinding(7, "a/b"), {**fields, "token": None, "queue_group": None})
    assert type(SubscriptionBinding(7, "a/b").channel) is ChannelName


def test_ledger_is_a_record() -> None:
    check_record(DaemonBindings(), {"subscriptions": ()})
    subscriptions = (SubscriptionBinding(1, "a"), SubscriptionBinding(1, "b", b""), SubscriptionBinding(2, "a"))
    check_record(DaemonBindings(subscriptions), {"subscriptions": subscriptions})


@given(entries)
def test_ledger_is_ordered_and_read_back(subscriptions: list[tuple[int, str, bytes | None]]) -> None:
    ledger = made(subscriptions)

    found = [(entry.publisher, str(entry.channel), entry.token) for entry in ledger.subscriptions]

    assert found == sorted(subscriptions, key=lambda entry: entry[:2])
    assert ledger.to_bytes() == reference.ledger(subscriptions)
    assert DaemonBindings.from_bytes(ledger.to_bytes()) == ledger
    assert made(subscriptions[::-1]) == ledger
    for twin in twins(ledger):
        assert hash(twin) == hash(ledger)


def test_empty_ledger_is_no_bytes() -> None:
    assert DaemonBindings().to_bytes() == b""
    assert DaemonBindings.from_bytes(b"") == DaemonBindings()


def test_channel_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="there twice") as raised:
        DaemonBindings([SubscriptionBinding(1, "a", b"x"), SubscriptionBinding(1, "a", b"y")])
    assert raised.value.argument == "subscriptions"


def entry(publisher: int, channel: bytes, token: bytes | None = None) -> bytes:
    data = struct.pack("<QH", publisher, len(channel)) + channel
    return data + (b"\0" if token is None else struct.pack("<BH", 1, len(token)) + token)


def counted(*subscriptions: bytes, count: int | None = None) -> bytes:
    return struct.pack("<I", len(subscriptions) if count is None else count) + b"".join(subscriptions)


@pytest.mark.parametrize(
    "data",
    [
        counted(),
        counted(entry(1, b"a"), count=2),
        counted(entry(1, b"a"), count=2**32 - 1),
        counted(entry(1, b"a")) + b"\0",
        counted(entry(1, b"a"), entry(1, b"a")),
        counted(entry(2, b"a"), entry(1, b"a")),
        counted(entry(1, b"b"), entry(1, b"a")),
        counted(entry(1, b"A")),
        counted(entry(1, b"")),
        counted(entry(1, b"\xff")),
        counted(entry(1, b"a")[:-1] + b"\2"),
        counted(struct.pack("<QH", 1, 65_535) + b"a\0"),
        b"\0",
    ],
    ids=[
        "no_entries",
        "too_few",
        "far_too_few",
        "trailing",
        "double",
        "publishers_out_of_order",
        "channels_out_of_order",
        "bad_name",
        "empty_name",
        "not_text",
        "bad_flag",
        "long_name",
        "part_of_a_count",
    ],
)
def test_what_no_ledger_writes_is_refused(data: bytes) -> None:
    with pytest.raises(FileDecodeError):
        DaemonBindings.from_bytes(data)


def test_every_shorter_input_is_refused() -> None:
    data = made([(1, "a/b", b"token"), (2, "c", None)]).to_bytes()

    for length in range(1, len(data)):
        with pytest.raises(FileDecodeError):
            DaemonBindings.from_bytes(data[:length])


def test_bad_arguments_are_refused() -> None:
    names: Cases = [(value, TypeError) for value in (b"a", 3, None)]
    token: Cases = [*(case for case in BAD_BYTES if case[0] is not None), (bytes(65_536), InvalidArgument)]
    good = {"publisher": 1, "channel": "a", "token": bytes(65_535)}
    check_refused(SubscriptionBinding, good, {"publisher": BAD_INTS, "channel": names, "token": token})
    with pytest.raises(ChannelNameError):
        SubscriptionBinding(1, "not a name")
    alone = SubscriptionBinding(1, "a")
    ledgers: Cases = [(value, TypeError) for value in (None, 3, [3], [(1, "a", None)], "a", alone)]
    check_refused(DaemonBindings, {"subscriptions": iter(())}, {"subscriptions": ledgers})
    check_refused(DaemonBindings.from_bytes, {"data": b""}, {"data": BAD_BYTES})
