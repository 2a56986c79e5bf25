"""A running node, operated from a shell of the same machine. docs/operator-socket.md has the messages.

Invariants
* The loop never waits: each connection has a thread of its own, and there is a bound for those.
* Each message has a deadline as a whole, for a reader as for a writer.
* What waits when the socket is closed, or the runtime ends, is answered first, within a deadline.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Self, final
from warnings import warn
from weakref import WeakSet

from meshos._checks import instance, seconds_of
from meshos.errors import InvalidArgument
from meshos.runtime import MeshOsRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from threading import Thread
    from types import TracebackType

    from meshos._core import LoopCore
    from meshos.node import Node

__all__ = ["OperatorSocket"]

REQUEST_TIMEOUT = timedelta(seconds=10)
"""How long a request may take to come, and its answer to be read, unless told otherwise."""
CLOSE_TIMEOUT = timedelta(seconds=2)
"""How long a close waits for answers that are under way."""
_CONNECTIONS_MAX = 32
_LOOK = 0.2
"""Seconds after which it is seen that the runtime has ended."""


@final
class OperatorSocket:
    """Serves a runtime on a private Unix-domain socket, until it is closed or the runtime ends.

    It grants no authority: each command carries the signatures for which it is obeyed. Who may open the socket may read
    the status and the audit, and propose.
    """

    __module__ = "meshos.operator"
    __slots__ = ("__weakref__", "_path", "_server")
    _server: _Server

    def __init__(
        self,
        runtime: MeshOsRuntime | Node,
        path: str | os.PathLike[str],
        *,
        connections_max: int = _CONNECTIONS_MAX,
        request_timeout: timedelta = REQUEST_TIMEOUT,
    ) -> None:
        """Open a socket that only its owner can use (mode 0600), under a name that nothing has but a dead socket.

        Args:
            runtime: What is operated; a `Node` that was started.
            path: Where, at most 100 bytes.
            connections_max: How many connections are served at once, 1 to 256; more are refused.
            request_timeout: How long a request may take to come, and its answer to be read.

        Raises:
            OperatorSocketError: It cannot be opened there.
            NotReady: The node was not started.
        """
        if not 1 <= instance(connections_max, int, "connections_max") <= 256:
            raise InvalidArgument("connections_max", "must be from 1 to 256")
        seconds = seconds_of(instance(request_timeout, timedelta, "request_timeout"), "request_timeout")
        if not seconds or request_timeout > timedelta(hours=1):
            raise InvalidArgument("request_timeout", "must be above 0 and at most 1 h")
        self._path = os.path.abspath(instance(os.fspath(path), str, "path"))
        self._server = _Server(_core_of(runtime), self._path, connections_max, seconds)

    @property
    def path(self) -> str:
        """Where it is."""
        return self._path

    @property
    def refused(self) -> int:
        """How many connections were refused, since there were as many as are served at once."""
        return self._server.refused

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its runtime ended."""
        return self._server.closed

    def close(self) -> None:
        """Remove the socket and end all connections; answers under way have 2 s. Called again it does nothing."""
        self._server.close(CLOSE_TIMEOUT.total_seconds())

    async def close_async(self) -> None:
        """Twin of `close`."""
        from meshos._twins import on_lane

        await on_lane("OperatorSocket.close_async", self.close)

    def __enter__(self) -> Self:
        """Return the socket; leaving closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the socket; leaving closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close."""
        await self.close_async()

    def __del__(self, _warn: Callable[..., None] = warn) -> None:
        """Close without waiting, and warn, if it was not closed."""
        server = getattr(self, "_server", None)
        if server is not None and not server.closed:
            server.end()
            _warn(f"{self!r} was dropped without a close", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        """Show where it is and whether it is served."""
        return f"<OperatorSocket {self._path!r} {'closed' if self.closed else 'open'}>"


def _core_of(runtime: object) -> LoopCore:
    from meshos.node import Node

    if isinstance(runtime, Node):
        return runtime.runtime._core
    return instance(runtime, MeshOsRuntime, "runtime")._core


class _Server:
    """What the threads of a socket share; they do not keep the `OperatorSocket` alive."""

    def __init__(self, core: LoopCore, path: str, connections_max: int, seconds: float) -> None:
        from socket import SHUT_RD, SHUT_RDWR
        from threading import RLock, Thread

        from meshos._socket_file import listen, remove

        # Nothing can be imported when the interpreter goes away, and a socket may be dropped then.
        self._remove = remove
        self._no_more, self._cut = SHUT_RD, SHUT_RDWR
        self._core = core
        self._path = path
        self._connections_max = connections_max
        self._seconds = seconds
        # A socket may be dropped wherever objects are made, also while its own thread holds the lock.
        self._lock = RLock()
        self._connections: dict[socket, Thread] = {}
        self.closed = False
        self.refused = 0
        self._listener, self._file = listen(path)
        self._listener.settimeout(_LOOK)
        _open.add(self)
        self._acceptor = Thread(target=self._accept, name="meshos-operator", daemon=True)
        try:
            self._acceptor.start()
        except BaseException:  # the system has no thread left
            self.end()
            raise

    def end(self) -> None:
        """Take the name away, and no further request; what was asked already is answered."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            streams = list(self._connections)
        _open.discard(self)
        self._remove(self._path, self._file)
        with suppress(OSError):
            self._listener.shutdown(self._cut)
        self._listener.close()
        for stream in streams:
            with suppress(OSError):
                stream.shutdown(self._no_more)

    def close(self, seconds: float) -> None:
        """End, and wait for the threads; connections that are left at the deadline are cut."""
        from threading import current_thread

        self.end()
        end = monotonic() + seconds
        with self._lock:
            connections = list(self._connections.items())
        for thread in (self._acceptor, *(thread for _, thread in connections)):
            if thread is not current_thread():
                thread.join(max(0.0, end - monotonic()))
        for stream, thread in connections:
            if thread.is_alive():
                with suppress(OSError):
                    stream.shutdown(self._cut)

    def forked(self) -> None:
        """Let go of everything in a child process, where no thread serves it; the name is the parent's."""
        from threading import RLock

        self._lock = RLock()
        self.closed = True
        self._listener.close()
        for stream in list(self._connections):
            stream.close()

    def _accept(self) -> None:
        """Serve until the end of the socket or of the runtime."""
        try:
            while not self.closed and self._core.is_alive():
                try:
                    stream, _ = self._listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    # There are no handles left, or this is the end.
                    if not self.closed:
                        from time import sleep

                        sleep(_LOOK)
                    continue
                self._admit(stream)
        finally:
            self.end()

    def _admit(self, stream: socket) -> None:
        """Give a connection a thread, or refuse it."""
        from threading import Thread

        from meshos._frames import BadFrame, send
        from meshos._plain import error
        from meshos.errors import OperatorSocketError

        thread = Thread(target=self._talk, args=(stream,), name="meshos-operator", daemon=True)
        with self._lock:
            closed, takes = self.closed, len(self._connections) < self._connections_max
            if takes and not closed:
                self._connections[stream] = thread
            elif not closed:
                self.refused += 1
        if closed:
            stream.close()
            return
        if takes:
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left
                self._drop(stream)
            return
        # A fresh connection has space for that, so this does not wait.
        with suppress(OSError, BadFrame), stream:
            send(stream, error(OperatorSocketError("busy", self._path)), monotonic() + _LOOK)

    def _talk(self, stream: socket) -> None:
        """Answer the requests of one connection, one after the other."""
        from meshos._frames import BadFrame, receive, send
        from meshos._plain import error
        from meshos._requests import answer
        from meshos.errors import OperatorSocketError

        try:
            while not self.closed:
                try:
                    request = receive(stream, monotonic() + self._seconds)
                except BadFrame:
                    send(stream, error(OperatorSocketError("bad_frame", self._path)), monotonic() + self._seconds)
                    return
                if request is None:
                    return
                send(stream, answer(self._core, request), monotonic() + self._seconds)
        except (OSError, BadFrame):
            pass  # the other side is gone, or too slow
        finally:
            self._drop(stream)

    def _drop(self, stream: socket) -> None:
        with self._lock:
            self._connections.pop(stream, None)
        stream.close()


_open: WeakSet[_Server] = WeakSet()


def _forked() -> None:
    for server in list(_open):
        server.forked()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
