"""Moving a daemon to another node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from meshos._checks import instance
from meshos._core import IdentityEnvelope as IdentityEnvelope
from meshos._core import MigrationMessage as MigrationMessage
from meshos._core import MigrationOpts as MigrationOpts
from meshos._core import MigrationOrchestrator as MigrationOrchestrator
from meshos._core import MigrationOutcome as MigrationOutcome
from meshos._core import MigrationSnapshot as MigrationSnapshot
from meshos._core import MigrationSourceHandler as MigrationSourceHandler
from meshos._core import MigrationStats as MigrationStats
from meshos._core import MigrationTargetHandler as MigrationTargetHandler
from meshos._core import SnapshotChunk as SnapshotChunk
from meshos._core import SnapshotReassembler as SnapshotReassembler
from meshos._core import chunk_snapshot as chunk_snapshot
from meshos.identity import OriginHash

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import timedelta

    from meshos._core import MoveCore
    from meshos.identity import NodeId
    from meshos.stream import Stream

__all__ = [
    "MAX_SNAPSHOT_CHUNK_SIZE",
    "MAX_SNAPSHOT_SIZE",
    "SUBPROTOCOL_MIGRATION",
    "IdentityEnvelope",
    "MigrationAborter",
    "MigrationFailureReason",
    "MigrationHandle",
    "MigrationId",
    "MigrationMessage",
    "MigrationMessageKind",
    "MigrationOpts",
    "MigrationOrchestrator",
    "MigrationOutcome",
    "MigrationPhase",
    "MigrationSnapshot",
    "MigrationSnapshotSource",
    "MigrationSourceHandler",
    "MigrationState",
    "MigrationStats",
    "MigrationTargetHandler",
    "OrchestratorMigrationAborter",
    "OrchestratorMigrationSnapshotSource",
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
MigrationMessageKind: TypeAlias = (
    Literal["prepare"]
    | Literal["accept"]
    | Literal["reject"]
    | Literal["freeze"]
    | Literal["final"]
    | Literal["prepared"]
    | Literal["commit"]
    | Literal["committed"]
    | Literal["retire"]
    | Literal["abort"]
    | Literal["abort_request"]
    | Literal["outcome"]
    | Literal["pull"]
    | Literal["chunk"]
    | Literal["show"]
    | Literal["report"]
    | Literal["describe"]
    | Literal["described"]
    | Literal["copy"]
    | Literal["offer"]
    | Literal["copied"]
)
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


@final
class MigrationHandle:
    """A move under way, as `DaemonRuntime.start_migration` returns it; dropping the handle changes nothing."""

    __slots__ = ("_core",)

    def __init__(self, core: MoveCore) -> None:
        self._core = core

    @property
    def origin_hash(self) -> OriginHash:
        """The daemon."""
        return self._core.origin_hash

    @property
    def source_node(self) -> NodeId:
        """The node that owns it."""
        return self._core.source_node

    @property
    def target_node(self) -> NodeId:
        """The node that shall own it."""
        return self._core.target_node

    @property
    def attempt(self) -> bytes:
        """16 random bytes that name the attempt under way; each retry has its own."""
        return self._core.attempt

    def phase(self) -> MigrationPhase:
        """Return the phase; the last one, if the move is over."""
        return self._core.phase()

    def progress(self) -> MigrationSnapshot:
        """Return how far it is, as the source said last."""
        return self._core.progress()

    def phases(self) -> Stream[MigrationPhase]:
        """Follow the phases, each once; ends with the move. Some are over too quickly to be told."""
        from meshos._moves import phases

        return phases(self._core.phases())

    def wait(self, timeout: timedelta | None = None) -> MigrationOutcome:
        """Return when the target owns the daemon; Ctrl-C ends the wait.

        Raises:
            MigrationError: It will not: the move ended.
            WaitTimeout: It was not over in time, and goes on.
            LoopClosed: The node was closed, and what became of it is not known here.
        """
        return self._core.wait(timeout)

    async def wait_async(self, timeout: timedelta | None = None) -> MigrationOutcome:
        """Twin of `wait`; however many wait, they hold no lane."""
        from meshos._moves import wait_for_end

        return await wait_for_end(self._core, timeout)

    def cancel(self) -> None:
        """Ask the source to abort; after its commit point nothing happens. `wait` tells what came of it."""
        self._core.cancel()

    def __repr__(self) -> str:
        """Show the daemon, both nodes and the phase."""
        return repr(getattr(self, "_core", "<MigrationHandle that is of no move>"))


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


@final
class OrchestratorMigrationAborter(MigrationAborter):
    """Aborts the moves that were ordered on a node."""

    __slots__ = ("_orchestrator", "_reason")

    def __init__(self, orchestrator: MigrationOrchestrator, *, reason: str = "ICE KillMigration") -> None:
        """Take what has the moves, and what their `MigrationError` says; raises `TypeError`."""
        self._orchestrator = instance(orchestrator, MigrationOrchestrator, "orchestrator")
        self._reason = instance(reason, str, "reason")

    def abort(self, migration: MigrationId, /) -> None:
        """Ask the source to abort it, if it was ordered here; after its commit point nothing happens."""
        self._orchestrator.abort(migration, reason=self._reason)


@final
class OrchestratorMigrationSnapshotSource(MigrationSnapshotSource):
    """Lists the moves that were ordered on a node."""

    __slots__ = ("_orchestrator",)

    def __init__(self, orchestrator: MigrationOrchestrator) -> None:
        """Take what has the moves; raises `TypeError`."""
        self._orchestrator = instance(orchestrator, MigrationOrchestrator, "orchestrator")

    def list(self) -> Sequence[MigrationSnapshot]:
        """Return the moves under way."""
        return self._orchestrator.list_migrations()
