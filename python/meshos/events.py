"""What goes into the behaviour loop, and what a registry tells its observers."""

from enum import StrEnum
from typing import TypeAlias, final

from meshos._core import ClearAvoidList as ClearAvoidList
from meshos._core import Cordon as Cordon
from meshos._core import Crashed as Crashed
from meshos._core import DaemonIntentUpdate as DaemonIntentUpdate
from meshos._core import DaemonLifecycle as DaemonLifecycle
from meshos._core import Drain as Drain
from meshos._core import DropReplicas as DropReplicas
from meshos._core import EnterMaintenance as EnterMaintenance
from meshos._core import ExitedCleanly as ExitedCleanly
from meshos._core import ExitMaintenance as ExitMaintenance
from meshos._core import ForgetChain as ForgetChain
from meshos._core import ForgetDaemon as ForgetDaemon
from meshos._core import HealthChanged as HealthChanged
from meshos._core import InvalidatePlacement as InvalidatePlacement
from meshos._core import LocalReplicaIntentUpdate as LocalReplicaIntentUpdate
from meshos._core import LogLine as LogLine
from meshos._core import MaintenanceTransitionObserved as MaintenanceTransitionObserved
from meshos._core import NodeHealthUpdate as NodeHealthUpdate
from meshos._core import PassedOver as PassedOver
from meshos._core import PlacementIntent as PlacementIntent
from meshos._core import Registered as Registered
from meshos._core import ReplicaBecameHolderAndLeader as ReplicaBecameHolderAndLeader
from meshos._core import ReplicaLeaderLostAndRemoved as ReplicaLeaderLostAndRemoved
from meshos._core import ReplicaLeaderUpdate as ReplicaLeaderUpdate
from meshos._core import ReplicaUpdate as ReplicaUpdate
from meshos._core import RestartAllDaemons as RestartAllDaemons
from meshos._core import RttSample as RttSample
from meshos._core import SaturationChanged as SaturationChanged
from meshos._core import SignedAdminCommit as SignedAdminCommit
from meshos._core import SignedIceCommit as SignedIceCommit
from meshos._core import Started as Started
from meshos._core import Uncordon as Uncordon
from meshos._core import Unregistered as Unregistered
from meshos._core import UnsignedAdminEvent as UnsignedAdminEvent
from meshos.identity import OriginHash

__all__ = [
    "AdminEvent",
    "ChainId",
    "ClearAvoidList",
    "Cordon",
    "Crashed",
    "DaemonIntent",
    "DaemonIntentUpdate",
    "DaemonLifecycle",
    "DaemonLifecycleSignal",
    "Drain",
    "DropReplicas",
    "EnterMaintenance",
    "ExitMaintenance",
    "ExitedCleanly",
    "ForgetChain",
    "ForgetDaemon",
    "HealthChanged",
    "InvalidatePlacement",
    "LocalReplicaIntent",
    "LocalReplicaIntentUpdate",
    "LogLevel",
    "LogLine",
    "MaintenanceTransitionObserved",
    "MeshOsEvent",
    "NodeHealthUpdate",
    "PassedOver",
    "PlacementIntent",
    "Registered",
    "ReplicaBecameHolderAndLeader",
    "ReplicaChange",
    "ReplicaLeaderLostAndRemoved",
    "ReplicaLeaderUpdate",
    "ReplicaUpdate",
    "RestartAllDaemons",
    "RttSample",
    "SaturationChanged",
    "SignedAdminCommit",
    "SignedIceCommit",
    "Started",
    "Uncordon",
    "Unregistered",
    "UnsignedAdminEvent",
]

ChainId: TypeAlias = OriginHash
"""Origin hash of a replicated chain."""


@final
class DaemonIntent(StrEnum):
    """What is wanted of a daemon."""

    RUN = "run"
    STOP = "stop"


@final
class LocalReplicaIntent(StrEnum):
    """What is wanted of this node's copy of a chain."""

    HOLD = "hold"
    DROP = "drop"


@final
class ReplicaChange(StrEnum):
    """What happened to a copy of a chain."""

    ADDED = "added"
    REPAIRED = "repaired"
    REMOVED = "removed"
    LOST = "lost"


@final
class LogLevel(StrEnum):
    """Severity, in this order."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


DaemonLifecycleSignal: TypeAlias = Started | ExitedCleanly | Crashed | HealthChanged | SaturationChanged
"""What is published of a daemon. Match with a `case _` arm: new ones may come."""
AdminEvent: TypeAlias = (
    EnterMaintenance
    | ExitMaintenance
    | Drain
    | Cordon
    | Uncordon
    | RestartAllDaemons
    | ClearAvoidList
    | DropReplicas
    | InvalidatePlacement
)
"""An ordinary command of an operator."""
MeshOsEvent: TypeAlias = (
    DaemonLifecycle
    | DaemonIntentUpdate
    | ForgetDaemon
    | ForgetChain
    | ReplicaUpdate
    | ReplicaLeaderUpdate
    | ReplicaBecameHolderAndLeader
    | ReplicaLeaderLostAndRemoved
    | PlacementIntent
    | LocalReplicaIntentUpdate
    | RttSample
    | NodeHealthUpdate
    | MaintenanceTransitionObserved
    | LogLine
    | UnsignedAdminEvent
    | SignedAdminCommit
    | SignedIceCommit
)
"""What may be published; the ticks and the end of a loop are its own."""
