"""What the mesh tells its daemons: shut down, drain, slow down, resume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias

from meshos._core import BackpressureOff as BackpressureOff
from meshos._core import BackpressureOn as BackpressureOn
from meshos._core import DrainFinish as DrainFinish
from meshos._core import DrainStart as DrainStart
from meshos._core import Resume as Resume
from meshos._core import Shutdown as Shutdown

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = [
    "BackpressureOff",
    "BackpressureOn",
    "ControlSink",
    "DaemonControl",
    "DrainFinish",
    "DrainStart",
    "MeshOsControl",
    "Resume",
    "Shutdown",
]

DaemonControl: TypeAlias = Shutdown | DrainStart | DrainFinish | Resume | BackpressureOn | BackpressureOff
"""What `MeshDaemon.on_control` is given. Match with a `case _` arm: new ones may come."""

MeshOsControl: TypeAlias = DaemonControl
"""What a `ControlSink` is given: the same records."""


class ControlSink(ABC):
    """Sees every control event of a runtime, after it was put into the daemons' slots."""

    @abstractmethod
    def emit(self, control: MeshOsControl, /) -> Awaitable[None] | None:
        """Take a control, on a lane; a raise is a failure record and delays no daemon."""
