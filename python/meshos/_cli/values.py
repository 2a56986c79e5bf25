"""What stands on a command line: ids, spans, and a few words, read strictly."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from meshos._checks import identifier as _identifier

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS = {
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_SPAN = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?")
REASON_BYTES_MAX = 1024


def identifier(text: str) -> int:
    """Read an id: decimal, or hexadecimal after `0x`."""
    try:
        return _identifier(text)
    except ValueError:
        message = f"not an id below 2^64, decimal or hexadecimal after 0x: {text[:80]!r}"
        raise argparse.ArgumentTypeError(message) from None


def span(text: str) -> timedelta:
    """Read a span with units, such as `90s`, `1h30m` or `250ms`."""
    found = _SPAN.fullmatch(text)
    if not text or found is None:
        message = f"not a span with units, such as 90s, 1h30m or 250ms: {text[:80]!r}"
        raise argparse.ArgumentTypeError(message)
    parts = zip(found.groups(), _UNITS.values(), strict=True)
    return sum((int(count) * unit for count, unit in parts if count is not None), timedelta(0))


def ttl(text: str) -> timedelta:
    """Read how long a freeze lasts."""
    found = span(text)
    if not timedelta(seconds=1) <= found <= timedelta(hours=24):
        message = f"a freeze lasts from 1s to 24h: {text!r}"
        raise argparse.ArgumentTypeError(message)
    return found


def reason(text: str) -> str:
    """Read why a command is given."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not Unicode text") from None
    if not 1 <= size <= REASON_BYTES_MAX:
        message = f"not of 1 to {REASON_BYTES_MAX} bytes"
        raise argparse.ArgumentTypeError(message)
    return text


def digest(text: str) -> bytes:
    """Read 32 bytes as hexadecimal digits."""
    try:
        raw = bytes.fromhex(text) if len(text) == 64 and text.isalnum() else b""
    except ValueError:
        raw = b""
    if len(raw) != 32:
        message = f"not 64 hex digits: {text[:80]!r}"
        raise argparse.ArgumentTypeError(message)
    return raw


def moment(text: str) -> datetime:
    """Read a point in time, RFC 3339, with its zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        message = f"not a point in time with its zone, such as 2026-01-31T12:00:00Z: {text[:80]!r}"
        raise argparse.ArgumentTypeError(message)
    return at.astimezone(UTC)


def since(text: str) -> int | datetime:
    """Read the number of a record, or a point in time."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    return moment(text)


def scope(text: str) -> Mapping[str, str]:
    """Read which avoid lists are flushed: `global`, `local:NODE` or `on-peer:PEER`."""
    word, colon, number = text.partition(":")
    if word == "global" and not colon:
        return {"kind": "global"}
    if word == "local" and colon:
        return {"kind": "local", "node": f"{identifier(number):#x}"}
    if word == "on-peer" and colon:
        return {"kind": "on_peer", "peer": f"{identifier(number):#x}"}
    message = f"not global, local:NODE or on-peer:PEER: {text[:80]!r}"
    raise argparse.ArgumentTypeError(message)
