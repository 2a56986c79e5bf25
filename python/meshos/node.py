"""One node with all its parts: mesh, daemons, behaviour loop."""

from __future__ import annotations

import os
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, TypedDict, final

from meshos._checks import instance, seconds_of
from meshos._core import ProbeRegistry, _mesh_probes
from meshos.compute import DaemonRuntime
from meshos.dispatch import ComputeDispatcher
from meshos.errors import ConfigError, LoopClosed, NotReady
from meshos.mesh import Mesh
from meshos.migration import OrchestratorMigrationAborter, OrchestratorMigrationSnapshotSource
from meshos.runtime import MeshOsConfig, MeshOsRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from meshos.audit import ActionChainAppender, AdminAuditChainAppender, FailureChainAppender, LogChainAppender
    from meshos.daemon import MeshDaemon
    from meshos.dispatch import ActionDispatcher
    from meshos.operator import AdminVerifier, OperatorSocket
    from meshos.store import RecoveryReport, Store

__all__ = ["Node"]

SHUTDOWN_TIMEOUT = timedelta(seconds=10)
"""How long a shutdown may take unless told otherwise."""
_SHARE_OF_LOOP = 0.4
"""How much of that the behaviour loop gets; the daemons get the rest."""


def _acting_for(node_id: int, config: MeshOsConfig) -> MeshOsConfig:
    """Return the options with the node in them: a dispatcher of one's own knows of no mesh."""
    if config.this_node == node_id:
        return config
    options: dict[str, Any] = {name: getattr(config, name) for name in dir(config) if not name.startswith("_")}
    return MeshOsConfig(**{**options, "this_node": node_id})


class _Records(TypedDict, total=False):
    """Who keeps the records of a loop."""

    admin_audit_appender: AdminAuditChainAppender
    log_appender: LogChainAppender
    failure_appender: FailureChainAppender
    action_appender: ActionChainAppender


def _records(store: Store) -> _Records:
    """Open the records of a loop in a store that outlives the process; the loop closes them."""
    if not store.is_durable:
        return {}
    from meshos.audit import StoreActionAppender, StoreAdminAuditAppender, StoreFailureAppender, StoreLogAppender

    return {
        "admin_audit_appender": StoreAdminAuditAppender(store),
        "log_appender": StoreLogAppender(store),
        "failure_appender": StoreFailureAppender(store),
        "action_appender": StoreActionAppender(store),
    }


