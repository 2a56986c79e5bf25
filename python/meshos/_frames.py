"""Messages of the operator socket: a length, u32 little endian, then as many bytes of one JSON object.

Invariants
* A length above `BYTES_MAX` is refused before anything is kept of what follows it.
* What is kept grows with what came, never with what was announced.
* Every wait has a deadline for the whole message, not for each piece of it.
"""

from __future__ import annotations

import json
import struct
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import socket

Message: TypeAlias = dict[str, object]
"""One JSON object; what is in it is looked at before it is used."""

HEAD = struct.Struct("<I")
BYTES_MAX = 6 << 20
"""Space for the largest envelope as text, as JSON writes it."""
_PIECE = 64 << 10


class BadFrame(Exception):
    """The other side does not keep to the form; nothing that comes after it can be trusted to be a message."""


def receive(stream: socket, end: float) -> Message | None:
    """Return the next message; `None` when there is no more.

    Raises:
        BadFrame: It is cut off, too long, or no JSON object.
        TimeoutError: It was not complete at `end`, of the monotonic clock.
        OSError: The connection broke.
    """
    head = _take(stream, HEAD.size, end)
    if not head:
        return None
    if len(head) < HEAD.size:
        raise BadFrame
    (size,) = HEAD.unpack(head)
    if size > BYTES_MAX:
        raise BadFrame
    data = _take(stream, size, end)
    if len(data) < size:
        raise BadFrame
    return decode(data)


def send(stream: socket, message: Message, end: float) -> None:
    """Write a message; raises `BadFrame` for one that is too long, `TimeoutError`, `OSError`."""
    data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(data) > BYTES_MAX:
        raise BadFrame
    stream.settimeout(_left(end))
    stream.sendall(HEAD.pack(len(data)) + data)


def decode(data: bytes | bytearray) -> Message:
    """Read one JSON object, in which no name stands twice; raises `BadFrame`."""
    try:
        found: object = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadFrame from None
    if not isinstance(found, dict):
        raise BadFrame
    return found


def _take(stream: socket, size: int, end: float) -> bytearray:
    """Return `size` bytes, or fewer where the stream ends."""
    data = bytearray()
    while len(data) < size:
        stream.settimeout(_left(end))
        piece = stream.recv(min(size - len(data), _PIECE))
        if not piece:
            break
        data += piece
    return data


def _left(end: float) -> float:
    left = end - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _once(pairs: Iterable[tuple[str, object]]) -> Message:
    found: Message = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(name)
        found[name] = value
    return found


def _refuse(_: str) -> object:
    raise ValueError
