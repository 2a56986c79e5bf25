"""Daemons: the class users write, and the host and registry that keep instances of it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Awaitable, Iterable
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from meshos._core import CapabilityFilter, CapabilitySet, CausalEvent
from meshos._core import DaemonBindings as DaemonBindings
from meshos._core import DaemonHandle as DaemonHandle
from meshos._core import DaemonHost as DaemonHost
from meshos._core import DaemonHostConfig as DaemonHostConfig
from meshos._core import DaemonLifecycleEvent as DaemonLifecycleEvent
from meshos._core import DaemonRef as DaemonRef
from meshos._core import DaemonRegistry as DaemonRegistry
from meshos._core import DaemonStats as DaemonStats
from meshos._core import Degraded as Degraded
from meshos._core import Healthy as Healthy
from meshos._core import Output as Output
from meshos._core import SubscriptionBinding as SubscriptionBinding
from meshos._core import Unhealthy as Unhealthy
from meshos.chain import BytesLike
from meshos.control import DaemonControl
from meshos.errors import InvalidArgument

__all__ = [
    "DaemonBindings",
    "DaemonHandle",
    "DaemonHealth",
    "DaemonHost",
    "DaemonHostConfig",
    "DaemonLifecycleEvent",
    "DaemonLifecycleObserver",
    "DaemonRef",
    "DaemonRegistry",
    "DaemonStats",
    "Degraded",
    "Healthy",
    "MeshDaemon",
    "Output",
    "OutputItem",
    "ProcessResult",
    "SubscriptionBinding",
    "Unhealthy",
]

OutputItem: TypeAlias = BytesLike | Output
"""One output."""
ProcessResult: TypeAlias = OutputItem | Iterable[OutputItem] | None
"""Nothing, one output, or several in order; a bare `bytes` is one output."""
DaemonHealth: TypeAlias = Healthy | Degraded | Unhealthy
"""What a daemon says of itself."""


class _OwnName:
    """Reads as the name of the class it is asked of."""

    def __get__(self, instance: object, owner: type) -> str:
        return owner.__name__


class MeshDaemon(ABC):
    """A stateful event processor. Its calls never overlap; all but `process` are optional.

    Override both of `snapshot` and `restore`, or neither: that decides whether it has state. The class is checked when
    it is registered, and again when its factory makes one; `InvalidDaemon` says what is wrong with it.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        name: ClassVar[str]
    else:
        name = _OwnName()
    """Label for logs and operators, 1 to 255 bytes of UTF-8; the class's own name unless given."""
    schema: ClassVar[int] = 1
    """Version of the state's format, from 1; raise it when `snapshot` changes, and override `upgrade`."""
    required_capabilities: ClassVar[CapabilitySet] = CapabilitySet()
    """What a node must offer."""
    optional_capabilities: ClassVar[CapabilitySet] = CapabilitySet()
    """What a node had better offer."""

    @abstractmethod
    def process(self, event: CausalEvent, /) -> ProcessResult | Awaitable[ProcessResult] | AsyncIterable[OutputItem]:
        """Take one event and return its outputs.

        If it raises, none of its outputs exist and the event did not take effect. It may be `async`, may `yield`, and
        may run again for the same event in a recovery: effects outside meshos must bear that.
        """

    def snapshot(self) -> BytesLike | None:
        """Return the whole state; called between two events.

        A raise, or `None` from an override, is an error, never "no state".
        """
        return None

    def restore(self, state: bytes, /) -> None:
        """Take over a whole state; called on a fresh instance before its first event.

        Raises:
            InvalidArgument: Not overridden, and there is a state that would be lost.
        """
        if state:
            message = f"{len(state)} bytes for {type(self).__name__}, which has neither `snapshot` nor `restore`"
            raise InvalidArgument("state", message)

    def upgrade(self, state: bytes, schema: int, /) -> BytesLike:  # noqa: ARG002  what an override is given
        """Turn a state of an older `schema` into one of the current, for `restore`.

        Raises:
            InvalidArgument: Not overridden.
        """
        message = f"{type(self).__name__} does not upgrade a state of schema {schema} to {self.schema}"
        raise InvalidArgument("schema", message)

    def health(self) -> DaemonHealth:
        """Report on yourself, in microseconds; asked between two events."""
        return _HEALTHY

    def saturation(self) -> float:
        """Return the load, 0 (idle) to 1 (full), in microseconds; asked between two events."""
        return 0.0

    def on_control(self, control: DaemonControl, /) -> Awaitable[None] | None:  # noqa: B027  optional
        """Take a control, between two events; the newest of each sort is never lost."""

    def requirements(self) -> CapabilityFilter:
        """Return what a node must offer; by default the tags of `required_capabilities`."""
        return CapabilityFilter(require_tags=self.required_capabilities.tags)

    def is_stateful(self) -> bool:
        """Whether `snapshot` and `restore` are overridden; not for overriding."""
        return type(self).snapshot is not MeshDaemon.snapshot


_HEALTHY = Healthy()


class DaemonLifecycleObserver(ABC):
    """Sees the lifecycle events of a registry, in order."""

    __slots__ = ()

    @abstractmethod
    def observe(self, event: DaemonLifecycleEvent, /) -> None:
        """Take one event, without a lock of the registry held; a raise is counted, and delays no daemon."""
