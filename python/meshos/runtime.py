"""The behaviour loop: desired state in, actions out."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Self, final
from warnings import warn

from meshos._checks import instance, seconds_of
from meshos._core import BackoffConfig as BackoffConfig
from meshos._core import BackpressureConfig as BackpressureConfig
from meshos._core import ExecutorStatsSnapshot as ExecutorStatsSnapshot
from meshos._core import LocalityConfig as LocalityConfig
from meshos._core import LoopCore
from meshos._core import MaintenanceConfig as MaintenanceConfig
from meshos._core import MeshOsConfig as MeshOsConfig
from meshos._core import MetadataView as MetadataView
from meshos._core import RuntimeHealth as RuntimeHealth
from meshos._core import RuntimeStats as RuntimeStats
from meshos._core import SchedulerConfig as SchedulerConfig
from meshos.errors import LoopClosed, WaitTimeout
from meshos.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from logging import Logger
    from types import TracebackType

    from meshos.audit import (
        ActionChainAppender,
        AdminAuditChainAppender,
        AdminAuditRecord,
        FailureChainAppender,
        LogChainAppender,
        LogRecord,
    )
    from meshos.capability import CapabilitySet
    from meshos.control import ControlSink, DaemonControl
    from meshos.daemon import DaemonRef, DaemonRegistry
    from meshos.dispatch import ActionDispatcher
    from meshos.events import ChainId, DaemonIntent, LogLevel, MeshOsEvent
    from meshos.identity import NodeId, OriginHash
    from meshos.migration import MigrationAborter, MigrationSnapshotSource
    from meshos.operator import AdminVerifier
    from meshos.probes import HealthProbe, InventoryProbe, LocalityProbe, ProbeRegistry
    from meshos.recovery import RecoveryRegistry
    from meshos.scheduler import PlacementScorer, SchedulerRegistry
    from meshos.status import Explanation, MeshOsSnapshot

__all__ = [
    "BackoffConfig",
    "BackpressureConfig",
    "ExecutorStatsSnapshot",
    "LocalityConfig",
    "MaintenanceConfig",
    "MeshOsConfig",
    "MeshOsDaemonHandle",
    "MeshOsHandle",
    "MeshOsRuntime",
    "MeshOsRuntimeBuilder",
    "MeshOsSnapshotReader",
    "MetadataView",
    "RuntimeHealth",
    "RuntimeStats",
    "SchedulerConfig",
]

PUBLISH_TIMEOUT = timedelta(seconds=1)
"""How long a publisher waits for space unless told otherwise."""
SHUTDOWN_TIMEOUT = timedelta(seconds=2)
"""How long `shutdown` may take."""
GRACE = timedelta(seconds=5)
"""How long a daemon has to leave unless told otherwise."""


@final
class MeshOsHandle:
    """Where events go in. Any number of threads may publish at once."""

    __slots__ = ("_core",)

    def __init__(self, core: LoopCore) -> None:
        self._core = core

    def publish(self, event: MeshOsEvent, *, timeout: timedelta | None = PUBLISH_TIMEOUT) -> None:
        """Queue an event, waiting up to 1 s for space; raises `QueueFull`, `LoopClosed`."""
        self._core.publish(event, timeout)

    async def publish_async(self, event: MeshOsEvent, *, timeout: timedelta | None = PUBLISH_TIMEOUT) -> None:
        """Twin of `publish`."""
        from meshos._twins import on_lane

        await on_lane("MeshOsHandle.publish_async", self._core.publish, event, timeout)

    def publish_many(self, events: Sequence[MeshOsEvent], *, timeout: timedelta | None = PUBLISH_TIMEOUT) -> None:
        """Queue events in order, all or none; raises `QueueFull`, `LoopClosed`.

        More events than a lane has space for wait until the lane is empty.
        """
        self._core.publish_many(events, timeout)

    async def publish_many_async(
        self, events: Sequence[MeshOsEvent], *, timeout: timedelta | None = PUBLISH_TIMEOUT
    ) -> None:
        """Twin of `publish_many`."""
        from meshos._twins import on_lane

        await on_lane("MeshOsHandle.publish_many_async", self._core.publish_many, events, timeout)

    def try_publish(self, event: MeshOsEvent) -> None:
        """Queue an event or raise `QueueFull` at once; raises `LoopClosed`."""
        self._core.publish(event, timedelta(0))


class _Changes:
    """The source of `changes()`: the present snapshot, then the newest after each change."""

    def __init__(self, core: LoopCore) -> None:
        self._core = core
        self._generation = -1

    def take(self, timeout: timedelta) -> MeshOsSnapshot | None:
        """Wait for a newer snapshot."""
        if self._generation < 0:
            return self._seen(self._core.snapshot())
        try:
            return self._seen(self._core.wait_changed(self._generation, timeout))
        except WaitTimeout:
            return None

    async def take_async(self) -> MeshOsSnapshot:
        """Wait for a newer snapshot."""
        if self._generation < 0:
            return self._seen(self._core.snapshot())
        return self._seen(await _changed(self._core, self._generation, None))

    def _seen(self, snapshot: MeshOsSnapshot) -> MeshOsSnapshot:
        self._generation = snapshot.generation
        return snapshot

    def close(self) -> None:
        """Nothing is held."""


async def _changed(core: LoopCore, generation: int, timeout: timedelta | None) -> MeshOsSnapshot:
    """Wait for a snapshot with a higher generation without a thread."""
    import asyncio

    seconds = seconds_of(timeout)
    end = None if seconds is None else monotonic() + seconds
    loop = asyncio.get_running_loop()
    while True:
        changed = loop.create_future()
        ticket = core.on_change(generation, partial(_wake, loop, changed))
        if ticket is None:
            # There is one already, or there will be none.
            return core.wait_changed(generation, timedelta(0))
        try:
            await asyncio.wait_for(changed, None if end is None else max(0.0, end - monotonic()))
        except TimeoutError:
            raise WaitTimeout("a changed snapshot", timeout or timedelta(0)) from None
        finally:
            core.forget_change(ticket)


def _wake(loop: object, future: object) -> None:
    """Settle a future of another thread's loop; a closed loop has nobody left to hear it."""
    from asyncio import AbstractEventLoop, Future

    if isinstance(loop, AbstractEventLoop) and isinstance(future, Future) and not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))


