"""The runtime that keeps a node's daemons."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Self, TypeVar, final

from meshos._core import DaemonFactoryRegistry as DaemonFactoryRegistry
from meshos._core import FactoryEntry as FactoryEntry
from meshos._core import Receipt as Receipt
from meshos._core import RemoteCore, RuntimeCore
from meshos._core import configure_lanes as configure_lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from os import PathLike
    from types import TracebackType

    from meshos._aio import Reply
    from meshos.chain import BytesLike, CausalEvent, ChainReport
    from meshos.channel import ChannelName, PermissionToken
    from meshos.control import DaemonControl
    from meshos.daemon import DaemonHandle, DaemonHostConfig, DaemonRef, MeshDaemon
    from meshos.errors import MeshOsError
    from meshos.identity import EntityId, Identity, NodeId, OriginHash
    from meshos.migration import MigrationHandle, MigrationOpts, MigrationOutcome
    from meshos.snapshot import StateSnapshot
    from meshos.store import DeadLetter, RecoveryReport
    from meshos.stream import RolledBack, Stream

_D = TypeVar("_D", bound="MeshDaemon")
_R = TypeVar("_R")

__all__ = ["DaemonFactoryRegistry", "DaemonRuntime", "FactoryEntry", "Receipt", "RemoteRuntime", "configure_lanes"]

SEND_TIMEOUT = timedelta(seconds=30)
"""How long `send` and `send_many` wait unless told otherwise."""
_SEND_SECONDS = SEND_TIMEOUT.total_seconds()

_NOT = (0, 0, 0, 0, 0, (), 0, None, None)
"""What came of a daemon that did not come back."""


@final
class DaemonRuntime(RuntimeCore):
    """Keeps the daemons of one node: Registering, then Ready, then ShuttingDown. Every method from any thread.

    A call that waits for user code has an `_async` twin, which runs on a lane. From inside `process`, `snapshot` or
    `restore`, the waiting calls raise `ReentrantCallError`; reading is allowed.
    """

    __slots__ = ()

    async def start_async(self) -> None:
        """Become Ready; coroutines of daemons run on this loop, unless another was given to the runtime."""
        from asyncio import get_running_loop

        self._start_on(get_running_loop())

    async def shutdown_async(self, *, timeout: timedelta | None = None) -> None:
        """Twin of `shutdown`."""
        from meshos._twins import on_lane

        await on_lane("DaemonRuntime.shutdown_async", self.shutdown, timeout=timeout)

    def recover(self) -> RecoveryReport:
        """Bring back every stored daemon whose kind is registered and that does not run; call it after `start`.

        A daemon that was stopped with `stop` stays so: `spawn` continues it with `resume=True`. One that cannot be
        brought back is reported, not raised. Raises `StoreError` when the store cannot be read.
        """
        from datetime import timedelta
        from time import monotonic
        from types import MappingProxyType

        from meshos.daemon import DaemonRef
        from meshos.store import DaemonRecovery, Divergence, RecoveryReport

        began = monotonic()
        rows, missing, cut = self._recover()
        daemons: dict[int, DaemonRecovery] = {}
        for origin, kind, came, error in rows:
            epoch, snapshot, sequence, replayed, suppressed, cursors, skipped, rolled_back, diverged = came or _NOT
            daemons[origin] = DaemonRecovery(
                daemon=DaemonRef(origin, kind),
                kind=kind,
                epoch=epoch,
                snapshot_sequence=snapshot,
                sequence=sequence,
                replayed=replayed,
                suppressed=suppressed,
                cursors=MappingProxyType(dict(cursors)),
                snapshots_skipped=skipped,
                rolled_back_from=rolled_back,
                divergence=None if diverged is None else Divergence(*diverged),
                error_kind=None if error is None else str(getattr(error, "kind", type(error).__name__)),
                error=error,
            )
        took = timedelta(seconds=monotonic() - began)
        return RecoveryReport(MappingProxyType(daemons), frozenset(missing), cut, took)

    def remote(self, node_id: NodeId) -> RemoteRuntime:
        """Return the daemons of another node, which has to permit this one; raises `Unavailable` for an unknown one."""
        return RemoteRuntime(self, node_id)

    async def recover_async(self) -> RecoveryReport:
        """Twin of `recover`; factories, `restore` and `process` are called on a lane."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.recover_async", self.recover)

    def dead_letters(self, origin_hash: OriginHash) -> tuple[DeadLetter, ...]:
        """Return the events that a daemon passed over and that nobody decided about; raises `DaemonNotFound`."""
        from meshos.store import _letter

        kind, rows = self._dead_letters(origin_hash)
        return tuple(_letter(origin_hash, kind, row) for row in rows)

    def retry_dead_letter(self, letter: DeadLetter) -> Receipt:
        """Have it processed once more, now and out of its order; it goes when it took effect.

        Raises `ProcessFailed`, and it stays a dead letter; `InvalidArgument` when it is none any more.
        """
        from meshos.store import _named

        return self._retry_dead_letter(*_named(letter))

    async def retry_dead_letter_async(self, letter: DeadLetter) -> Receipt:
        """Twin of `retry_dead_letter`."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.retry_dead_letter_async", self.retry_dead_letter, letter)

    def discard_dead_letter(self, letter: DeadLetter) -> None:
        """Let it go for good; raises `InvalidArgument` when it is no dead letter any more."""
        from meshos.store import _named

        self._discard_dead_letter(*_named(letter))

    async def discard_dead_letter_async(self, letter: DeadLetter) -> None:
        """Twin of `discard_dead_letter`."""
        from meshos._twins import on_lane

        await on_lane("DaemonRuntime.discard_dead_letter_async", self.discard_dead_letter, letter)

    async def spawn_async(
        self, kind: str, identity: Identity, config: DaemonHostConfig | None = None, *, resume: bool = False
    ) -> DaemonHandle:
        """Twin of `spawn`; the factory is called on a lane."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.spawn_async", self.spawn, kind, identity, config, resume=resume)

    async def spawn_with_daemon_async(
        self,
        identity: Identity,
        config: DaemonHostConfig,
        daemon: MeshDaemon,
        kind_factory: Callable[[], MeshDaemon],
        *,
        kind: str | None = None,
    ) -> DaemonHandle:
        """Twin of `spawn_with_daemon`."""
        from meshos._twins import on_lane

        name = "DaemonRuntime.spawn_with_daemon_async"
        return await on_lane(name, self.spawn_with_daemon, identity, config, daemon, kind_factory, kind=kind)

    async def spawn_from_snapshot_async(
        self,
        kind: str,
        identity: Identity,
        snapshot: StateSnapshot,
        config: DaemonHostConfig | None = None,
        *,
        rewind: bool = False,
    ) -> DaemonHandle:
        """Twin of `spawn_from_snapshot`; the factory and `restore` are called on a lane."""
        from meshos._twins import on_lane

        name = "DaemonRuntime.spawn_from_snapshot_async"
        return await on_lane(name, self.spawn_from_snapshot, kind, identity, snapshot, config, rewind=rewind)

    async def spawn_from_snapshot_with_daemon_async(
        self,
        identity: Identity,
        snapshot: StateSnapshot,
        config: DaemonHostConfig,
        daemon: MeshDaemon,
        kind_factory: Callable[[], MeshDaemon],
        *,
        kind: str | None = None,
        rewind: bool = False,
    ) -> DaemonHandle:
        """Twin of `spawn_from_snapshot_with_daemon`."""
        from meshos._twins import on_lane

        return await on_lane(
            "DaemonRuntime.spawn_from_snapshot_with_daemon_async",
            self.spawn_from_snapshot_with_daemon,
            identity,
            snapshot,
            config,
            daemon,
            kind_factory,
            kind=kind,
            rewind=rewind,
        )

    async def stop_async(self, origin_hash: OriginHash) -> None:
        """Twin of `stop`."""
        from meshos._twins import on_lane

        await on_lane("DaemonRuntime.stop_async", self.stop, origin_hash)

    async def snapshot_async(self, origin_hash: OriginHash) -> StateSnapshot | None:
        """Twin of `snapshot`."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.snapshot_async", self.snapshot, origin_hash)

    async def newest_snapshot_async(self, origin_hash: OriginHash) -> StateSnapshot | None:
        """Twin of `newest_snapshot`."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.newest_snapshot_async", self.newest_snapshot, origin_hash)

    async def export_chain_async(self, origin_hash: OriginHash, file: str | PathLike[str]) -> ChainReport:
        """Twin of `export_chain`."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.export_chain_async", self.export_chain, origin_hash, file)

    async def with_daemon_async(self, origin_hash: OriginHash, daemon: type[_D], function: Callable[[_D], _R]) -> _R:
        """Twin of `with_daemon`; `function` runs on a lane."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.with_daemon_async", self.with_daemon, origin_hash, daemon, function)

    async def wait_for_async(
        self,
        origin_hash: OriginHash,
        daemon: type[_D],
        predicate: Callable[[_D], object],
        *,
        timeout: timedelta | None,
    ) -> None:
        """Twin of `wait_for`; `predicate` runs on a lane."""
        from meshos._twins import on_lane

        name = "DaemonRuntime.wait_for_async"
        await on_lane(name, self.wait_for, origin_hash, daemon, predicate, timeout=timeout)

    async def subscribe_channel_async(
        self,
        origin_hash: OriginHash,
        publisher: NodeId,
        channel: ChannelName,
        token: PermissionToken | None = None,
        *,
        queue_group: str | None = None,
    ) -> None:
        """Twin of `subscribe_channel`."""
        from meshos._twins import on_lane

        name, call = "DaemonRuntime.subscribe_channel_async", self.subscribe_channel
        await on_lane(name, call, origin_hash, publisher, channel, token, queue_group=queue_group)

    async def unsubscribe_channel_async(self, origin_hash: OriginHash, publisher: NodeId, channel: ChannelName) -> None:
        """Twin of `unsubscribe_channel`."""
        from meshos._twins import on_lane

        name = "DaemonRuntime.unsubscribe_channel_async"
        await on_lane(name, self.unsubscribe_channel, origin_hash, publisher, channel)

    def start_migration(self, origin_hash: OriginHash, source_node: NodeId, target_node: NodeId) -> MigrationHandle:
        """Order a move, from any node; what becomes of it `wait` tells. The source is asked for the daemon first, 5 s.

        Raises:
            NotOwner: Another node than the source owns it.
            DaemonNotFound: The source neither has it nor knows who does.
            MigrationError: There is no such target, or a move of it that was ordered here is under way.
            Unavailable: The source is not there, or was silent. Nothing was ordered.
        """
        from meshos.migration import MigrationHandle

        return MigrationHandle(self._start_migration(origin_hash, source_node, target_node))

    async def start_migration_async(
        self, origin_hash: OriginHash, source_node: NodeId, target_node: NodeId
    ) -> MigrationHandle:
        """Twin of `start_migration`."""
        from meshos._twins import on_lane

        name = "DaemonRuntime.start_migration_async"
        return await on_lane(name, self.start_migration, origin_hash, source_node, target_node)

    def start_migration_with(
        self, origin_hash: OriginHash, source_node: NodeId, target_node: NodeId, opts: MigrationOpts
    ) -> MigrationHandle:
        """Do as `start_migration`, with options."""
        from meshos._checks import instance
        from meshos.migration import MigrationHandle, MigrationOpts

        instance(opts, MigrationOpts, "opts")
        return MigrationHandle(self._start_migration(origin_hash, source_node, target_node, opts))

    async def start_migration_with_async(
        self, origin_hash: OriginHash, source_node: NodeId, target_node: NodeId, opts: MigrationOpts
    ) -> MigrationHandle:
        """Twin of `start_migration_with`."""
        from meshos._twins import on_lane

        name = "DaemonRuntime.start_migration_with_async"
        return await on_lane(name, self.start_migration_with, origin_hash, source_node, target_node, opts)

    def migrate_all(
        self,
        origin_hashes: Iterable[OriginHash],
        source_node: NodeId,
        target_node: NodeId,
        opts: MigrationOpts | None = None,
        *,
        at_once: int = 16,
        timeout: timedelta | None = None,
    ) -> Mapping[OriginHash, MigrationOutcome | MeshOsError]:
        """Move daemons to one node, at most `at_once` of them at a time, and return what became of each.

        One that is not moved does not end the others: what `start_migration` or `wait` raised is its value. After
        `timeout` no further one is begun; those under way go on, and have `WaitTimeout` as their value, as do those
        that were not begun. Ctrl-C ends the call; moves under way go on.

        Raises:
            InvalidArgument: `at_once` is below 1, or a daemon is named twice.
        """
        from collections import deque
        from time import monotonic

        from meshos.errors import InvalidArgument, MeshOsError, WaitTimeout
        from meshos.migration import MigrationOpts

        waiting = deque(origin_hashes)
        if at_once < 1:
            raise InvalidArgument("at_once", "must be at least 1")
        if len(set(waiting)) < len(waiting):
            raise InvalidArgument("origin_hashes", "names a daemon twice")
        chosen = MigrationOpts() if opts is None else opts
        until = None if timeout is None else monotonic() + timeout.total_seconds()
        named = list(waiting)
        ended: dict[OriginHash, MigrationOutcome | MeshOsError] = {}
        under_way: deque[tuple[OriginHash, MigrationHandle]] = deque()
        while waiting or under_way:
            if until is not None and monotonic() >= until and timeout is not None:
                for origin in (*waiting, *(origin for origin, _ in under_way)):
                    ended[origin] = WaitTimeout(f"the move of {origin:016x}", timeout)
                break
            while waiting and len(under_way) < at_once:
                origin = waiting.popleft()
                try:
                    under_way.append((origin, self.start_migration_with(origin, source_node, target_node, chosen)))
                except MeshOsError as error:
                    ended[origin] = error
            if under_way:
                origin, handle = under_way[0]
                left = None if until is None else timedelta(seconds=max(0.0, until - monotonic()))
                try:
                    ended[origin] = handle.wait(left)
                except WaitTimeout:
                    continue
                except MeshOsError as error:
                    ended[origin] = error
                under_way.popleft()
        return {origin: ended[origin] for origin in named}

    async def migrate_all_async(
        self,
        origin_hashes: Iterable[OriginHash],
        source_node: NodeId,
        target_node: NodeId,
        opts: MigrationOpts | None = None,
        *,
        at_once: int = 16,
        timeout: timedelta | None = None,
    ) -> Mapping[OriginHash, MigrationOutcome | MeshOsError]:
        """Twin of `migrate_all`."""
        from meshos._twins import on_lane

        name = "DaemonRuntime.migrate_all_async"
        return await on_lane(
            name, self.migrate_all, origin_hashes, source_node, target_node, opts, at_once=at_once, timeout=timeout
        )

    async def control_async(self, origin_hash: OriginHash, control: DaemonControl) -> None:
        """Twin of `control`."""
        from meshos._twins import on_lane

        await on_lane("DaemonRuntime.control_async", self.control, origin_hash, control)

    async def deliver_many_async(
        self, origin_hash: OriginHash, events: Iterable[CausalEvent]
    ) -> list[list[CausalEvent]]:
        """Twin of `deliver_many`."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.deliver_many_async", self.deliver_many, origin_hash, events)

    def send_async(
        self, origin_hash: OriginHash, event: BytesLike | CausalEvent, *, timeout: timedelta | None = SEND_TIMEOUT
    ) -> Coroutine[object, None, Receipt]:
        """Twin of `send`; concurrent calls are numbered, and take effect, in the order in which they are made.

        The event is mailed by the call itself, when a loop runs on this thread; what is returned stands for its answer.
        """
        seconds = _seconds(timeout)
        if isinstance(event, (bytearray, memoryview)):
            # Its owner may change it before the wait is over, and a `SendTimeout` tells what was sent.
            event = bytes(event)
        mailed = self._send_soon(origin_hash, event)
        if mailed is None:
            return self._send_later(origin_hash, event, timeout)
        reply, event_origin, sequence = mailed
        if seconds is not None:
            timer = reply.get_loop().call_later(
                seconds, _expire, self, reply, origin_hash, event, event_origin, sequence
            )
            reply.add_done_callback(lambda _: timer.cancel())
        return reply

    async def _send_later(
        self, origin_hash: OriginHash, event: BytesLike | CausalEvent, timeout: timedelta | None
    ) -> Receipt:
        return await self.send_async(origin_hash, event, timeout=timeout)

    async def send_many_async(
        self,
        origin_hash: OriginHash,
        events: Iterable[BytesLike | CausalEvent],
        *,
        timeout: timedelta | None = SEND_TIMEOUT,
    ) -> list[Receipt]:
        """Twin of `send_many`."""
        from meshos._twins import on_lane

        return await on_lane("DaemonRuntime.send_many_async", self.send_many, origin_hash, events, timeout=timeout)

    def __enter__(self) -> Self:
        """Return the runtime; leaving shuts it down."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Shut down."""
        self.shutdown()

    async def __aenter__(self) -> Self:
        """Return the runtime; leaving shuts it down."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Shut down, on a lane."""
        await self.shutdown_async()


