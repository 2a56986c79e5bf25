"""What the compiled module needs of asyncio: a loop of its own, tasks, and futures set from other threads."""

import asyncio
import os
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_internal: asyncio.AbstractEventLoop | None = None
_tasks: set[asyncio.Task[object]] = set()


def internal_loop() -> asyncio.AbstractEventLoop:
    """Return the loop on which coroutines of daemons run when the user chose none; starts when first asked for."""
    global _internal
    with _lock:
        if _internal is None:
            loop = asyncio.new_event_loop()
            started = threading.Event()

            def serve() -> None:
                asyncio.set_event_loop(loop)
                loop.call_soon(started.set)
                loop.run_forever()

            threading.Thread(target=serve, name="meshos-loop", daemon=True).start()
            started.wait()
            _internal = loop
        return _internal


def forget_internal_loop() -> None:
    """Forget the loop in a forked child, where its thread does not exist."""
    global _internal, _lock
    _lock = threading.Lock()
    _internal = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_internal_loop)


def stop_internal_loop() -> None:
    """End the loop's thread before the interpreter goes away."""
    loop = _internal
    if loop is not None:
        loop.call_soon_threadsafe(loop.stop)


def start(coroutine: Coroutine[object, None, object], done: Callable[[asyncio.Task[object]], None]) -> None:
    """Run a coroutine as a task of the running loop; `done` hears of its begin and its end."""
    task = asyncio.get_running_loop().create_task(coroutine, name="meshos-process")
    done.started(task)  # type: ignore[attr-defined]
    # The loop itself holds tasks weakly.
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    task.add_done_callback(done)


async def awaiting(awaitable: Awaitable[T]) -> T:
    """Make a coroutine of any awaitable."""
    return await awaitable


async def collect(items: AsyncIterable[T]) -> list[T]:
    """Make a coroutine of an asynchronous generator."""
    return [item async for item in items]


if TYPE_CHECKING:

    class _FutureAndCoroutine(asyncio.Future[T], Coroutine[object, None, T]):
        """What a type checker may believe of a reply."""

else:

    class _FutureAndCoroutine(asyncio.Future):
        """The same without a second base, which would slow down each instance."""


class Reply(_FutureAndCoroutine[T]):
    """A future that may stand wherever a coroutine may: `create_task`, `TaskGroup`, `asyncio.run`.

    `gather` and `await` take it as the future it is, and need no task: with many calls under way, making a task for
    each would cost more than everything else together.
    """

    _steps: Generator[object, None, T] | None = None

    def send(self, value: None, /) -> object:
        """Step as a coroutine does: hand out the future, then return its result."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: object) -> object:
        """Raise inside, as a task does to cancel a coroutine; the future is cancelled with it."""
        if not self.done():
            self.cancel()
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.throw(*error)  # type: ignore[call-overload]

    def close(self) -> None:
        """End the waiting; what was mailed and not yet taken is taken back."""
        if not self.done():
            self.cancel()
        if self._steps is not None:
            self._steps.close()


def settle(batch: Sequence[tuple[asyncio.Future[object], object, BaseException | None]]) -> None:
    """Set the futures of a batch; runs on their loop. A future that was cancelled meanwhile stays so."""
    for future, result, error in batch:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