@final
class MeshOsSnapshotReader:
    """Where snapshots come out; any number of readers never slow the loop."""

    __slots__ = ("_core",)

    def __init__(self, core: LoopCore) -> None:
        self._core = core

    def read(self) -> MeshOsSnapshot:
        """Return the newest snapshot. It is shared, not copied."""
        return self._core.snapshot()

    def wait_for(self, predicate: Callable[[MeshOsSnapshot], bool], *, timeout: timedelta | None) -> MeshOsSnapshot:
        """Return the first snapshot, beginning with the present one, for which `predicate` holds.

        Snapshots that follow each other faster than `predicate` runs are skipped: it sees the newest.

        Raises:
            WaitTimeout: None came in time.
            LoopClosed: The loop has ended, and none will come.
        """
        seconds = seconds_of(timeout)
        end = None if seconds is None else monotonic() + seconds
        snapshot = self._core.snapshot()
        while not predicate(snapshot):
            left = None if end is None else timedelta(seconds=max(0.0, end - monotonic()))
            try:
                snapshot = self._core.wait_changed(snapshot.generation, left)
            except WaitTimeout:
                raise WaitTimeout("a snapshot that fits", timeout or timedelta(0)) from None
        return snapshot

    async def wait_for_async(
        self, predicate: Callable[[MeshOsSnapshot], bool], *, timeout: timedelta | None
    ) -> MeshOsSnapshot:
        """Twin of `wait_for`; `predicate` runs on the event loop."""
        seconds = seconds_of(timeout)
        end = None if seconds is None else monotonic() + seconds
        snapshot = self._core.snapshot()
        while not predicate(snapshot):
            left = None if end is None else timedelta(seconds=max(0.0, end - monotonic()))
            try:
                snapshot = await _changed(self._core, snapshot.generation, left)
            except WaitTimeout:
                raise WaitTimeout("a snapshot that fits", timeout or timedelta(0)) from None
        return snapshot

    def wait_changed(self, generation: int, *, timeout: timedelta | None) -> MeshOsSnapshot:
        """Return a snapshot with a higher generation; raises `WaitTimeout`, `LoopClosed`."""
        return self._core.wait_changed(generation, timeout)

    async def wait_changed_async(self, generation: int, *, timeout: timedelta | None) -> MeshOsSnapshot:
        """Twin of `wait_changed`."""
        return await _changed(self._core, generation, timeout)

    def changes(self) -> Stream[MeshOsSnapshot]:
        """Follow the snapshots: the present one, then one for each change; a slow reader gets the newest only."""
        return Stream(_Changes(self._core), "changes")


