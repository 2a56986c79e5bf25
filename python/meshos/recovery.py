"""Slots of groups that lost their node are placed again, once a tick."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from meshos._core import RecoveryRegistry as RecoveryRegistry
from meshos._core import RecoveryStatus as RecoveryStatus

__all__ = ["RecoveryHandler", "RecoveryRegistry", "RecoveryStatus"]

RecoveryHandler: TypeAlias = Callable[[], Sequence[int] | Awaitable[Sequence[int]]]
"""Returns the slots it placed again; cheap. An object may also have a method `has_work`, which is asked first."""
