"""What the behaviour loop asks once a tick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, final

from meshos._core import PeerInventory as PeerInventory
from meshos._core import ProbeCounts as ProbeCounts
from meshos._core import ProbeRegistry as ProbeRegistry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable
    from datetime import timedelta

    from meshos.identity import NodeId

__all__ = [
    "HealthProbe",
    "InventoryProbe",
    "LocalityProbe",
    "NodeHealth",
    "PeerInventory",
    "ProbeCounts",
    "ProbeRegistry",
]


@final
class NodeHealth(StrEnum):
    """How another node looks from here."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"


class LocalityProbe(ABC):
    """Samples round trips to other nodes.

    Asked once a tick on a lane, and not again before it answered. What it raises is a failure record, and there is no
    sample this time. A probe that fails five times in a row is left alone for a while.
    """

    @abstractmethod
    def rtt_samples(self) -> Iterable[tuple[NodeId, timedelta]] | Awaitable[Iterable[tuple[NodeId, timedelta]]]:
        """Return pairs of a node, not this one, and a round trip."""


class HealthProbe(ABC):
    """Samples the health of other nodes; asked as a `LocalityProbe` is."""

    @abstractmethod
    def health_samples(self) -> Iterable[tuple[NodeId, NodeHealth]] | Awaitable[Iterable[tuple[NodeId, NodeHealth]]]:
        """Return pairs of a node and how it looks from here."""


class InventoryProbe(ABC):
    """Samples what other nodes have; asked as a `LocalityProbe` is."""

    @abstractmethod
    def inventory_samples(
        self,
    ) -> Iterable[tuple[NodeId, PeerInventory]] | Awaitable[Iterable[tuple[NodeId, PeerInventory]]]:
        """Return pairs of a node and what it has; what is `None` leaves the value of another probe alone."""