@final
class Node:
    """Starts the parts of a node, with a `ComputeDispatcher` between them, and stops them in the other order."""

    __slots__ = (
        "_admin_verifier",
        "_config",
        "_daemons",
        "_dispatcher",
        "_lock",
        "_mesh",
        "_operator_socket",
        "_probes",
        "_recovered",
        "_runtime",
        "_socket_path",
        "_state",
    )

    def __init__(
        self,
        mesh: Mesh,
        *,
        kinds: Mapping[str, Callable[[], MeshDaemon]],
        config: MeshOsConfig | None = None,
        dispatcher: ActionDispatcher | None = None,
        admin_verifier: AdminVerifier | None = None,
        operator_socket: str | os.PathLike[str] | None = None,
        probes: ProbeRegistry | None = None,
    ) -> None:
        """Take over `mesh`, and register `kinds`; raises `ConfigError`, `InvalidDaemon`.

        Without `probes` the loop sees the peers of the mesh as the mesh sees them.

        With a path for `operator_socket`, an `OperatorSocket` is open there from `start` to `shutdown`.
        """
        instance(mesh, Mesh, "mesh")
        socket_path = None if operator_socket is None else instance(os.fspath(operator_socket), str, "operator_socket")
        config = instance(MeshOsConfig() if config is None else config, MeshOsConfig, "config")
        if config.this_node not in (None, mesh.node_id):
            raise ConfigError("this_node", f"must be the mesh's, 0x{mesh.node_id:016x}")
        self._mesh = mesh
        self._config = _acting_for(mesh.node_id, config)
        self._daemons = DaemonRuntime(mesh)
        try:
            for kind, factory in kinds.items():
                self._daemons.register_factory(kind, factory)
        except BaseException:
            self._daemons.shutdown()
            raise
        self._probes = _mesh_probes(mesh) if probes is None else instance(probes, ProbeRegistry, "probes")
        self._dispatcher = dispatcher
        self._admin_verifier = admin_verifier
        self._socket_path = socket_path
        self._operator_socket: OperatorSocket | None = None
        self._runtime: MeshOsRuntime | None = None
        self._recovered: RecoveryReport | None = None
        self._state = "made"
        self._lock = Lock()

    @property
    def mesh(self) -> Mesh:
        """The node's key and connections."""
        return self._mesh

    @property
    def daemons(self) -> DaemonRuntime:
        """The daemons."""
        return self._daemons

    @property
    def runtime(self) -> MeshOsRuntime:
        """The behaviour loop; raises `NotReady` before `start`."""
        if self._runtime is None:
            raise NotReady
        return self._runtime

    @property
    def recovered(self) -> RecoveryReport:
        """What became of the stored daemons; raises `NotReady` before `start`."""
        if self._recovered is None:
            raise NotReady
        return self._recovered

    def start(self) -> None:
        """Start the daemons' runtime, bring back what is stored, then start the loop; once only.

        A stored daemon that cannot be brought back is in `recovered`, and keeps nobody from starting. With a durable
        store, what is commanded, logged, done and what fails is kept in it, and the loop goes on from what commands of
        earlier runs decided.

        Raises:
            LoopClosed: It was shut down.
            StoreError: The store cannot be read.
            ChainError: The records in the store are broken, and names the first bad one.
            OperatorSocketError: The operator socket cannot be opened; the loop does not run then.
        """
        with self._lock:
            if self._state == "ended":
                raise LoopClosed("Node")
            if self._state == "started":
                return
            self._daemons.start()
            if self._recovered is None:
                self._recovered = self._daemons.recover()
            dispatcher = ComputeDispatcher(self._daemons) if self._dispatcher is None else self._dispatcher
            moves = self._daemons.migration_orchestrator()
            runtime = MeshOsRuntime.start(
                self._config,
                dispatcher,
                daemon_registry=self._daemons.daemon_registry(),
                admin_verifier=self._admin_verifier,
                probes=self._probes,
                migration_aborter=OrchestratorMigrationAborter(moves),
                migration_snapshot_source=OrchestratorMigrationSnapshotSource(moves),
                **_records(self._mesh.store),
            )
            if self._socket_path is not None:
                from meshos.operator import OperatorSocket

                try:
                    self._operator_socket = OperatorSocket(runtime, self._socket_path)
                except BaseException:
                    runtime.shutdown()
                    raise
            self._runtime = runtime
            self._state = "started"

    async def start_async(self) -> None:
        """Twin of `start`; coroutines of daemons and callbacks run on this event loop."""
        from asyncio import get_running_loop

        if self._state == "made":
            self._daemons._start_on(get_running_loop())
            recovered = await self._daemons.recover_async()
            if self._recovered is None:
                self._recovered = recovered
        self.start()

    def shutdown(self, *, timeout: timedelta = SHUTDOWN_TIMEOUT) -> None:
        """Stop loop, daemons and mesh, within `timeout`, 10 s; does nothing the second time.

        Every part is stopped, also when one before it did not end in time; what is raised is the first of that.

        Raises:
            RuntimeShutdownError: A dispatch had not ended in time.
            WaitTimeout: User code of a daemon had not ended in time; its daemon is closed all the same.
        """
        seconds_of(timeout)
        with self._lock:
            if self._state == "ended":
                return
            self._state = "ended"
        try:
            if self._runtime is not None:
                self._runtime.shutdown_with_timeout(timeout * _SHARE_OF_LOOP)
        finally:
            try:
                self._daemons.shutdown(timeout=timeout * (1 - _SHARE_OF_LOOP))
            finally:
                if self._operator_socket is not None:
                    # What waited for a verdict was told with the end of the loop.
                    self._operator_socket.close()
                self._mesh.close()

    async def shutdown_async(self, *, timeout: timedelta = SHUTDOWN_TIMEOUT) -> None:
        """Twin of `shutdown`."""
        from meshos._twins import on_lane

        await on_lane("Node.shutdown_async", self.shutdown, timeout=timeout)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Shut down."""
        self.shutdown()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Shut down."""
        await self.shutdown_async()

    def __repr__(self) -> str:
        """Show the node and its state."""
        return f"<Node 0x{self._mesh.node_id:016x} {self._state}>"
