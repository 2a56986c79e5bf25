"""`meshos status`: how a running node is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.nodes import node_option, text
from meshos._cli.output import show, write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from meshos._frames import Message


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    status = command("status", _status, "show how a running node is", "Show the status of a running node in short.")
    node_option(status)


def _status(options: argparse.Namespace) -> ExitCode:
    from meshos._node_client import NodeClient

    with NodeClient(options.node) as client:
        found = {**client.ask("status"), **client.ask("cooldowns")}
    if options.json:
        write_json({"ok": True, **found})
    else:
        show(_lines(found))
    return ExitCode.OK


def _lines(found: Message) -> Iterator[str]:
    yield f"node         {text(found, 'node')}, generation {text(found, 'generation')}"
    cordoned = ", cordoned" if found.get("cordoned") is True else ""
    yield f"maintenance  {text(found, 'maintenance')}{cordoned}"
    yield f"authority    {text(found, 'authority')}"
    frozen = "no" if found.get("freeze_until") is None else f"until {text(found, 'freeze_until')}"
    yield f"frozen       {frozen}"
    for name in ("daemons", "peers"):
        counts = found.get(name)
        parts = counts if isinstance(counts, dict) else {}
        yield f"{name:<11}  " + ", ".join(f"{text(parts, part)} {text(part).replace('_', ' ')}" for part in parts)
    yield f"chains       {text(found, 'replica_chains')}"
    yield f"avoided      {text(found, 'avoid_list_entries')}"
    yield f"actions      {text(found, 'recently_emitted')} lately, {text(found, 'recent_failures')} failures"
    yield f"audit        {text(found, 'audit_head_seq')} records"
    yield f"digest       {text(found, 'control_digest')}"
    cooldowns = found.get("cooldowns")
    for each in cooldowns if isinstance(cooldowns, list) else []:
        yield f"cooling      {text(each, 'bucket')} until {text(each, 'until')}"
