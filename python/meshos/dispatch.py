"""What the behaviour loop decides, and who carries it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Self, TypeAlias, final

from meshos._core import ApplyBackoff as ApplyBackoff
from meshos._core import BackpressureChange as BackpressureChange
from meshos._core import Cause as Cause
from meshos._core import CommitMaintenanceTransition as CommitMaintenanceTransition
from meshos._core import ComputeCore
from meshos._core import DropReplica as DropReplica
from meshos._core import MarkAvoid as MarkAvoid
from meshos._core import PullReplica as PullReplica
from meshos._core import RequestEviction as RequestEviction
from meshos._core import RequestPlacement as RequestPlacement
from meshos._core import StartDaemon as StartDaemon
from meshos._core import StopDaemon as StopDaemon

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from datetime import timedelta

    from meshos.compute import DaemonRuntime
    from meshos.daemon import DaemonRegistry
    from meshos.identity import NodeId

__all__ = [
    "ActionDispatcher",
    "ApplyBackoff",
    "BackpressureChange",
    "Cause",
    "CommitMaintenanceTransition",
    "ComputeDispatcher",
    "DispatchError",
    "DropReplica",
    "LoggingDispatcher",
    "MarkAvoid",
    "MeshOsAction",
    "PullReplica",
    "RequestEviction",
    "RequestPlacement",
    "StartDaemon",
    "StopDaemon",
]

MeshOsAction: TypeAlias = (
    StartDaemon
    | StopDaemon
    | ApplyBackoff
    | PullReplica
    | DropReplica
    | RequestPlacement
    | RequestEviction
    | MarkAvoid
    | CommitMaintenanceTransition
)
"""What a dispatcher is given. Match with a `case _` arm: new ones may come."""

_ACTIONS_MAX = 4096


@final
class DispatchError(Exception):
    """A dispatcher's answer to an action that it did not carry out; no `MeshOsError`, since meshos never raises it.

    Attributes:
        reason: Why, for people.
        retry_after: When to try the same action again; `None`: not at all, and reconcile decides anew.
    """

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason, retry_after)
        self.reason: str = reason
        self.retry_after: timedelta | None = retry_after

    @classmethod
    def drop(cls, reason: str) -> Self:
        """Give up: a failure record, and reconcile decides anew."""
        return cls(reason)

    @classmethod
    def retry(cls, reason: str, after: timedelta) -> Self:
        """Try the same action again later, at most 16 times."""
        return cls(reason, after)

    def __str__(self) -> str:
        return self.reason


class ActionDispatcher(ABC):
    """Carries out what the loop decided. Every action may come twice, and twice must be as once."""

    @abstractmethod
    def dispatch(self, action: MeshOsAction, /) -> Awaitable[None] | None:
        """Carry an action out, on a lane.

        Raise a `DispatchError` to drop it or to have it again later. Any other raise is a failure record and a drop.
        """

    def on_cluster_backpressure(self, change: BackpressureChange, /) -> Awaitable[None] | None:  # noqa: B027  optional
        """Hear that the queue of actions crossed its mark, upwards or downwards; by default nothing."""

    def daemon_registry(self) -> DaemonRegistry | None:
        """Return the registry it acts on: the runtime observes that one unless it is given another."""
        return None

    def node_id(self) -> NodeId | None:
        """Return the node it acts on: the default of `MeshOsConfig.this_node`."""
        return None


@final
class ComputeDispatcher(ActionDispatcher):
    """Carries actions out on a `DaemonRuntime`: starts from the newest snapshot and the inputs since, and stops.

    A daemon whose intent is `RUN` is supervised from then on: when its code raises, it takes no more events until it
    was started again, and those who send to it wait. Backoff, the avoid list and maintenance are kept by the loop
    itself. Actions about replicated chains are dropped: a `DaemonRuntime` keeps none.
    """

    __slots__ = ("_native", "_runtime")

    def __init__(self, runtime: DaemonRuntime) -> None:
        """Act on `runtime`."""
        self._native = ComputeCore(runtime)
        self._runtime = runtime

    def dispatch(self, action: MeshOsAction, /) -> None:
        """Carry an action out on this thread; raises `DispatchError`. The loop calls the native half instead."""
        self._native.dispatch(action)

    def daemon_registry(self) -> DaemonRegistry:
        """Return the daemons of the runtime."""
        return self._runtime.daemon_registry()

    def node_id(self) -> NodeId:
        """Return the node of the runtime's mesh."""
        return self._runtime.mesh().node_id


@final
class LoggingDispatcher(ActionDispatcher):
    """Does nothing and remembers the newest 4096 actions, for tests."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._actions: deque[MeshOsAction] = deque(maxlen=_ACTIONS_MAX)
        self._changes: deque[BackpressureChange] = deque(maxlen=_ACTIONS_MAX)
        self._errors: deque[DispatchError] = deque()

    def dispatch(self, action: MeshOsAction, /) -> None:
        """Remember an action; raise the next of the errors that were ordered."""
        with self._lock:
            self._actions.append(action)
            error = self._errors.popleft() if self._errors else None
        if error is not None:
            raise error

    def on_cluster_backpressure(self, change: BackpressureChange, /) -> None:
        """Remember an edge."""
        with self._lock:
            self._changes.append(change)

    def actions(self) -> tuple[MeshOsAction, ...]:
        """Return what was dispatched, oldest first."""
        with self._lock:
            return tuple(self._actions)

    def fail_next(self, error: DispatchError) -> None:
        """Raise `error` at the next dispatch that has none yet."""
        with self._lock:
            self._errors.append(error)

    def backpressure_changes(self) -> tuple[BackpressureChange, ...]:
        """Return the edges, oldest first."""
        with self._lock:
            return tuple(self._changes)
