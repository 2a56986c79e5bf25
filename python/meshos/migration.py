"""Moving a daemon to another node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from meshos._core import MigrationMessage as MigrationMessage
from meshos._core import MigrationOpts as MigrationOpts
from meshos._core import MigrationOutcome as MigrationOutcome
from meshos._core import MigrationSnapshot as MigrationSnapshot
from meshos._core import MigrationSourceHandler as MigrationSourceHandler
from meshos._core import MigrationTargetHandler as MigrationTargetHandler
from meshos._core import SnapshotChunk as SnapshotChunk
from meshos._core import SnapshotReassembler as SnapshotReassembler
from meshos._core import chunk_snapshot as chunk_snapshot
from meshos.identity import OriginHash

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

__all__ = [
    "MAX_SNAPSHOT_CHUNK_SIZE",
    "MAX_SNAPSHOT_SIZE",
    "SUBPROTOCOL_MIGRATION",
    "MigrationAborter",
    "MigrationFailureReason",
    "MigrationId",
    "MigrationMessage",
    "MigrationMessageKind",
    "MigrationOpts",
    "MigrationOutcome",
    "MigrationPhase",
    "MigrationSnapshot",
    "MigrationSnapshotSource",
    "MigrationSourceHandler",
    "MigrationState",
    "MigrationTargetHandler",
    "SnapshotChunk",
    "SnapshotReassembler",
    "chunk_snapshot",
]

SUBPROTOCOL_MIGRATION: Final = 0x0500
"""Number of the protocol of moves among those of a mesh."""
MAX_SNAPSHOT_CHUNK_SIZE: Final = 1_048_576
"""Bytes of one chunk at most."""
MAX_SNAPSHOT_SIZE: Final = 17_179_869_184
"""Bytes of an encoded snapshot that travels at most."""

MigrationId: TypeAlias = OriginHash
"""A move as operators name it: the origin hash of the daemon that moves. An attempt has 16 bytes of its own."""
MigrationState: TypeAlias = MigrationSnapshot
"""Another name of `MigrationSnapshot`: what an orchestrator knows of a move."""
MigrationMessageKind: TypeAlias = Literal[
    "prepare",
    "accept",
    "reject",
    "freeze",
    "final",
    "prepared",
    "commit",
    "committed",
    "retire",
    "abort",
    "abort_request",
    "outcome",
    "pull",
    "chunk",
    "show",
    "report",
    "describe",
    "described",
    "copy",
    "offer",
    "copied",
]
"""What a message of a move is."""


@final
class MigrationPhase(StrEnum):
    """The phases of a move, in order."""

    SNAPSHOT = "snapshot"
    TRANSFER = "transfer"
    RESTORE = "restore"
    REPLAY = "replay"
    CUTOVER = "cutover"
    COMPLETE = "complete"


@final
class MigrationFailureReason(StrEnum):
    """Why a node refused or ended a move; only `NOT_READY` is tried again."""

    NOT_READY = "not_ready"
    FACTORY_NOT_FOUND = "factory_not_found"
    COMPUTE_NOT_SUPPORTED = "compute_not_supported"
    STATE_FAILED = "state_failed"
    ALREADY_MIGRATING = "already_migrating"
    IDENTITY_TRANSPORT_FAILED = "identity_transport_failed"
    NOT_READY_TIMEOUT = "not_ready_timeout"
    NOT_OWNER = "not_owner"
    NOT_EXPECTED = "not_expected"
    EXPIRED = "expired"
    DEADLINE = "deadline"
    FREEZE_DEADLINE = "freeze_deadline"
    TOO_LARGE = "too_large"
    CANCELLED = "cancelled"
    KILLED = "killed"


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