def _seconds(timeout: object) -> float | None:
    """Check a timeout before anything is sent."""
    if timeout is SEND_TIMEOUT:
        return _SEND_SECONDS
    if timeout is None:
        return None
    if not isinstance(timeout, timedelta):
        message = f"timeout must be a timedelta or None, not {type(timeout).__name__}"
        raise TypeError(message)
    if timeout < timedelta(0):
        from meshos.errors import InvalidArgument

        raise InvalidArgument("timeout", "must not be negative")
    return timeout.total_seconds()


def _expire(
    runtime: DaemonRuntime,
    reply: Reply[Receipt],
    origin_hash: OriginHash,
    event: BytesLike | CausalEvent,
    event_origin: OriginHash,
    sequence: int,
) -> None:
    """End a wait for a receipt whose time is up; the event may have taken effect, and can be sent again."""
    from meshos.chain import CausalEvent
    from meshos.errors import SendTimeout, Unavailable

    if reply.done():
        return
    if not runtime._give_up(origin_hash, event_origin, sequence):
        reply.set_exception(Unavailable(origin_hash, "where it runs was not found in time; nothing was sent"))
    else:
        sent = event if isinstance(event, CausalEvent) else CausalEvent.external(event_origin, sequence, event)
        reply.set_exception(SendTimeout(origin_hash, sent))


