"""Records of what was commanded, logged, done and what failed: rings in memory, appenders that keep them."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar, final

from meshos._core import ActionRecord as ActionRecord
from meshos._core import AdminAuditRecord as AdminAuditRecord
from meshos._core import FailureRecord as FailureRecord
from meshos._core import FailureSource as FailureSource
from meshos._core import ForcedOrder as ForcedOrder
from meshos._core import LogRecord as LogRecord
from meshos._core import MaintenanceOrder as MaintenanceOrder
from meshos._core import RecordFile
from meshos._core import RecordsReport as RecordsReport
from meshos._core import ReplayReport as ReplayReport
from meshos._core import read_records as read_records
from meshos._core import replay_records as replay_records
from meshos._core import verify_records as verify_records
from meshos.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from os import PathLike

    from meshos.identity import Identity
    from meshos.store import Store

__all__ = [
    "ActionChainAppender",
    "ActionRecord",
    "AdminAuditChainAppender",
    "AdminAuditRecord",
    "BufferingActionAppender",
    "BufferingAdminAuditAppender",
    "BufferingFailureAppender",
    "BufferingLogAppender",
    "FailureChainAppender",
    "FailureRecord",
    "FailureSource",
    "FileActionAppender",
    "FileAdminAuditAppender",
    "FileFailureAppender",
    "FileLogAppender",
    "ForcedOrder",
    "LogChainAppender",
    "LogRecord",
    "MaintenanceOrder",
    "Record",
    "RecordsReport",
    "ReplayReport",
    "StoreActionAppender",
    "StoreAdminAuditAppender",
    "StoreFailureAppender",
    "StoreLogAppender",
    "read_records",
    "replay_records",
    "verify_records",
]

T = TypeVar("T")

Record: TypeAlias = AdminAuditRecord | LogRecord | FailureRecord | ActionRecord
"""What an appender keeps."""


class AdminAuditChainAppender(ABC):
    """Keeps audit records beyond the ring."""

    @abstractmethod
    def append(self, record: AdminAuditRecord, /) -> Awaitable[None] | None:
        """Keep one record; called on a lane, in order, one at a time. A raise marks the record as pending."""

    def close(self) -> Awaitable[None] | None:  # noqa: B027  optional
        """Hear that there will be no more records; called once, by the runtime it was given to."""


class LogChainAppender(ABC):
    """Keeps log records beyond the ring."""

    @abstractmethod
    def append(self, record: LogRecord, /) -> Awaitable[None] | None:
        """Keep one record; called on a lane, in order, one at a time. A raise marks the record as pending."""

    def close(self) -> Awaitable[None] | None:  # noqa: B027  optional
        """Hear that there will be no more records; called once, by the runtime it was given to."""


class FailureChainAppender(ABC):
    """Keeps failure records beyond the ring."""

    @abstractmethod
    def append(self, record: FailureRecord, /) -> Awaitable[None] | None:
        """Keep one record; called on a lane, in order, one at a time. A raise marks the record as pending."""

    def close(self) -> Awaitable[None] | None:  # noqa: B027  optional
        """Hear that there will be no more records; called once, by the runtime it was given to."""


class ActionChainAppender(ABC):
    """Keeps action records beyond the ring."""

    @abstractmethod
    def append(self, record: ActionRecord, /) -> Awaitable[None] | None:
        """Keep one record; called on a lane, in order, one at a time. A raise marks the record as pending."""

    def close(self) -> Awaitable[None] | None:  # noqa: B027  optional
        """Hear that there will be no more records; called once, by the runtime it was given to."""


class _Buffer(Generic[T]):
    """The newest records, oldest first."""

    def __init__(self, capacity: int) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int):
            message = f"capacity must be an int, not {type(capacity).__name__}"
            raise TypeError(message)
        if not 1 <= capacity <= sys.maxsize:
            raise InvalidArgument("capacity", "must be at least 1, and fit into memory")
        self._lock = Lock()
        self._kept: deque[T] = deque(maxlen=capacity)
        self._dropped = 0

    def captured(self) -> tuple[T, ...]:
        """Return the kept records, oldest first."""
        with self._lock:
            return tuple(self._kept)

    def dropped_count(self) -> int:
        """Return how many records made room for newer ones."""
        with self._lock:
            return self._dropped

    def _keep(self, record: T) -> None:
        with self._lock:
            self._dropped += len(self._kept) == self._kept.maxlen
            self._kept.append(record)


@final
class BufferingAdminAuditAppender(_Buffer[AdminAuditRecord], AdminAuditChainAppender):
    """Keeps the newest audit records in memory, for tests."""

    def __init__(self, capacity: int = 4_096) -> None:
        """Keep the newest `capacity` records, at least 1; raises `InvalidArgument`."""
        super().__init__(capacity)

    def append(self, record: AdminAuditRecord, /) -> None:
        """Keep a record."""
        self._keep(record)


@final
class BufferingLogAppender(_Buffer[LogRecord], LogChainAppender):
    """Keeps the newest log records in memory, for tests."""

    def __init__(self, capacity: int = 16_384) -> None:
        """Keep the newest `capacity` records, at least 1; raises `InvalidArgument`."""
        super().__init__(capacity)

    def append(self, record: LogRecord, /) -> None:
        """Keep a record."""
        self._keep(record)


@final
class BufferingFailureAppender(_Buffer[FailureRecord], FailureChainAppender):
    """Keeps the newest failure records in memory, for tests."""

    def __init__(self, capacity: int = 4_096) -> None:
        """Keep the newest `capacity` records, at least 1; raises `InvalidArgument`."""
        super().__init__(capacity)

    def append(self, record: FailureRecord, /) -> None:
        """Keep a record."""
        self._keep(record)


@final
class BufferingActionAppender(_Buffer[ActionRecord], ActionChainAppender):
    """Keeps the newest action records in memory, for tests."""

    def __init__(self, capacity: int = 4_096) -> None:
        """Keep the newest `capacity` records, at least 1; raises `InvalidArgument`."""
        super().__init__(capacity)

    def append(self, record: ActionRecord, /) -> None:
        """Keep a record."""
        self._keep(record)


class _File(Generic[T]):
    """A file that keeps records of one kind, each bound to all before it."""

    def __init__(
        self,
        path: str | PathLike[str],
        signer: Identity | None,
        kind: Literal["audit", "log", "failure", "action"],
    ) -> None:
        self._native = RecordFile(kind, path, signer)

    def append(self, record: T, /) -> None:
        """Keep a record."""
        self._native.append(record)

    def close(self) -> None:
        """Sign what is not signed yet, and close the file; may be called twice."""
        self._native.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, '_native', None)!r}>"


class _Stored(Generic[T]):
    """Rows of a store that keep records of one kind, each bound to all before it, signed by the node of the store."""

    def __init__(self, store: Store, kind: Literal["audit", "log", "failure", "action"]) -> None:
        self._native = RecordFile.in_store(kind, store)

    def append(self, record: T, /) -> None:
        """Keep a record."""
        self._native.append(record)

    def close(self) -> None:
        """Sign what is not signed yet, and let others keep records; may be called twice. The store stays open."""
        self._native.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, '_native', None)!r}>"


@final
class StoreAdminAuditAppender(_Stored[AdminAuditRecord], AdminAuditChainAppender):
    """Keeps audit records in a store; each is on the disk before it counts as kept.

    A runtime that is given it goes on from what commands of earlier runs decided, such as a freeze or a cordon.
    """

    def __init__(self, store: Store) -> None:
        """Begin, or continue what is there; nobody else may have it open.

        Raises:
            OSError: The store cannot be read; `BlockingIOError` when another appender has them open.
            ChainError: They are broken, and names the first bad record.
        """
        super().__init__(store, "audit")


@final
class StoreLogAppender(_Stored[LogRecord], LogChainAppender):
    """Keeps log records in a store."""

    def __init__(self, store: Store) -> None:
        """Begin, or continue what is there; nobody else may have it open.

        Raises:
            OSError: The store cannot be read; `BlockingIOError` when another appender has them open.
            ChainError: They are broken, and names the first bad record.
        """
        super().__init__(store, "log")


@final
class StoreFailureAppender(_Stored[FailureRecord], FailureChainAppender):
    """Keeps failure records in a store."""

    def __init__(self, store: Store) -> None:
        """Begin, or continue what is there; nobody else may have it open.

        Raises:
            OSError: The store cannot be read; `BlockingIOError` when another appender has them open.
            ChainError: They are broken, and names the first bad record.
        """
        super().__init__(store, "failure")


@final
class StoreActionAppender(_Stored[ActionRecord], ActionChainAppender):
    """Keeps action records in a store."""

    def __init__(self, store: Store) -> None:
        """Begin, or continue what is there; nobody else may have it open.

        Raises:
            OSError: The store cannot be read; `BlockingIOError` when another appender has them open.
            ChainError: They are broken, and names the first bad record.
        """
        super().__init__(store, "action")


@final
class FileAdminAuditAppender(_File[AdminAuditRecord], AdminAuditChainAppender):
    """Keeps audit records in a hash-linked file; each is on the disk before it counts as kept.

    A runtime that is given it goes on from what commands of earlier runs decided, such as a freeze or a cordon.
    """

    def __init__(self, path: str | PathLike[str], *, signer: Identity | None = None) -> None:
        """Begin a file, or continue one; with `signer` its heads are signed, so that a rewritten tail shows.

        Raises:
            OSError: The path cannot be opened; `BlockingIOError` when another appender has it open.
            FileDecodeError: It is no file of audit records.
            ChainError: It is broken, and names the first bad record.
        """
        super().__init__(path, signer, "audit")


@final
class FileLogAppender(_File[LogRecord], LogChainAppender):
    """Keeps log records in a hash-linked file; synced in batches."""

    def __init__(self, path: str | PathLike[str], *, signer: Identity | None = None) -> None:
        """Begin a file, or continue one; with `signer` its heads are signed, so that a rewritten tail shows.

        Raises:
            OSError: The path cannot be opened; `BlockingIOError` when another appender has it open.
            FileDecodeError: It is no file of log records.
            ChainError: It is broken, and names the first bad record.
        """
        super().__init__(path, signer, "log")


@final
class FileFailureAppender(_File[FailureRecord], FailureChainAppender):
    """Keeps failure records in a hash-linked file; synced in batches."""

    def __init__(self, path: str | PathLike[str], *, signer: Identity | None = None) -> None:
        """Begin a file, or continue one; with `signer` its heads are signed, so that a rewritten tail shows.

        Raises:
            OSError: The path cannot be opened; `BlockingIOError` when another appender has it open.
            FileDecodeError: It is no file of failure records.
            ChainError: It is broken, and names the first bad record.
        """
        super().__init__(path, signer, "failure")


@final
class FileActionAppender(_File[ActionRecord], ActionChainAppender):
    """Keeps action records in a hash-linked file; synced in batches."""

    def __init__(self, path: str | PathLike[str], *, signer: Identity | None = None) -> None:
        """Begin a file, or continue one; with `signer` its heads are signed, so that a rewritten tail shows.

        Raises:
            OSError: The path cannot be opened; `BlockingIOError` when another appender has it open.
            FileDecodeError: It is no file of action records.
            ChainError: It is broken, and names the first bad record.
        """
        super().__init__(path, signer, "action")
