"""What the behaviour loop decides, and who carries it out."""

from typing import TypeAlias

from meshos._core import ApplyBackoff as ApplyBackoff
from meshos._core import BackpressureChange as BackpressureChange
from meshos._core import Cause as Cause
from meshos._core import CommitMaintenanceTransition as CommitMaintenanceTransition
from meshos._core import DropReplica as DropReplica
from meshos._core import MarkAvoid as MarkAvoid
from meshos._core import PullReplica as PullReplica
from meshos._core import RequestEviction as RequestEviction
from meshos._core import RequestPlacement as RequestPlacement
from meshos._core import StartDaemon as StartDaemon
from meshos._core import StopDaemon as StopDaemon

__all__ = [
    "ApplyBackoff",
    "BackpressureChange",
    "Cause",
    "CommitMaintenanceTransition",
    "DropReplica",
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
