"""What commands share that ask a running node."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli.output import plain
from meshos._cli.values import span

if TYPE_CHECKING:
    import argparse

    from meshos._frames import Message

SUBMIT_TIMEOUT = timedelta(seconds=10)


def node_option(parser: argparse.ArgumentParser) -> None:
    """Add which node."""
    parser.add_argument("--node", type=Path, required=True, metavar="SOCKET", help="the operator socket of the node")


def timeout_option(parser: argparse.ArgumentParser) -> None:
    """Add how long to wait for a verdict."""
    parser.add_argument(
        "--timeout", type=span, default=SUBMIT_TIMEOUT, metavar="D", help="wait so long for the verdict; default: 10s"
    )


def submit(node: Path, envelope: str, timeout: timedelta) -> Message:
    """Hand a command to a node, and return its receipt."""
    import sys

    from meshos._node_client import NodeClient
    from meshos._plain import milliseconds

    with NodeClient(node) as client:
        try:
            return client.ask("submit", {"envelope": envelope, "timeout_ms": milliseconds(timeout)}, waits=timeout)
        except KeyboardInterrupt:
            print("meshos: the command was sent, and may still take effect", file=sys.stderr)
            raise


def receipt_lines(receipt: Message) -> list[str]:
    """Write a receipt for people."""
    operators = receipt.get("operator_ids")
    who = ", ".join(map(str, operators)) if isinstance(operators, list) and operators else "nobody"
    return [
        f"{text(receipt, 'verdict')}: {text(receipt, 'event_kind')}",
        f"envelope    {text(receipt, 'envelope_id')}",
        f"at          {text(receipt, 'committed_at')}",
        f"operators   {plain(who)}",
        f"audit       {text(receipt, 'audit_seq')}",
        f"generation  {text(receipt, 'generation')}",
    ]


def text(found: object, *names: str) -> str:
    """Write what stands under a name, or under one below it; a node may say anything, so it is neutralised."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return "none" if found is None else plain(str(found))
