"""What the behaviour loop shows of itself. Points in time are absolute, aware and in UTC."""

from enum import StrEnum
from typing import TypeAlias, final

from meshos._core import Active as Active
from meshos._core import DrainFailed as DrainFailed
from meshos._core import EnteringMaintenance as EnteringMaintenance
from meshos._core import ExitingMaintenance as ExitingMaintenance
from meshos._core import Maintenance as Maintenance
from meshos._core import Recovery as Recovery

__all__ = [
    "Active",
    "DrainFailed",
    "EnteringMaintenance",
    "ExitingMaintenance",
    "Maintenance",
    "MaintenancePhase",
    "MaintenanceState",
    "Recovery",
]


@final
class MaintenancePhase(StrEnum):
    """A node's maintenance, by name."""

    ACTIVE = "active"
    ENTERING = "entering_maintenance"
    MAINTENANCE = "maintenance"
    EXITING = "exiting_maintenance"
    DRAIN_FAILED = "drain_failed"
    RECOVERY = "recovery"


MaintenanceState: TypeAlias = Active | EnteringMaintenance | Maintenance | ExitingMaintenance | DrainFailed | Recovery
"""Where a node is between service and maintenance."""
