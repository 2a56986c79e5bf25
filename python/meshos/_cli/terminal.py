"""Asking people: passphrases from the terminal itself, confirmations on standard error."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.output import Failure

if TYPE_CHECKING:
    from pathlib import Path

_PASSPHRASE_BYTES_MAX = 4096


def passphrase(file: Path | None, prompt: str, *, twice: bool = False) -> str:
    """Return a passphrase, from a file or from who sits at the terminal; raises `Failure`."""
    if file is not None:
        return _from_file(file)
    first = _asked(prompt)
    if twice and _asked("the same again: ") != first:
        raise Failure(ExitCode.DECLINED, "passphrase", "the two passphrases differ")
    if not first:
        raise Failure(ExitCode.DECLINED, "passphrase", "the passphrase is empty")
    return first


def _asked(prompt: str) -> str:
    from getpass import getpass

    if os.name == "posix":
        # Without a terminal `getpass` would read the standard input, and show what is typed.
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            message = "there is no terminal to ask for the passphrase on: give --passphrase-file"
            raise Failure(ExitCode.DECLINED, "no_terminal", message) from None
    try:
        return getpass(prompt)
    except EOFError:
        raise Failure(ExitCode.DECLINED, "passphrase", "no passphrase was given") from None


def _from_file(file: Path) -> str:
    """Return the first line of a file that others cannot read, or of a pipe. What is in it is in no error."""
    with file.open("rb") as opened:
        found = os.fstat(opened.fileno())
        if os.name == "posix" and stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
            message = f"{file}: may be read by others than its owner"
            raise Failure(ExitCode.UNREADABLE, "not_private", message)
        data = opened.read(_PASSPHRASE_BYTES_MAX + 1)
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    try:
        text = line.decode() if len(line) <= _PASSPHRASE_BYTES_MAX else ""
    except UnicodeDecodeError:
        text = ""
    if not text:
        message = f"{file}: its first line is no passphrase of 1 to {_PASSPHRASE_BYTES_MAX} bytes of UTF-8"
        raise Failure(ExitCode.UNREADABLE, "passphrase", message)
    return text


def confirm(names: tuple[str, ...], what: str, *, yes: bool) -> None:
    """Have somebody type the first of `names` (any of them will do), where there is somebody; raises `Failure`.

    On a terminal `yes` does not count, since who sits there can be asked.
    """
    if not sys.stdin.isatty():
        if yes:
            return
        message = "not confirmed: there is no terminal to ask on, and --yes was not given"
        raise Failure(ExitCode.DECLINED, "declined", message)
    print(f"Type {names[0]} to {what}: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() not in names:
        raise Failure(ExitCode.DECLINED, "declined", "not confirmed")
