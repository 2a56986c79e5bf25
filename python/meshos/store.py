"""What a node keeps: its key, journals and snapshots, and what comes back of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meshos._core import Store as Store
from meshos._core import StoreStats as StoreStats

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from meshos.daemon import DaemonRef
    from meshos.identity import OriginHash

__all__ = ["DaemonRecovery", "RecoveryReport", "Store", "StoreStats"]


class DaemonRecovery(NamedTuple):
    """How one daemon came back, or why not."""

    daemon: DaemonRef
    """The daemon."""
    kind: str
    """Name under which its class is registered; empty where that cannot be read."""
    epoch: int
    """Term of ownership."""
    snapshot_sequence: int
    """Position of its chain in the snapshot that it began with; 0: it began with nothing."""
    sequence: int
    """Position of its chain now."""
    replayed: int
    """Inputs that it took again."""
    suppressed: int
    """Outputs that it made again and that were held back."""
    cursors: Mapping[OriginHash, int]
    """Highest sequence processed of direct sends and deliveries, by origin: go on with the next."""
    snapshots_skipped: int
    """Damaged snapshots that were passed over."""
    error_kind: str | None
    """`kind` of what kept it from starting; `None`: it runs."""
    error: Exception | None
    """What kept it from starting, with the user's exception as its cause."""


class RecoveryReport(NamedTuple):
    """What a store held and what became of it."""

    daemons: Mapping[OriginHash, DaemonRecovery]
    """Each daemon that was brought back, or could not be, by handle."""
    kinds_missing: frozenset[str]
    """Kinds without a factory; register them and `recover` again."""
    took: timedelta
    """How long it took."""
