"""The stream of what a daemon of another node emits."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from meshos.errors import InvalidArgument
from meshos.stream import Stream

if TYPE_CHECKING:
    from meshos._core import Follower
    from meshos.chain import CausalEvent
    from meshos.stream import RolledBack

DIGEST_SIZE = 32
LOOK = timedelta(milliseconds=250)
"""How long one wait on a lane lasts."""


def place(after: object) -> tuple[int, bytes] | None:
    """Check where a reader says that it is."""
    match after:
        case None:
            return None
        case (int() as sequence, bytes() as digest) if not isinstance(sequence, bool):
            if not 0 <= sequence < 1 << 64:
                raise InvalidArgument("after", "its sequence must be from 0 to 2^64 - 1")
            if len(digest) != DIGEST_SIZE:
                raise InvalidArgument("after", f"its digest must have {DIGEST_SIZE} bytes")
            return sequence, digest
    raise TypeError(f"after must be a tuple of an int and bytes, or None, not {after!r}")


def stream(follower: Follower, name: str) -> Stream[CausalEvent | RolledBack]:
    """Make the stream of a follower."""
    return Stream(_Following(follower), name)


class _Following:
    """What one daemon emits."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._looking: asyncio.Future[CausalEvent | RolledBack | None] | None = None

    def take(self, timeout: timedelta) -> CausalEvent | RolledBack | None:
        """Wait for the next item on this thread."""
        return self._follower.take(timeout)

    async def take_async(self) -> CausalEvent | RolledBack:
        """Wait for the next item; a look that is under way when this is cancelled is for the next caller."""
        from meshos._twins import on_lane

        while True:
            if self._looking is None:
                self._looking = asyncio.ensure_future(on_lane("Stream.receive_async", self._follower.take, LOOK))
            item = await asyncio.shield(self._looking)
            self._looking = None
            if item is not None:
                return item

    def close(self) -> None:
        """End it."""
        self._follower.close()
