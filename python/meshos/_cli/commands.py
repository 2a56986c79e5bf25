"""The commands for operators, as the parser knows them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

from meshos._cli import admin, audit, ice, keys, letters, log, status, store

if TYPE_CHECKING:
    from collections.abc import Callable

    _Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_GROUPS = {
    "store": "look into the folder of a store",
    "key": "make and show keys of operators",
    "ice": "break-glass actions: propose, show, sign, submit",
    "admin": "ordinary commands to a running node",
    "audit": "what was commanded, and what came of it",
}


def add(commands: _Commands, epilog: str) -> None:
    """Add the commands, each with what runs it as `run`."""
    groups: dict[str, _Commands] = {}

    def parser(place: _Commands, name: str, brief: str, text: str) -> argparse.ArgumentParser:
        layout = argparse.RawDescriptionHelpFormatter
        return place.add_parser(name, help=brief, description=text, epilog=epilog, formatter_class=layout)

    def command(name: str, run: Callable[[argparse.Namespace], int], brief: str, text: str) -> argparse.ArgumentParser:
        group, _, last = name.rpartition(" ")
        place = commands
        if group:
            if group not in groups:
                text_of = _GROUPS[group]
                groups[group] = parser(commands, group, text_of, f"{text_of[0].upper()}{text_of[1:]}.").add_subparsers(
                    dest="verb", metavar="COMMAND", required=True
                )
            place = groups[group]
        made = parser(place, last, brief, text)
        made.add_argument("--json", action="store_true", help="print one JSON object")
        made.set_defaults(run=run)
        return made

    for module in (status, store, log, letters, audit, admin, ice, keys):
        module.add(command)
