"""The operator's client: what it reads, and what it orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, final

from meshos._checks import instance, seconds_of
from meshos._core import AdminEnvelope, AuditQuery, IceEnvelope, LogFilter, simulate
from meshos.errors import InvalidArgument, WaitTimeout
from meshos.events import LogLevel
from meshos.runtime import MeshOsRuntime, MeshOsSnapshotReader
from meshos.stream import Gap, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshos._core import CommitReceipt, Cooldown, LoopCore, MeshOsSnapshot
    from meshos.audit import AdminAuditRecord, FailureRecord, LogRecord
    from meshos.events import AdminEvent, ChainId
    from meshos.identity import NodeId, OriginHash
    from meshos.operator import IceAction, OperatorId, OperatorKey
    from meshos.status import (
        DaemonSnapshot,
        MaintenanceState,
        PeerSnapshot,
        ReplicaSnapshot,
        StatusSummary,
    )


class _Numbered(Protocol):
    """A record of a ring."""

    @property
    def seq(self) -> int:
        """Its number."""
        ...


R = TypeVar("R", bound=_Numbered)

COMMIT_TIMEOUT = timedelta(seconds=10)
"""How long a commit waits for its effect unless told otherwise."""
VALID_FOR = timedelta(minutes=5)
"""How long an envelope is good unless told otherwise."""
_BATCH = 256


_FORCE_KINDS = frozenset(
    (
        "freeze_cluster",
        "thaw_cluster",
        "flush_avoid_lists",
        "force_evict_replica",
        "force_restart_daemon",
        "force_cutover",
        "kill_migration",
    )
)


def _fits(query: AuditQuery, record: AdminAuditRecord) -> bool:
    """Whether a record fulfils every condition but `recent`."""
    event = record.event
    return (
        record.seq > query.since
        and (query.by_operator is None or query.by_operator in record.operator_ids)
        and (query.between is None or query.between[0] <= record.committed_at <= query.between[1])
        and (not query.force_only or event.kind in _FORCE_KINDS)
        and (query.verdict is None or record.verdict is query.verdict)
        and (query.event_kind is None or event.kind == query.event_kind)
        and (query.target is None or query.target in _targets(event))
    )


def _targets(event: AdminEvent | IceAction) -> set[object]:
    """Return the nodes, chains and daemons that a command is about."""
    values = [getattr(event, name, None) for name in ("node", "chain", "victim", "target", "migration")]
    scope, daemon = getattr(event, "scope", None), getattr(event, "daemon", None)
    values += [getattr(scope, "node", None), getattr(scope, "peer", None), getattr(daemon, "id", None)]
    return {value for value in (*values, *getattr(event, "chains", ())) if value is not None}


def _line_fits(wanted: LogFilter, record: LogRecord) -> bool:
    """Whether a line fulfils every condition."""
    return (
        _LEVELS.index(record.level) >= _LEVELS.index(wanted.min_level)
        and wanted.daemon in (None, record.daemon)
        and wanted.node in (None, record.node)
    )


_LEVELS = tuple(LogLevel)


class _Tail(Generic[R]):
    """The source of a stream of numbered records: follows a ring, and says what it missed."""

    def __init__(
        self,
        core: LoopCore,
        read: Callable[[int, int], tuple[R, ...]],
        since: int,
        keep: Callable[[R], bool],
    ) -> None:
        self._core = core
        self._read = read
        self._seen = since
        self._keep = keep
        self._ready: list[R | Gap] = []

    def _look(self) -> R | Gap | None:
        while not self._ready:
            records = self._read(self._seen, _BATCH)
            if not records:
                return None
            for record in records:
                if record.seq > self._seen + 1 and self._seen > 0:
                    self._ready.append(Gap(self._seen + 1, record.seq - 1))
                self._seen = record.seq
                if self._keep(record):
                    self._ready.append(record)
        return self._ready.pop(0)

    def take(self, timeout: timedelta) -> R | Gap | None:
        """Wait for the next record."""
        generation = self._core.generation()
        item = self._look()
        if item is not None:
            return item
        try:
            self._core.wait_changed(generation, timeout)
        except WaitTimeout:
            return None
        return self._look()

    async def take_async(self) -> R | Gap:
        """Wait for the next record."""
        from meshos.runtime import _changed

        while True:
            generation = self._core.generation()
            item = self._look()
            if item is not None:
                return item
            await _changed(self._core, generation, None)

    def close(self) -> None:
        """Nothing is held."""


@final
class AdminCommands:
    """Ordinary commands: signed, sent, and back with a receipt once in effect."""

    __module__ = "meshos.operator"

    __slots__ = ("_core", "_key")

    def __init__(self, core: LoopCore, key: OperatorKey) -> None:
        self._core = core
        self._key = key

    def commit(self, event: AdminEvent, *, reason: str, timeout: timedelta | None = COMMIT_TIMEOUT) -> CommitReceipt:
        """Sign and commit an event such as `Drain(node, drain_for)`.

        Raises:
            VerifyError: The node refused it; it is in the audit and had no effect.
            WaitTimeout: No verdict within 10 s; it may still take effect.
        """
        cluster_id, _ = self._core.ice_policy()
        envelope = AdminEnvelope(event=event, cluster_id=cluster_id, reason=reason)
        return self._core.commit(envelope.with_signature(self._key.sign(envelope)), timeout)

    async def commit_async(
        self, event: AdminEvent, *, reason: str, timeout: timedelta | None = COMMIT_TIMEOUT
    ) -> CommitReceipt:
        """Twin of `commit`."""
        from meshos._twins import on_lane

        return await on_lane("AdminCommands.commit_async", self.commit, event, reason=reason, timeout=timeout)


@final
class IceCommands:
    """Break-glass actions: propose (simulated at once), collect signatures, commit."""

    __module__ = "meshos.operator"

    __slots__ = ("_core",)

    def __init__(self, core: LoopCore) -> None:
        self._core = core

    def propose(self, action: IceAction, *, reason: str, valid_for: timedelta = VALID_FOR) -> IceEnvelope:
        """Simulate on the newest snapshot and return what is to be signed.

        It is valid for 5 min. Raises `InvalidArgument`.
        """
        seconds_of(instance(valid_for, timedelta, "valid_for"), "valid_for")
        cluster_id, threshold = self._core.ice_policy()
        now = datetime.now(UTC)
        until = now + valid_for
        return IceEnvelope(
            action=action,
            blast_radius=simulate(self._core.snapshot(), action),
            cluster_id=cluster_id,
            reason=reason,
            threshold=threshold,
            not_after=until.replace(microsecond=until.microsecond // 1000 * 1000),
        )

    def commit(self, envelope: IceEnvelope, *, timeout: timedelta | None = COMMIT_TIMEOUT) -> CommitReceipt:
        """Commit and return once in effect; raises the node's `VerifyError`, or `WaitTimeout` after 10 s."""
        return self._core.commit(instance(envelope, IceEnvelope, "envelope"), timeout)

    async def commit_async(self, envelope: IceEnvelope, *, timeout: timedelta | None = COMMIT_TIMEOUT) -> CommitReceipt:
        """Twin of `commit`."""
        from meshos._twins import on_lane

        return await on_lane("IceCommands.commit_async", self.commit, envelope, timeout=timeout)


