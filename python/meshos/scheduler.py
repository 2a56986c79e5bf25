"""Where things should run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from meshos._core import MigrationCost as MigrationCost
from meshos._core import SchedulerRegistry as SchedulerRegistry

if TYPE_CHECKING:
    from collections.abc import Collection

    from meshos.events import ChainId
    from meshos.identity import NodeId

__all__ = ["MigrationCost", "PlacementScorer", "SchedulerRegistry"]


class PlacementScorer(ABC):
    """Scores nodes for chains, 0 to 1. `None` is no opinion, and so is a raise or a number that is not finite.

    Asked on a lane. One that raises five times in a row is left alone for a while.
    """

    @abstractmethod
    def score(self, chain: ChainId, node: NodeId, /) -> float | None:
        """Return how good the node is for a copy of the chain."""

    @abstractmethod
    def best_alternative(self, chain: ChainId, exclude: Collection[NodeId], /) -> tuple[NodeId, float] | None:
        """Return the best node that is not excluded, and its score."""

    def live_score(self, chain: ChainId, node: NodeId, /) -> float | None:
        """Return the score without any cache; by default `score`."""
        return self.score(chain, node)

    def node_fingerprint(self, node: NodeId, /) -> int | None:  # noqa: ARG002
        """Return a number that changes with whatever `score` reads of the node; `None`: score every time."""
        return None

    def migration_cost(self, chain: ChainId, target: NodeId, /) -> MigrationCost | None:  # noqa: ARG002
        """Return what moving a copy to `target` would cost; `None`: nothing."""
        return None