class _Controls:
    """The source of `controls()`: an ear of the loop."""

    def __init__(self, core: LoopCore, origin_hash: OriginHash) -> None:
        self._ear = core.open_ear(origin_hash)

    def take(self, timeout: timedelta) -> DaemonControl | None:
        """Wait for the next control."""
        return self._ear.listen(timeout)

    async def take_async(self) -> DaemonControl:
        """Wait for the next control."""
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            said = loop.create_future()
            ticket = self._ear.on_control(partial(_wake, loop, said))
            if ticket is not None:
                try:
                    await said
                finally:
                    self._ear.forget_control(ticket)
            control = self._ear.listen(timedelta(0))
            if control is not None:
                return control

    def close(self) -> None:
        """Stop listening."""
        self._ear.close()


@final
class MeshOsDaemonHandle:
    """A daemon author's side of one daemon: no admin method can be reached from it. Its methods share no lock."""

    __slots__ = ("_core", "_daemon", "_left")

    def __init__(self, core: LoopCore, daemon: DaemonRef) -> None:
        self._core = core
        self._daemon = daemon
        self._left = False

    @property
    def daemon(self) -> DaemonRef:
        """The daemon it is for."""
        return self._daemon

    @property
    def metadata(self) -> MetadataView:
        """As of now; never waits."""
        return self._core.metadata(self._daemon)

    def controls(self) -> Stream[DaemonControl]:
        """Follow the controls; the newest of each sort first, and `Shutdown` is never lost. Ends with the daemon."""
        return Stream(_Controls(self._core, self._daemon.id), "controls")

    def log(self, level: LogLevel, message: str) -> None:
        """Add a line to the log ring; raises `LoopClosed`. A line above 16 KiB is cut."""
        self._core.log(level, message, self._daemon.id)

    def logger(self) -> Logger:
        """Return a logger of the standard library that ends in `log`."""
        from meshos._log import ring_logger

        return ring_logger(self)

    def publish_capabilities(self, capabilities: CapabilitySet) -> None:
        """Announce what this daemon adds to its node, in place of what it announced before.

        It shows as `DaemonSnapshot.capabilities` while the daemon is known. Never waits. Raises `QueueFull`,
        `LoopClosed`.
        """
        self._core.publish_capabilities(self._daemon, capabilities)

    def graceful_shutdown(self, grace: timedelta = GRACE) -> None:
        """Send `Shutdown`, and return when the daemon is gone or after `grace`, 5 s; does nothing the second time.

        Nobody starts it again: its intent is `STOP` from now on. After `grace` it is taken out by force. Raises
        `LoopClosed`.
        """
        instance(grace, timedelta, "grace")
        seconds_of(grace, "grace")
        if self._left:
            return
        self._core.leave(self._daemon, grace)
        self._left = True

    async def graceful_shutdown_async(self, grace: timedelta = GRACE) -> None:
        """Twin of `graceful_shutdown`."""
        from meshos._twins import on_lane

        await on_lane("MeshOsDaemonHandle.graceful_shutdown_async", self.graceful_shutdown, grace)


