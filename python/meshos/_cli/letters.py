"""`meshos letters`: the dead letters in the folder of a store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.output import plain, show, write_json
from meshos._cli.values import identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshos.store import DeadLetter

_SHOWN = 32
"""Bytes of a payload that are shown to people."""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = (
        "Show the events that daemons of a store failed on too often and passed over, have them tried again when "
        "their daemon comes back, or let them go. No process may have the store open; in one that does, a runtime "
        "has the same calls."
    )
    letters = command("letters", _letters, "show, retry or discard dead letters of a store", text)
    letters.add_argument("folder", type=Path, metavar="DIR", help="the folder of the store")
    what = letters.add_mutually_exclusive_group()
    helped = "a letter as it is shown, DAEMON:NUMBER; may be given again"
    what.add_argument("--retry", type=_name, action="append", metavar="LETTER", help=f"try it again: {helped}")
    what.add_argument("--discard", type=_name, action="append", metavar="LETTER", help=f"let it go: {helped}")


def _name(text: str) -> tuple[int, int]:
    origin, colon, number = text.partition(":")
    if not colon or not number.isascii() or not number.isdigit() or not 0 < len(number) <= 19:
        message = f"not DAEMON:NUMBER, such as 0x0123456789abcdef:1: {text[:80]!r}"
        raise argparse.ArgumentTypeError(message)
    return identifier(origin), int(number)


def _letters(options: argparse.Namespace) -> ExitCode:
    from meshos.errors import InvalidArgument
    from meshos.store import dead_letters, discard_dead_letter, retry_dead_letter

    folder: Path = options.folder
    found = {(letter.daemon.id, letter.number): letter for letter in dead_letters(folder)}
    names: list[tuple[int, int]] = options.retry or options.discard or []
    for name in names:
        if name not in found:
            raise InvalidArgument("letter", f"0x{name[0]:016x}:{name[1]} is no dead letter of this store")
    settle = retry_dead_letter if options.retry else discard_dead_letter
    for name in dict.fromkeys(names):
        settle(folder, found[name])
    shown = [found[name] for name in dict.fromkeys(names)] if names else [*found.values()]
    verdict = "retry" if options.retry else "discard" if options.discard else None
    if options.json:
        write_json({"ok": True, "verdict": verdict, "letters": [_plain(letter) for letter in shown]})
    else:
        show(_lines(shown, verdict))
    return ExitCode.OK


def _plain(letter: DeadLetter) -> dict[str, object]:
    from meshos._plain import moment

    return {
        "letter": _shown(letter),
        "daemon": {"id": f"0x{letter.daemon.id:016x}", "name": letter.daemon.name},
        "origin": f"0x{letter.event.link.origin_hash:016x}",
        "sequence": str(letter.event.sequence),
        "attempts": letter.attempts,
        "exception": letter.exception,
        "message": letter.message,
        "at": moment(letter.at),
        "is_marked": letter.is_marked,
        "payload": letter.event.payload.hex(),
    }


def _shown(letter: DeadLetter) -> str:
    return f"0x{letter.daemon.id:016x}:{letter.number}"


def _lines(letters: list[DeadLetter], verdict: str | None) -> Iterator[str]:
    from meshos._plain import moment

    if verdict == "retry":
        yield from (f"{_shown(letter)} is tried again when its daemon comes back" for letter in letters)
        return
    if verdict == "discard":
        yield from (f"{_shown(letter)} is discarded" for letter in letters)
        return
    if not letters:
        yield "no dead letters"
    for letter in letters:
        payload = letter.event.payload
        more = f" and {len(payload) - _SHOWN:,} bytes more" if len(payload) > _SHOWN else ""
        mark = ", is tried again when its daemon comes back" if letter.is_marked else ""
        yield f"{_shown(letter)}  {plain(letter.daemon.name)}, {moment(letter.at)}, {letter.attempts} tries{mark}"
        yield f"  event     {letter.event.sequence} of 0x{letter.event.link.origin_hash:016x}"
        yield f"  payload   {payload[:_SHOWN]!r}{more}"
        yield f"  raised    {plain(letter.exception)}: {plain(letter.message)}"
