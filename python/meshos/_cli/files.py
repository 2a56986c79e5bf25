"""Files of envelopes: as bytes or as armoured text, and written back in the form in which they were read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meshos._cli.exits import ExitCode
from meshos._cli.output import Failure

if TYPE_CHECKING:
    from pathlib import Path

    from meshos.operator import IceEnvelope

_BYTES_MAX = 6 << 20
"""Above the largest envelope as text."""


class EnvelopeFile(NamedTuple):
    """What a file holds, and in which form."""

    envelope: IceEnvelope
    armoured: bool


def read(file: Path) -> EnvelopeFile:
    """Read a break-glass envelope; raises `Failure`, `OSError`."""
    from meshos.errors import EnvelopeDecodeError
    from meshos.operator import IceEnvelope

    with file.open("rb") as stream:
        data = stream.read(_BYTES_MAX + 1)
    armoured = data.lstrip().startswith(b"-----BEGIN ")
    try:
        if armoured:
            # What is no ASCII is no armour; its place in the text is the same.
            return EnvelopeFile(IceEnvelope.from_text(data.decode("ascii", "replace")), armoured)
        return EnvelopeFile(IceEnvelope.from_bytes(data), armoured)
    except EnvelopeDecodeError as error:
        raise Failure(ExitCode.UNREADABLE, error.kind, f"{file}: {error}") from None


def write(file: Path, envelope: IceEnvelope, *, armoured: bool, replace: bool) -> None:
    """Write an envelope as a whole; what may be replaced is another envelope. Raises `Failure`, `OSError`."""
    from meshos._place import place

    replace = replace and _is_there(file)
    mode = 0o666
    if replace:
        read(file)
        # What a link leads to is replaced, and is no more open than it was.
        file = file.resolve()
        mode &= file.stat().st_mode
    data = envelope.to_text().encode() if armoured else envelope.to_bytes()
    try:
        place(str(file), data, mode, replace=replace)
    except FileExistsError:
        message = f"{file}: is there already; --force replaces an envelope"
        raise Failure(ExitCode.UNREADABLE, "exists", message) from None


def _is_there(file: Path) -> bool:
    """Whether something has the name; that it cannot be told is an error, and not a no."""
    try:
        file.lstat()
    except FileNotFoundError:
        return False
    return True
