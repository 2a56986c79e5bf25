"""`meshos audit`: commands that were given, from a running node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.nodes import node_option, text
from meshos._cli.output import as_json, plain, show
from meshos._cli.values import identifier

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from meshos._frames import Message


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    tail = command("audit tail", _tail, "show the newest commands of a running node", "Show what a node still holds.")
    node_option(tail)
    _filters(tail)


def _filters(parser: argparse.ArgumentParser) -> None:
    """Add which records; all conditions hold together."""
    parser.add_argument("--since", type=int, default=0, metavar="SEQ", help="only records with a higher number")
    parser.add_argument("--operator", type=identifier, metavar="ID", help="only what this operator signed")
    parser.add_argument("--verdict", choices=("accepted", "rejected", "unverified"), help="only what came out so")
    parser.add_argument("--kind", metavar="KIND", help="only this command, such as cordon or freeze_cluster")


def _fits(options: argparse.Namespace, record: Message) -> bool:
    from meshos._plain import handle

    operators, event = record.get("operator_ids"), record.get("event")
    return (
        (options.operator is None or (isinstance(operators, list) and handle(options.operator) in operators))
        and (options.verdict is None or record.get("verdict") == options.verdict)
        and (options.kind is None or (isinstance(event, dict) and event.get("kind") == options.kind))
    )


def _tail(options: argparse.Namespace) -> ExitCode:
    from meshos._node_client import NodeClient

    records: list[Message] = []
    since = options.since
    with NodeClient(options.node) as client:
        while True:
            found = client.ask("audit", {"since": since}).get("records")
            page = [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []
            newest = max((seq for record in page if isinstance(seq := record.get("seq"), int)), default=since)
            if newest <= since:
                break
            records += (record for record in page if _fits(options, record))
            since = newest
    return _tell(options, records)


def _tell(options: argparse.Namespace, records: list[Message]) -> ExitCode:
    if options.json:
        as_json({"ok": True, "records": [*records]})
    else:
        show(map(_line, records))
    return ExitCode.OK


def _line(record: Message) -> str:
    event = record.get("event")
    fields = event if isinstance(event, dict) else {}
    about = " ".join(f"{plain(name)}={plain(str(value))}" for name, value in fields.items() if name != "kind")
    operators = record.get("operator_ids")
    who = ",".join(map(str, operators)) if isinstance(operators, list) and operators else "nobody"
    why = "" if record.get("rejected_kind") is None else f" ({text(record, 'rejected_kind')})"
    return (
        f"{text(record, 'seq')}  {text(record, 'committed_at')}  {text(record, 'verdict')}{why}  "
        f"{text(record, 'event', 'kind')} {about}  by {plain(who)}: {text(record, 'reason')}"
    )
