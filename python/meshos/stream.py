"""Streams that are read with `for` and with `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, final

from meshos._checks import seconds_of
from meshos._core import Gap as Gap
from meshos.errors import LoopClosed, WaitTimeout

if TYPE_CHECKING:
    from asyncio import Task
    from types import TracebackType

T_co = TypeVar("T_co", covariant=True)

__all__ = ["Gap", "Stream"]


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


@final
class Stream(Iterator[T_co], AsyncIterator[T_co], Generic[T_co]):
    """Items in order, bounded; ends when it is closed or its source is. One reader at a time.

    A stream is made by the method that documents it, not by its class.
    """

    __slots__ = ("_closed", "_kept", "_name", "_source", "_waiting")

    def __init__(self, source: _Source[T_co], name: str) -> None:
        self._source = source
        self._name = name
        self._closed = False
        # What came at the very moment at which its reader gave up: the next one gets it.
        self._kept: list[T_co] = []
        self._waiting: object = None

    def __iter__(self) -> Self:
        """Return the stream."""
        return self

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    def __next__(self) -> T_co:
        """Wait for the next item; Ctrl-C ends the wait within 0.2 s."""
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
        seconds = seconds_of(timeout)
        end = None if seconds is None else monotonic() + seconds
        while not self._closed:
            if self._kept:
                return self._kept.pop()
            left = _SLICE if end is None else min(_SLICE, end - monotonic())
            item = self._source.take(timedelta(seconds=max(0.0, left)))
            if item is not None:
                return item
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
            return self._kept.pop()
        task = asyncio.ensure_future(self._source.take_async())
        self._waiting = (asyncio.get_running_loop(), task)
        try:
            return await asyncio.wait_for(task, seconds)
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

    def _keep(self, task: Task[T_co]) -> None:
        """Keep what a wait that was given up had taken already."""
        if task.done() and not task.cancelled() and task.exception() is None:
            self._kept.append(task.result())

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
