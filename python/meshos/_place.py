"""Files that appear under their name as a whole, with their mode from the first moment."""

from __future__ import annotations

import os
from contextlib import suppress


def place(path: str, data: bytes, mode: int, *, replace: bool = False) -> None:
    """Put a whole file under a name; raises `FileExistsError` unless it may `replace` what has the name."""
    from secrets import token_hex

    folder, name = os.path.split(os.path.abspath(path))
    draft = os.path.join(folder, f".{name[:64]}.{token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(draft, path)
        else:
            # Neither replaces what has the name: a link never does, and a rename does not on Windows.
            (os.rename if os.name == "nt" else os.link)(draft, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make a new name durable, where a folder can be synced."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