@final
class MeshOsRuntime:
    """A running loop and executor. Leaving `with` shuts it down; dropping it stops it and warns."""

    __slots__ = ("__weakref__", "_core", "_handle", "_reader")

    _core: LoopCore
    _handle: MeshOsHandle
    _reader: MeshOsSnapshotReader

    def __init__(self) -> None:
        message = "a MeshOsRuntime is made by MeshOsRuntime.start or a MeshOsRuntimeBuilder"
        raise TypeError(message)

    @classmethod
    def start(
        cls,
        config: MeshOsConfig,
        dispatcher: ActionDispatcher,
        *,
        probes: ProbeRegistry | None = None,
        scheduler: SchedulerRegistry | None = None,
        daemon_registry: DaemonRegistry | None = None,
        recovery: RecoveryRegistry | None = None,
        control_sink: ControlSink | None = None,
        admin_verifier: AdminVerifier | None = None,
        admin_audit_appender: AdminAuditChainAppender | None = None,
        log_appender: LogChainAppender | None = None,
        failure_appender: FailureChainAppender | None = None,
        action_appender: ActionChainAppender | None = None,
        migration_aborter: MigrationAborter | None = None,
        migration_snapshot_source: MigrationSnapshotSource | None = None,
    ) -> Self:
        """Start, and return with a first snapshot that shows what is there already.

        `daemon_registry` defaults to the dispatcher's, so that a `ComputeDispatcher` sees its daemons;
        `config.this_node` defaults to the dispatcher's node. Registries may be shared by several runtimes.
        Coroutines of callbacks run on the event loop that runs here now, or on one of ours.

        Raises:
            ConfigError: There is no node id, or another one than the dispatcher's mesh has.
        """
        runtime = cls.__new__(cls)
        runtime._core = LoopCore(
            config,
            dispatcher,
            probes,
            scheduler,
            daemon_registry,
            recovery,
            control_sink,
            admin_verifier,
            admin_audit_appender,
            log_appender,
            failure_appender,
            action_appender,
            migration_aborter,
            migration_snapshot_source,
        )
        runtime._handle = MeshOsHandle(runtime._core)
        runtime._reader = MeshOsSnapshotReader(runtime._core)
        return runtime

    def dropped_actions(self) -> int:
        """Return how many actions the executor's queue refused; each was emitted again later."""
        return self._core.dropped_actions()

    def this_node(self) -> NodeId:
        """Return the node it acts for."""
        return self._core.this_node()

    def install_placement_scorer(self, scorer: PlacementScorer) -> PlacementScorer | None:
        """Use `scorer` from the next pass on; returns the one before."""
        previous = self._core.scheduler().install(scorer)
        self._core.nudge()
        return previous

    def scheduler_registry(self) -> SchedulerRegistry:
        """Return the slot of its scorer."""
        return self._core.scheduler()

    def add_locality_probe(self, probe: LocalityProbe) -> None:
        """Ask this probe too, from the next tick on."""
        self._core.probes().add_locality_probe(probe)

    def add_health_probe(self, probe: HealthProbe) -> None:
        """Ask this probe too, from the next tick on."""
        self._core.probes().add_health_probe(probe)

    def add_inventory_probe(self, probe: InventoryProbe) -> None:
        """Ask this probe too, from the next tick on."""
        self._core.probes().add_inventory_probe(probe)

    def clear_locality_probes(self) -> None:
        """Ask no locality probe any more."""
        self._core.probes().clear_locality_probes()

    def clear_health_probes(self) -> None:
        """Ask no health probe any more."""
        self._core.probes().clear_health_probes()

    def clear_inventory_probes(self) -> None:
        """Ask no inventory probe any more; what only they said of a peer is dropped."""
        self._core.probes().clear_inventory_probes()

    def probe_registry(self) -> ProbeRegistry:
        """Return its probes; the same object each time."""
        return self._core.probes()

    def daemon_registry(self) -> DaemonRegistry:
        """Return the daemons it watches; the same object each time."""
        return self._core.daemon_registry()

    def recovery_registry(self) -> RecoveryRegistry:
        """Return its recovery handlers; the same object each time."""
        return self._core.recovery()

    def daemon_handle(self, origin_hash: OriginHash) -> MeshOsDaemonHandle:
        """Return the author's side of a daemon of the registry; raises `DaemonNotFound`."""
        return MeshOsDaemonHandle(self._core, self._core.daemon_ref(origin_hash))

    def handle(self) -> MeshOsHandle:
        """Return where events go in."""
        return self._handle

    def handle_clone(self) -> MeshOsHandle:
        """Return the same handle."""
        return self._handle

    def snapshot_reader(self) -> MeshOsSnapshotReader:
        """Return where snapshots come out."""
        return self._reader

    def snapshot(self) -> MeshOsSnapshot:
        """Return the newest snapshot; after `shutdown` the last one."""
        return self._core.snapshot()

    def executor_stats(self) -> ExecutorStatsSnapshot:
        """Return the counters of the executor as they are now."""
        return self._core.executor_stats()

    def health(self) -> RuntimeHealth:
        """Return whether the parts are alive."""
        return self._core.health()

    def logs(self, *, since: int = 0, limit: int = 2048) -> tuple[LogRecord, ...]:
        """Return lines of the log with a number above `since`, oldest first; the newest 2048 are kept."""
        return self._core.logs(since, limit)

    def audits(self, *, since: int = 0, limit: int = 512) -> tuple[AdminAuditRecord, ...]:
        """Return commands with a number above `since`, oldest first.

        The newest 256 that were obeyed and the newest 256 that were refused are kept.
        """
        return self._core.audits(since, limit)

    def set_intent(self, daemon: OriginHash, intent: DaemonIntent, *, node: NodeId | None = None) -> None:
        """Say what is wanted of a daemon, as `DaemonIntentUpdate`; returns once folded. Raises `LoopClosed`."""
        self._core.set_intent(daemon, intent, node)

    async def set_intent_async(self, daemon: OriginHash, intent: DaemonIntent, *, node: NodeId | None = None) -> None:
        """Twin of `set_intent`."""
        from meshos._twins import on_lane

        await on_lane("MeshOsRuntime.set_intent_async", self.set_intent, daemon, intent, node=node)

    def explain(self, *, daemon: OriginHash | None = None, chain: ChainId | None = None) -> Explanation:
        """Say why a daemon or a chain is as it is: the rule that decides now, and everything that holds it.

        Raises:
            TypeError: Neither or both were given.
            DaemonNotFound: Nothing is known of the daemon.
            InvalidArgument: Nothing is known of the chain.
            LoopClosed: The loop has ended.
        """
        if (daemon is None) == (chain is None):
            message = "explain() takes one of daemon and chain"
            raise TypeError(message)
        return self._core.explain(daemon, chain)

    def shutdown(self) -> RuntimeStats:
        """Do as `shutdown_with_timeout` with 2 s."""
        return self._core.shutdown(SHUTDOWN_TIMEOUT)

    async def shutdown_async(self) -> RuntimeStats:
        """Twin of `shutdown`."""
        return await self.shutdown_with_timeout_async(SHUTDOWN_TIMEOUT)

    def shutdown_with_timeout(self, timeout: timedelta) -> RuntimeStats:
        """Stop intake, let what runs end, publish a last snapshot, close appenders, all within `timeout`.

        Actions that were not carried out are failure records of the last snapshot. Called again it returns the same.

        Raises:
            RuntimeShutdownError: A dispatch or an appender had not ended in time. The loop has, and stays so.
        """
        return self._core.shutdown(timeout)

    async def shutdown_with_timeout_async(self, timeout: timedelta) -> RuntimeStats:
        """Twin of `shutdown_with_timeout`."""
        from meshos._twins import on_lane

        return await on_lane("MeshOsRuntime.shutdown_with_timeout_async", self._core.shutdown, timeout)

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
        """Shut down."""
        await self.shutdown_async()

    def __del__(self, _warn: Callable[..., None] = warn) -> None:
        """Stop the loop without waiting, and warn, if it was not shut down.

        The function is kept as a default: nothing can be imported when the interpreter goes away.
        """
        core = getattr(self, "_core", None)
        if core is not None and core.abandon():
            _warn(f"{self!r} was dropped without a shutdown", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        """Show the node and whether the loop lives."""
        return f"<MeshOsRuntime node=0x{self._core.this_node():016x} {'alive' if self._core.is_alive() else 'ended'}>"


@final
class MeshOsRuntimeBuilder:
    """The options of `MeshOsRuntime.start`, one method each; every method returns the builder."""

    __slots__ = (
        "_action_appender",
        "_admin_audit_appender",
        "_admin_verifier",
        "_built",
        "_config",
        "_control_sink",
        "_daemon_registry",
        "_dispatcher",
        "_failure_appender",
        "_log_appender",
        "_migration_aborter",
        "_migration_snapshot_source",
        "_probes",
        "_recovery",
        "_scheduler",
    )

    def __init__(self, config: MeshOsConfig, dispatcher: ActionDispatcher) -> None:
        self._config = instance(config, MeshOsConfig, "config")
        self._dispatcher = dispatcher
        self._built = False
        self._probes: ProbeRegistry | None = None
        self._scheduler: SchedulerRegistry | None = None
        self._daemon_registry: DaemonRegistry | None = None
        self._recovery: RecoveryRegistry | None = None
        self._control_sink: ControlSink | None = None
        self._admin_verifier: AdminVerifier | None = None
        self._admin_audit_appender: AdminAuditChainAppender | None = None
        self._log_appender: LogChainAppender | None = None
        self._failure_appender: FailureChainAppender | None = None
        self._action_appender: ActionChainAppender | None = None
        self._migration_aborter: MigrationAborter | None = None
        self._migration_snapshot_source: MigrationSnapshotSource | None = None

    def with_probe_registry(self, probes: ProbeRegistry) -> Self:
        """Ask the probes of this registry."""
        self._probes = probes
        return self

    def with_scheduler_registry(self, scheduler: SchedulerRegistry) -> Self:
        """Use the scorer of this registry."""
        self._scheduler = scheduler
        return self

    def with_daemon_registry(self, daemon_registry: DaemonRegistry) -> Self:
        """Watch the daemons of this registry."""
        self._daemon_registry = daemon_registry
        return self

    def with_recovery_registry(self, recovery: RecoveryRegistry) -> Self:
        """Run the handlers of this registry."""
        self._recovery = recovery
        return self

    def with_control_sink(self, control_sink: ControlSink) -> Self:
        """Show every control to this sink."""
        self._control_sink = control_sink
        return self

    def with_admin_verifier(self, admin_verifier: AdminVerifier) -> Self:
        """Obey what this says may be obeyed."""
        self._admin_verifier = admin_verifier
        return self

    def with_admin_audit_appender(self, appender: AdminAuditChainAppender) -> Self:
        """Have commands kept."""
        self._admin_audit_appender = appender
        return self

    def with_log_appender(self, appender: LogChainAppender) -> Self:
        """Have the log kept."""
        self._log_appender = appender
        return self

    def with_failure_appender(self, appender: FailureChainAppender) -> Self:
        """Have failures kept."""
        self._failure_appender = appender
        return self

    def with_action_appender(self, appender: ActionChainAppender) -> Self:
        """Have what becomes of actions kept."""
        self._action_appender = appender
        return self

    def with_migration_aborter(self, aborter: MigrationAborter) -> Self:
        """Have moves ended by this on an operator's order."""
        self._migration_aborter = aborter
        return self

    def with_migration_snapshot_source(self, source: MigrationSnapshotSource) -> Self:
        """Have moves listed by this."""
        self._migration_snapshot_source = source
        return self

    def build_and_start(self) -> MeshOsRuntime:
        """Start; a second call raises `LoopClosed`."""
        if self._built:
            raise LoopClosed("MeshOsRuntimeBuilder")
        runtime = MeshOsRuntime.start(
            self._config,
            self._dispatcher,
            probes=self._probes,
            scheduler=self._scheduler,
            daemon_registry=self._daemon_registry,
            recovery=self._recovery,
            control_sink=self._control_sink,
            admin_verifier=self._admin_verifier,
            admin_audit_appender=self._admin_audit_appender,
            log_appender=self._log_appender,
            failure_appender=self._failure_appender,
            action_appender=self._action_appender,
            migration_aborter=self._migration_aborter,
            migration_snapshot_source=self._migration_snapshot_source,
        )
        self._built = True
        return runtime
