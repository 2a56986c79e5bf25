"""Streams of what arrives on a channel."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from meshos.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshos._core import ChannelReader
    from meshos.mesh import ChannelMessage
    from meshos.stream import Gap


def stream(reader: ChannelReader, name: str) -> Stream[ChannelMessage | Gap]:
    """Make the stream of a reader."""
    return Stream(_Arriving(reader), name)


class _Arriving:
    """What arrives on one channel."""

    def __init__(self, reader: ChannelReader) -> None:
        self._reader = reader
        self.take_many = reader.take_many
        self.close = reader.close

    async def take_many_async(self) -> Sequence[ChannelMessage | Gap]:
        """Wait for items without a thread."""
        from datetime import timedelta

        now = timedelta(0)
        while True:
            items = self._reader.take_many(now)
            if items:
                return items
            loop = asyncio.get_running_loop()
            there = loop.create_future()
            if self._reader.when_there(partial(_wake, loop, there)):
                await there


def _wake(loop: asyncio.AbstractEventLoop, there: asyncio.Future[None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(_there, there)


def _there(there: asyncio.Future[None]) -> None:
    if not there.done():
        there.set_result(None)
