"""What the behaviour loop asks once a tick."""

from enum import StrEnum
from typing import final

from meshos._core import PeerInventory as PeerInventory
from meshos._core import ProbeCounts as ProbeCounts

__all__ = ["NodeHealth", "PeerInventory", "ProbeCounts"]


@final
class NodeHealth(StrEnum):
    """How another node looks from here."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"
