"""Streams that are read with `for` and with `async for`."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, final

from meshos._checks import seconds_of
from meshos._core import Gap as Gap
from meshos._core import RolledBack as RolledBack
from meshos.errors import LoopClosed, WaitTimeout

if TYPE_CHECKING:
    from asyncio import Task
    from types import TracebackType

T_co = TypeVar("T_co", covariant=True)

__all__ = ["Gap", "RolledBack", "Stream"]


_SLICE = 0.1
"""Seconds after which a waiting reader looks whether its stream was closed."""


class _Source(Protocol[T_co]):
    """Where the items of a stream come from."""

    def take(self, timeout: timedelta) -> T_co | None:
        """Wait for the next item; `None` when time is up. Raises `LoopClosed` at the end."""

    async def take_async(self) -> T_co:
        """Wait for the next item; cancelling loses none. Raises `LoopClosed` at the end."""
        ...

    def close(self) -> None:
        """End the source; called once."""


class _Flood(Protocol[T_co]):
    """Where many items come from at a time."""

    @property
    def take_many(self) -> Callable[[timedelta], Sequence[T_co]]:
        """Wait for items; none when time is up. Raises `LoopClosed` at the end."""
        ...

    async def take_many_async(self) -> Sequence[T_co]:
        """Wait for items; cancelling loses none. Raises `LoopClosed` at the end."""
        ...

    @property
    def close(self) -> Callable[[], None]:
        """End the source; called once."""
        ...


@final
class Stream(Iterator[T_co], AsyncIterator[T_co], Generic[T_co]):
    """Items in order, bounded; ends when it is closed or its source is. One reader at a time.

    A stream is made by the method that documents it, not by its class.
    """

    __slots__ = ("_closed", "_kept", "_name", "_source", "_take", "_waiting")

    def __init__(self, source: _Source[T_co] | _Flood[T_co], name: str) -> None:
        self._source = source
        self._name = name
        self._closed = False
        # What was taken and not given out yet; also what came when its reader gave up.
        self._kept: deque[T_co] = deque()
        self._waiting: object = None
        self._take: Callable[[timedelta], Sequence[T_co]] = getattr(source, "take_many", self._one)

    def __iter__(self) -> Self:
        """Return the stream."""
        return self

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    def __next__(self) -> T_co:
        """Wait for the next item; Ctrl-C ends the wait within 0.2 s."""
        if self._kept and not self._closed:
            return self._kept.popleft()
        try:
            return self.receive(timeout=None)
        except LoopClosed:
            raise StopIteration from None

    async def __anext__(self) -> T_co:
        """Wait for the next item; a cancelled wait loses no item."""
        try:
            return await self.receive_async(timeout=None)
        except LoopClosed:
            raise StopAsyncIteration from None

    def receive(self, *, timeout: timedelta | None) -> T_co:
        """Wait up to `timeout` (`None`: for ever) for the next item; raises `WaitTimeout`, `LoopClosed` at the end."""
        if self._kept and not self._closed:
            return self._kept.popleft()
        seconds = seconds_of(timeout)
        end = None if seconds is None else monotonic() + seconds
        while not self._closed:
            if self._kept:
                return self._kept.popleft()
            left = _SLICE if end is None else min(_SLICE, end - monotonic())
            items = self._take(timedelta(seconds=max(0.0, left)))
            if items:
                self._kept.extend(items)
                continue
            if end is not None and monotonic() >= end and timeout is not None:
                raise WaitTimeout(f"the next item of {self._name}", timeout)
        raise LoopClosed(self._name)

    async def receive_async(self, *, timeout: timedelta | None) -> T_co:
        """Twin of `receive`."""
        import asyncio

        seconds = seconds_of(timeout)
        if self._closed:
            raise LoopClosed(self._name)
        if self._kept:
            return self._kept.popleft()
        task = asyncio.ensure_future(self._take_async())
        self._waiting = (asyncio.get_running_loop(), task)
        try:
            self._kept.extend(await asyncio.wait_for(task, seconds))
            return self._kept.popleft()
        except TimeoutError:
            self._keep(task)
            raise WaitTimeout(f"the next item of {self._name}", timeout or timedelta(0)) from None
        except asyncio.CancelledError:
            self._keep(task)
            # Closing cancels the wait; anything else that cancelled it passes through.
            if not self._closed:
                raise
            raise LoopClosed(self._name) from None
        finally:
            self._waiting = None

    def _one(self, timeout: timedelta) -> Sequence[T_co]:
        item = self._source.take(timeout)  # type: ignore[union-attr]
        return () if item is None else (item,)

    async def _take_async(self) -> Sequence[T_co]:
        many = getattr(self._source, "take_many_async", None)
        if many is not None:
            items: Sequence[T_co] = await many()
            return items
        return (await self._source.take_async(),)  # type: ignore[union-attr]

    def _keep(self, task: Task[Sequence[T_co]]) -> None:
        """Keep what a wait that was given up had taken already."""
        if task.done() and not task.cancelled() and task.exception() is None:
            self._kept.extend(task.result())

    def close(self) -> None:
        """End the stream and wake its reader; may be called from any thread, twice too."""
        if self._closed:
            return
        self._closed = True
        waiting = self._waiting
        if isinstance(waiting, tuple):
            loop, task = waiting
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        self._source.close()

    def __enter__(self) -> Self:
        """Return the stream; leaving closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the stream; leaving closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close."""
        self.close()
