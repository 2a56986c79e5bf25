"""What the behaviour loop shows of itself. Points in time are absolute, aware and in UTC."""

from enum import StrEnum
from typing import TypeAlias, final

from meshos._core import ActionSnapshot as ActionSnapshot
from meshos._core import Active as Active
from meshos._core import AvoidEntry as AvoidEntry
from meshos._core import BackingOff as BackingOff
from meshos._core import CallbackStatus as CallbackStatus
from meshos._core import CrashLooping as CrashLooping
from meshos._core import CrashRecord as CrashRecord
from meshos._core import DaemonCounts as DaemonCounts
from meshos._core import DaemonSnapshot as DaemonSnapshot
from meshos._core import DrainFailed as DrainFailed
from meshos._core import EnteringMaintenance as EnteringMaintenance
from meshos._core import ExitingMaintenance as ExitingMaintenance
from meshos._core import Explanation as Explanation
from meshos._core import Idle as Idle
from meshos._core import LoopMetrics as LoopMetrics
from meshos._core import Maintenance as Maintenance
from meshos._core import MeshOsSnapshot as MeshOsSnapshot
from meshos._core import PeerCounts as PeerCounts
from meshos._core import PeerSnapshot as PeerSnapshot
from meshos._core import Reason as Reason
from meshos._core import Recovery as Recovery
from meshos._core import ReplicaSnapshot as ReplicaSnapshot
from meshos._core import StatusSummary as StatusSummary

__all__ = [
    "ActionSnapshot",
    "Active",
    "AvoidEntry",
    "BackingOff",
    "CallbackStatus",
    "CrashLooping",
    "CrashRecord",
    "DaemonCounts",
    "DaemonSnapshot",
    "DrainFailed",
    "EnteringMaintenance",
    "ExitingMaintenance",
    "Explanation",
    "Idle",
    "Lifecycle",
    "LoopMetrics",
    "Maintenance",
    "MaintenancePhase",
    "MaintenanceState",
    "MeshOsSnapshot",
    "PeerCounts",
    "PeerSnapshot",
    "Reason",
    "Recovery",
    "ReplicaSnapshot",
    "RestartState",
    "StatusSummary",
]


@final
class Lifecycle(StrEnum):
    """Where a daemon is."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@final
class MaintenancePhase(StrEnum):
    """A node's maintenance, by name."""

    ACTIVE = "active"
    ENTERING = "entering_maintenance"
    MAINTENANCE = "maintenance"
    EXITING = "exiting_maintenance"
    DRAIN_FAILED = "drain_failed"
    RECOVERY = "recovery"


RestartState: TypeAlias = Idle | BackingOff | CrashLooping
"""Whether a daemon may start."""
MaintenanceState: TypeAlias = Active | EnteringMaintenance | Maintenance | ExitingMaintenance | DrainFailed | Recovery
"""Where a node is between service and maintenance."""