@final
class RemoteRuntime(RemoteCore):
    """The daemons of another node; get one with `DaemonRuntime.remote`. Each call has an `_async` twin.

    That node has to permit this one with `DaemonRuntime.permit_managers`. A call is done once there, however often the
    network loses it. `Unavailable` says that no answer came within the time-out: what was asked may still be done.
    """

    __slots__ = ()

    async def spawn_async(
        self,
        kind: str,
        identity: Identity,
        config: DaemonHostConfig | None = None,
        *,
        timeout: timedelta | None = SEND_TIMEOUT,
    ) -> DaemonRef:
        """Twin of `spawn`."""
        from meshos._twins import on_lane

        return await on_lane("RemoteRuntime.spawn_async", self.spawn, kind, identity, config, timeout=timeout)

    def follow(
        self, entity_id: EntityId, *, after: tuple[int, bytes] | None = None
    ) -> Stream[CausalEvent | RolledBack]:
        """Read what a daemon there emitted and emits, in order, each output once, checked link by link.

        Who may speak for the daemon is proven by signatures that lead back to its key. An output that does not stand
        any more, since the daemon was restarted from before it, is told with `RolledBack`. The owner pushes; the stream
        begins at this node, and finds the owner again when the daemon comes back or another node owns it.

        Args:
            entity_id: The daemon.
            after: Where the reader is: a sequence, and the 32-byte digest of the chain there, as a `Receipt` or a
                `ChainReport` has them. By default the beginning; the other node has to keep that still (`outputs_max`).

        Reading raises `ChainContradiction` when the node contradicts what was signed or what it showed before,
        `BrokenLink` or `BadSignature` for a lineage that does not hold, `DaemonNotFound`, `NotOwner`, `RemoteRefused`.
        """
        from meshos._following import place, stream

        return stream(self._follow(entity_id, place(after)), "RemoteRuntime.follow")

    async def stop_async(self, origin_hash: OriginHash, *, timeout: timedelta | None = SEND_TIMEOUT) -> None:
        """Twin of `stop`."""
        from meshos._twins import on_lane

        await on_lane("RemoteRuntime.stop_async", self.stop, origin_hash, timeout=timeout)

    async def snapshot_async(
        self, origin_hash: OriginHash, *, timeout: timedelta | None = SEND_TIMEOUT
    ) -> StateSnapshot | None:
        """Twin of `snapshot`."""
        from meshos._twins import on_lane

        return await on_lane("RemoteRuntime.snapshot_async", self.snapshot, origin_hash, timeout=timeout)
