"""Moving a daemon to another node."""

from enum import StrEnum
from typing import TypeAlias, final

from meshos._core import MigrationSnapshot as MigrationSnapshot
from meshos.identity import OriginHash

__all__ = ["MigrationId", "MigrationPhase", "MigrationSnapshot"]

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
