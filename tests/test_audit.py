"""Appenders that keep records in memory."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from meshos.audit import (
    ActionChainAppender,
    ActionRecord,
    AdminAuditChainAppender,
    BufferingActionAppender,
    BufferingAdminAuditAppender,
    BufferingFailureAppender,
    BufferingLogAppender,
    FailureChainAppender,
    LogChainAppender,
    LogRecord,
)
from meshos.errors import InvalidArgument
from meshos.events import LogLevel
from meshos.migration import MigrationAborter, MigrationSnapshotSource
from records import NOON

Buffer = BufferingAdminAuditAppender | BufferingLogAppender | BufferingFailureAppender | BufferingActionAppender
BUFFERS: list[Callable[[int], Buffer]] = [
    BufferingAdminAuditAppender,
    BufferingLogAppender,
    BufferingFailureAppender,
    BufferingActionAppender,
]


def line(seq: int) -> LogRecord:
    return LogRecord(seq=seq, at=NOON, level=LogLevel.INFO, node=1, daemon=None, message=f"line {seq}")


def test_a_buffer_keeps_the_newest_and_counts_the_others() -> None:
    buffer = BufferingLogAppender(capacity=3)
    assert (buffer.captured(), buffer.dropped_count()) == ((), 0)
    for seq in range(1, 6):
        buffer.append(line(seq))

    assert buffer.captured() == (line(3), line(4), line(5))
    assert buffer.dropped_count() == 2
    assert buffer.close() is None
    assert buffer.captured() == (line(3), line(4), line(5))


def test_a_buffer_keeps_some_thousands_unless_told_otherwise() -> None:
    buffer = BufferingActionAppender()
    for seq in range(1, 4099):
        buffer.append(
            ActionRecord(
                seq=seq,
                at=NOON,
                action_id=seq,
                action="drop_replica",
                disposition="failed",
                reason="no",
                retry_after=timedelta(seconds=1),
            )
        )

    assert (len(buffer.captured()), buffer.captured()[0].seq, buffer.dropped_count()) == (4096, 3, 2)


@pytest.mark.parametrize("make", BUFFERS)
@pytest.mark.parametrize(
    ("capacity", "error"),
    [(0, InvalidArgument), (-1, InvalidArgument), (None, TypeError), (1.5, TypeError), (True, TypeError)],
)
def test_a_capacity_is_a_number_of_at_least_one(
    make: Callable[[int], Buffer], capacity: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        make(capacity)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "abstract",
    [
        AdminAuditChainAppender,
        LogChainAppender,
        FailureChainAppender,
        ActionChainAppender,
        MigrationAborter,
        MigrationSnapshotSource,
    ],
)
def test_what_is_abstract_must_be_overridden(abstract: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        abstract()
