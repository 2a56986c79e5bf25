"""`meshos admin`: ordinary commands, signed here and obeyed by a running node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.keys import load, passphrase_option
from meshos._cli.nodes import node_option, receipt_lines, submit, timeout_option
from meshos._cli.output import Failure, show, write_json
from meshos._cli.values import identifier, reason, span

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from meshos.events import AdminEvent

_VERBS = {
    "enter-maintenance": "drain a node and keep it out of service",
    "exit-maintenance": "bring a node back, also while it still drains",
    "drain": "move everything off a node, then return it to service",
    "cordon": "place nothing new on a node",
    "uncordon": "place things on a node again",
    "restart-all-daemons": "stop and start every supervised daemon of a node",
    "clear-avoid-list": "clear the avoid list of a node",
    "drop-replicas": "let a node drop its copies of chains",
    "invalidate-placement": "score the chains that a node leads anew",
}


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    for verb, does in _VERBS.items():
        about = f"Sign a command and have a running node obey it: {does}."
        parser = command(f"admin {verb}", _commit, does, about)
        parser.set_defaults(verb=verb)
        parser.add_argument("target", type=identifier, metavar="NODE", help="the id of the node it is about")
        if verb in ("drain", "enter-maintenance"):
            needed = verb == "drain"
            parser.add_argument("--drain-for", type=span, required=needed, metavar="D", help="how long it may take")
        if verb == "drop-replicas":
            parser.add_argument(
                "--chain",
                type=identifier,
                action="append",
                required=True,
                metavar="ID",
                help="a chain; repeatable",
            )
        node_option(parser)
        parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the key file to sign with")
        passphrase_option(parser)
        parser.add_argument("--reason", type=reason, required=True, metavar="TEXT", help="why; it is audited")
        parser.add_argument("--cluster", metavar="ID", help="refuse to sign for a node of another cluster")
        timeout_option(parser)


def _event(options: argparse.Namespace) -> AdminEvent:
    from meshos import events

    node: int = options.target
    match options.verb:
        case "enter-maintenance":
            return events.EnterMaintenance(node, options.drain_for)
        case "exit-maintenance":
            return events.ExitMaintenance(node)
        case "drain":
            return events.Drain(node, options.drain_for)
        case "cordon":
            return events.Cordon(node)
        case "uncordon":
            return events.Uncordon(node)
        case "restart-all-daemons":
            return events.RestartAllDaemons(node)
        case "clear-avoid-list":
            return events.ClearAvoidList(node)
        case "drop-replicas":
            return events.DropReplicas(node, tuple(options.chain))
        case _:
            return events.InvalidatePlacement(node)


def _commit(options: argparse.Namespace) -> ExitCode:
    from meshos._node_client import NodeClient
    from meshos.operator import AdminEnvelope

    event = _event(options)
    key = load(options.key, options.passphrase_file)
    with NodeClient(options.node) as client:
        told = client.ask("policy").get("cluster_id")
    try:
        cluster_id = bytes.fromhex(str(told))
    except ValueError:
        raise Failure(ExitCode.UNREACHABLE, "bad_frame", "the node does not say of which cluster it is") from None
    if options.cluster is not None and os.fsencode(options.cluster) != cluster_id:
        raise Failure(ExitCode.REJECTED, "wrong_cluster", f"the node is of another cluster than {options.cluster!r}")
    envelope = AdminEnvelope(event=event, cluster_id=cluster_id, reason=options.reason)
    envelope = envelope.with_signature(key.sign(envelope))
    receipt = submit(options.node, envelope.to_text(), options.timeout)
    if options.json:
        write_json({"ok": True, **receipt})
    else:
        show(receipt_lines(receipt))
    return ExitCode.OK
