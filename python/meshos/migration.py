"""Moving a daemon to another node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias, final

from meshos._core import MigrationSnapshot as MigrationSnapshot
from meshos.identity import OriginHash

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

__all__ = ["MigrationAborter", "MigrationId", "MigrationPhase", "MigrationSnapshot", "MigrationSnapshotSource"]

MigrationId: TypeAlias = OriginHash
"""A move as operators name it: the origin hash of the daemon that moves."""


@final
class MigrationPhase(StrEnum):
    """The phases of a move, in order."""

    SNAPSHOT = "snapshot"
    TRANSFER = "transfer"
    RESTORE = "restore"
    REPLAY = "replay"
    CUTOVER = "cutover"
    COMPLETE = "complete"


class MigrationAborter(ABC):
    """Carries out an accepted `KillMigration` on this node."""

    @abstractmethod
    def abort(self, migration: MigrationId, /) -> Awaitable[None] | None:
        """Abort it if it is here, on a lane; not being here is success. A raise is a failure record."""

    def is_no_op(self) -> bool:
        """Return whether `abort` does nothing: then a `KillMigration` is recorded as a failure."""
        return False


class MigrationSnapshotSource(ABC):
    """Lists the moves under way, for the snapshots of the behaviour loop."""

    @abstractmethod
    def list(self) -> Sequence[MigrationSnapshot]:
        """Return the moves as they are now, on a lane; cheap, since it is asked once a tick."""
