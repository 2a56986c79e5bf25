"""The other end of an operator socket: asks a running node, from another process of the same machine."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Self

from meshos._frames import BadFrame, receive, send
from meshos._requests import VERSION
from meshos._socket_file import stream
from meshos.errors import LoopClosed, OperatorSocketError, WaitTimeout

if TYPE_CHECKING:
    from types import TracebackType

    from meshos._frames import Message

ANSWER_TIMEOUT = timedelta(seconds=10)
"""How long an answer may take, beyond what the node was asked to wait."""


class Refused(Exception):
    """The node answered with an error."""

    def __init__(self, error: str, kind: str, message: str, audit_seq: int | None) -> None:
        super().__init__(message)
        self.error = error
        self.kind = kind
        self.audit_seq = audit_seq


class NodeClient:
    """One connection. Every wait ends at a deadline, or with Ctrl-C."""

    def __init__(self, path: str | os.PathLike[str], *, timeout: timedelta | None = None) -> None:
        """Connect; answers have `ANSWER_TIMEOUT` unless told otherwise. Raises `OperatorSocketError`."""
        timeout = ANSWER_TIMEOUT if timeout is None else timeout
        self._path = os.fspath(path)
        self._timeout = timeout
        self._stream = stream(self._path)
        try:
            self._stream.settimeout(timeout.total_seconds())
            self._stream.connect(self._path)
        except BlockingIOError as error:
            # More stand in line than the node's system lets in; one that has a deadline is not put into it.
            self._stream.close()
            raise OperatorSocketError("busy", self._path) from error
        except (OSError, ValueError) as error:
            self._stream.close()
            raise OperatorSocketError("failed", self._path) from error

    def ask(self, what: str, fields: Message | None = None, *, waits: timedelta = timedelta(0)) -> Message:
        """Send a request, and return what the node found.

        Raises:
            Refused: The node answered with an error.
            WaitTimeout: There was no answer in time; a command may still take effect.
            LoopClosed: The node ended before it answered; a command may have taken effect.
            OperatorSocketError: What came back is no answer.
        """
        limit = self._timeout + waits
        end = monotonic() + limit.total_seconds()
        try:
            # A node that takes no more connections answers before it is asked, and hangs up.
            with suppress(BrokenPipeError, ConnectionResetError):
                send(self._stream, {"meshos": VERSION, "ask": what, **(fields or {})}, end)
            answer = receive(self._stream, end)
        except TimeoutError:
            raise WaitTimeout("the answer of the node", limit) from None
        except BadFrame:
            raise OperatorSocketError("bad_frame", self._path) from None
        except OSError:
            answer = None
        if answer is None:
            raise LoopClosed(f"the node at {self._path}")
        match answer:
            case {"ok": dict(found), **rest} if not rest:
                return found
            case {"error": str(error), "kind": str(kind), "message": str(message), **rest}:
                seq = rest.get("audit_seq")
                raise Refused(error, kind, message, seq if isinstance(seq, int) else None)
            case _:
                raise OperatorSocketError("bad_frame", self._path)

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()
