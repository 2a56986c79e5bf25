"""The name of an operator socket in the file system: private from its first moment, and never somebody else's.

Whoever opens or removes one holds the lock of its folder meanwhile, so two that start at once do not both find the same
dead socket and remove each other's.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from contextlib import contextmanager, suppress
from errno import EADDRINUSE
from time import monotonic, sleep
from typing import TYPE_CHECKING

from meshos.errors import OperatorSocketError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH_BYTES_MAX = 100
"""What every system takes: the least is 104 with a zero byte."""
_LOCK_SECONDS = 2.0
_BACKLOG = 64


def stream(path: str) -> socket.socket:
    """Return a socket for a path that the system takes; raises `OperatorSocketError`."""
    # To a type checker on Windows nothing below this line is there.
    if sys.platform == "win32" or not hasattr(socket, "AF_UNIX"):
        raise OperatorSocketError("unsupported", path)
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError as error:
        raise OperatorSocketError("failed", path) from error
    if size > PATH_BYTES_MAX:
        raise OperatorSocketError("path_too_long", path)
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise OperatorSocketError("failed", path) from error


def listen(path: str) -> tuple[socket.socket, os.stat_result]:
    """Open a private socket under a name that nothing has, or that a dead one has; raises `OperatorSocketError`."""
    listener = stream(path)
    try:
        with _folder_locked(path):
            _free(path)
            _bind(listener, path)
            listener.listen(_BACKLOG)
            return listener, os.lstat(path)
    except (OSError, ValueError) as error:
        listener.close()
        raise OperatorSocketError("failed", path) from error
    except BaseException:
        listener.close()
        raise


def remove(path: str, ours: os.stat_result) -> None:
    """Take a name away, if it still is of the socket that was opened."""
    with suppress(OSError, OperatorSocketError), _folder_locked(path):
        if os.path.samestat(os.lstat(path), ours):
            os.unlink(path)


def _bind(listener: socket.socket, path: str) -> None:
    """Name a socket. Linux makes the file with the mode of the socket; elsewhere its folder is private."""
    try:
        os.fchmod(listener.fileno(), 0o600)
    except OSError as error:
        folder = os.stat(os.path.dirname(os.path.abspath(path)))
        if folder.st_mode & 0o077 or folder.st_uid != os.geteuid():
            raise PermissionError("the folder is not private, and the system makes no private sockets") from error
    try:
        listener.bind(path)
    except OSError as error:
        raise OperatorSocketError("occupied" if error.errno == EADDRINUSE else "failed", path) from error
    os.chmod(path, 0o600)


def _free(path: str) -> None:
    """Remove a dead socket; raises `OperatorSocketError` for anything else that has the name."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or not _is_dead(path):
        raise OperatorSocketError("occupied", path)
    os.unlink(path)


def _is_dead(path: str) -> bool:
    """Whether nobody serves a socket any more; one that is too busy to answer is not dead."""
    with stream(path) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


@contextmanager
def _folder_locked(path: str) -> Iterator[None]:
    """Hold the lock of the folder that a name is in."""
    import fcntl

    handle = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= end:
                    raise
                # There is no wait for such a lock that has an end.
                sleep(0.01)
        yield
    finally:
        os.close(handle)
