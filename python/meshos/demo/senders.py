"""Threads that send batches, each batch of one receiver after the one before it."""

from collections.abc import Callable
from queue import Empty, Full, Queue
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

_T = TypeVar("_T")

THREADS = 8
"""How many receivers can make their sender wait without holding up the others."""
BATCHES_MAX = 16
"""Batches that wait for one thread."""
_SLICE = 0.1
"""Longest wait, in seconds, in which Ctrl-C and the failure of a thread are not seen."""


class Senders(Generic[_T]):
    """Sends batches on threads of its own; leaving `with` ends them, also when batches wait.

    What `send` raises comes out of the next `put` or `join`.
    """

    def __init__(self, send: Callable[[_T], None]) -> None:
        self._send = send
        self._queues: list[Queue[_T]] = [Queue(BATCHES_MAX) for _ in range(THREADS)]
        self._threads = [Thread(target=self._run, args=(queue,), daemon=True) for queue in self._queues]
        self._changed = Condition()
        self._open = 0
        self._error: BaseException | None = None
        self._ended = False

    def put(self, receiver: int, batch: _T) -> None:
        """Queue a batch for a receiver, waiting for space."""
        queue = self._queues[receiver % THREADS]
        with self._changed:
            self._open += 1
        while True:
            self._raise()
            try:
                queue.put(batch, timeout=_SLICE)
            except Full:
                continue
            return

    def join(self) -> None:
        """Wait until everything is sent."""
        with self._changed:
            while self._open and self._error is None:
                self._changed.wait(_SLICE)
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self, queue: Queue[_T]) -> None:
        while not self._ended:
            try:
                batch = queue.get(timeout=_SLICE)
            except Empty:
                continue
            try:
                self._send(batch)
            except BaseException as error:
                self._error = self._error or error
                self._ended = True
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        for thread in self._threads:
            # One that still waits for a daemon ends with the daemon's runtime.
            thread.join(1.0)