@final
class DeckClient:
    """An operator's view and hand on a runtime. Any number may be open; every method from any thread."""

    __module__ = "meshos.operator"

    __slots__ = ("_admin", "_core", "_ice", "_key", "_reader", "_runtime")

    def __init__(self) -> None:
        message = "a DeckClient is made by DeckClient.from_runtime"
        raise TypeError(message)

    _admin: AdminCommands
    _core: LoopCore
    _ice: IceCommands
    _key: OperatorKey
    _reader: MeshOsSnapshotReader
    _runtime: MeshOsRuntime

    @classmethod
    def from_runtime(cls, runtime: MeshOsRuntime, key: OperatorKey) -> Self:
        """Open a client on a runtime of this process, for the operator that holds `key`."""
        from meshos.operator import OperatorKey

        client = cls.__new__(cls)
        client._runtime = instance(runtime, MeshOsRuntime, "runtime")
        client._key = instance(key, OperatorKey, "key")
        client._core = runtime._core
        client._reader = runtime.snapshot_reader()
        client._admin = AdminCommands(client._core, key)
        client._ice = IceCommands(client._core)
        return client

    @property
    def operator_id(self) -> OperatorId:
        """The operator's handle."""
        return self._key.operator_id

    @property
    def admin(self) -> AdminCommands:
        """Ordinary commands."""
        return self._admin

    @property
    def ice(self) -> IceCommands:
        """Break-glass actions."""
        return self._ice

    def status(self) -> MeshOsSnapshot:
        """Return the newest snapshot."""
        return self._reader.read()

    def status_summary(self) -> StatusSummary:
        """Return the newest snapshot in one line."""
        return self._reader.read().summary()

    def peers(self) -> Mapping[NodeId, PeerSnapshot]:
        """Return other nodes."""
        return self._reader.read().peers

    def daemons(self) -> Mapping[OriginHash, DaemonSnapshot]:
        """Return daemons."""
        return self._reader.read().daemons

    def replicas(self) -> Mapping[ChainId, ReplicaSnapshot]:
        """Return replicated chains."""
        return self._reader.read().replicas

    def local_maintenance(self) -> MaintenanceState:
        """Return the node's maintenance."""
        return self._reader.read().local_maintenance

    def cooldowns(self) -> tuple[Cooldown, ...]:
        """Return the targets that break-glass actions leave alone now."""
        return self._core.cooldowns()

    def audit(self, query: AuditQuery | None = None) -> tuple[AdminAuditRecord, ...]:
        """Return what the ring holds, newest first."""
        query = AuditQuery() if query is None else instance(query, AuditQuery, "query")
        found = [record for record in reversed(self._core.audits(query.since, _ALL)) if _fits(query, record)]
        if query.recent is not None:
            if query.recent < 0:
                raise InvalidArgument("recent", "must not be negative")
            del found[query.recent :]
        return tuple(found)

    def audit_stream(self, query: AuditQuery | None = None) -> Stream[AdminAuditRecord | Gap]:
        """Follow the audit, oldest first; `recent` is not used."""
        query = AuditQuery() if query is None else instance(query, AuditQuery, "query")
        return Stream(_Tail(self._core, self._core.audits, query.since, partial(_fits, query)), "audit_stream")

    def logs(self, filter: LogFilter | None = None) -> Stream[LogRecord | Gap]:  # noqa: A002  what it is
        """Follow the log, oldest first."""
        wanted = LogFilter() if filter is None else instance(filter, LogFilter, "filter")
        return Stream(_Tail(self._core, self._core.logs, wanted.since, partial(_line_fits, wanted)), "logs")

    def failures(self, *, since: int = 0) -> Stream[FailureRecord | Gap]:
        """Follow the failures, oldest first."""
        return Stream(_Tail(self._core, self._core.failures, since, lambda _: True), "failures")

    def snapshots(self) -> Stream[MeshOsSnapshot]:
        """Follow the snapshots; the present one first, then one for each change, the newest only."""
        return self._reader.changes()

    def watch(self, predicate: Callable[[MeshOsSnapshot], bool], *, timeout: timedelta | None) -> MeshOsSnapshot:
        """Return the first snapshot for which `predicate` holds; raises `WaitTimeout`, `LoopClosed`."""
        return self._reader.wait_for(predicate, timeout=timeout)

    async def watch_async(
        self, predicate: Callable[[MeshOsSnapshot], bool], *, timeout: timedelta | None
    ) -> MeshOsSnapshot:
        """Twin of `watch`."""
        return await self._reader.wait_for_async(predicate, timeout=timeout)


_ALL = 1 << 32
