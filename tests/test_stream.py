"""Streams: in order, bounded, and nothing is lost between two readers."""

import asyncio
from collections import deque
from datetime import timedelta

import pytest

from meshos.errors import LoopClosed, WaitTimeout
from meshos.stream import Stream

SECOND = timedelta(seconds=1)


class Items:
    """A source that a test fills."""

    def __init__(self) -> None:
        self.items: deque[str] = deque()
        self.waiting: asyncio.Future[None] | None = None
        self.closed = 0

    def put(self, item: str) -> None:
        self.items.append(item)
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def take(self, timeout: timedelta) -> str | None:
        return self.items.popleft() if self.items else None

    async def take_async(self) -> str:
        while not self.items:
            self.waiting = asyncio.get_running_loop().create_future()
            await self.waiting
        return self.items.popleft()

    def close(self) -> None:
        self.closed += 1


def test_items_come_in_order_to_both_kinds_of_readers() -> None:
    source = Items()
    stream = Stream(source, "items")
    for item in ("a", "b", "c"):
        source.put(item)

    assert stream.receive(timeout=SECOND) == "a"
    assert next(stream) == "b"
    assert asyncio.run(stream.receive_async(timeout=SECOND)) == "c"


def test_a_wait_has_its_deadline() -> None:
    stream = Stream(Items(), "items")
    with pytest.raises(WaitTimeout):
        stream.receive(timeout=timedelta(milliseconds=1))
    with pytest.raises(WaitTimeout):
        asyncio.run(stream.receive_async(timeout=timedelta(milliseconds=1)))


@pytest.mark.parametrize("turns", range(4))
def test_what_came_while_its_reader_gave_up_is_for_the_next(turns: int) -> None:
    """Whoever is cancelled `turns` steps after an item came either has it, or has left it for the next."""

    async def main() -> str:
        source = Items()
        stream = Stream(source, "items")
        reader = asyncio.ensure_future(stream.receive_async(timeout=None))
        while source.waiting is None:
            await asyncio.sleep(0)
        source.put("a")
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        (given,) = await asyncio.gather(reader, return_exceptions=True)
        return given if isinstance(given, str) else await stream.receive_async(timeout=SECOND)

    assert asyncio.run(main()) == "a"


def test_a_closed_stream_ends_its_reader_and_its_source_once() -> None:
    async def main() -> None:
        source = Items()
        stream = Stream(source, "items")
        reader = asyncio.ensure_future(stream.receive_async(timeout=None))
        while source.waiting is None:
            await asyncio.sleep(0)
        stream.close()
        stream.close()
        with pytest.raises(LoopClosed):
            await reader
        assert [item async for item in stream] == []
        assert list(stream) == []
        assert source.closed == 1

    asyncio.run(main())
