"""`meshos ice`: break-glass actions, proposed by a running node, signed anywhere, submitted together."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli import files
from meshos._cli.exits import ExitCode
from meshos._cli.keys import load, passphrase_option
from meshos._cli.nodes import receipt_lines, submit, timeout_option
from meshos._cli.output import Failure, show, write_json
from meshos._cli.values import identifier, reason, scope, span, ttl

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshos._frames import Message
    from meshos.operator import IceEnvelope

_ACTIONS = {
    "freeze-cluster": "stop all reconciling for a while",
    "thaw-cluster": "end a freeze",
    "flush-avoid-lists": "take peers off avoid lists",
    "force-evict-replica": "evict a chain from a node",
    "force-restart-daemon": "release the backoff of a daemon and start it",
    "force-cutover": "place a chain on a node, whatever the scorer thinks",
    "kill-migration": "abort the move of a daemon",
}
_REQUIRED = {"node": "--node", "reason": "--reason", "out": "--out"}


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    propose = command(
        "ice propose",
        _propose,
        "have a node simulate an action, and write what is to be signed",
        "Have a running node simulate a break-glass action on its live view, and write what operators are to sign.",
    )
    _propose_options(propose)
    actions = propose.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, does in _ACTIONS.items():
        action = actions.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        _propose_options(action)
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
        _arguments(name, action)

    look = command("ice show", _show, "show an envelope", "Show everything that is signed, and who signed it.")
    look.add_argument("file", type=Path, metavar="FILE", help="the envelope")

    sign = command(
        "ice sign",
        _sign,
        "sign an envelope, also where there is no node",
        "Show a break-glass envelope, ask, and sign it. On a terminal it always asks.",
    )
    sign.add_argument("file", type=Path, metavar="FILE", help="the envelope; the signature is added to it")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the key file to sign with")
    passphrase_option(sign)
    sign.add_argument("--out", type=Path, metavar="FILE", help="write a new file instead")
    sign.add_argument("--force", action="store_true", help="with --out: replace an envelope that is there")
    sign.add_argument("--yes", action="store_true", help="sign without being asked, where there is no terminal")

    send = command(
        "ice submit",
        _submit,
        "have a node obey a signed envelope",
        "Put the signatures of several files of one envelope together, and have a running node obey it.",
    )
    send.add_argument("file", type=Path, nargs="+", metavar="FILE", help="the envelope, with some of its signatures")
    send.add_argument("--node", type=Path, required=True, metavar="SOCKET", help="the operator socket of the node")
    timeout_option(send)


def _propose_options(parser: argparse.ArgumentParser) -> None:
    """Add what may stand before the action and after it."""
    silent = argparse.SUPPRESS
    parser.add_argument(
        "--node", type=Path, default=silent, metavar="SOCKET", help="the operator socket of the node; required"
    )
    parser.add_argument("--reason", type=reason, default=silent, metavar="TEXT", help="why; it is signed; required")
    parser.add_argument("--out", type=Path, default=silent, metavar="FILE", help="the envelope to write; required")
    parser.add_argument("--valid-for", type=span, default=silent, metavar="D", help="how long it is good; default: 5m")
    parser.add_argument("--force", action="store_true", default=silent, help="replace an envelope that is there")


def _arguments(name: str, parser: argparse.ArgumentParser) -> None:
    match name:
        case "freeze-cluster":
            parser.add_argument("--ttl", type=ttl, required=True, metavar="D", help="for how long: 1s to 24h")
        case "flush-avoid-lists":
            parser.add_argument(
                "--scope", type=scope, required=True, metavar="S", help="global, local:NODE or on-peer:PEER"
            )
        case "force-evict-replica":
            parser.add_argument("chain", type=identifier, metavar="CHAIN", help="which chain")
            parser.add_argument("victim", type=identifier, metavar="VICTIM", help="from which node")
        case "force-restart-daemon":
            parser.add_argument("daemon", type=identifier, metavar="ID", help="which daemon")
            parser.add_argument("--name", metavar="TEXT", help="its name; default: what the node calls it")
        case "force-cutover":
            parser.add_argument("chain", type=identifier, metavar="CHAIN", help="which chain")
            parser.add_argument("target", type=identifier, metavar="TARGET", help="on which node")
        case "kill-migration":
            parser.add_argument("migration", type=identifier, metavar="ID", help="the daemon that moves")
        case _:
            pass


# ---------------------------------------------------------------- propose


def _wanted(options: argparse.Namespace) -> Message:
    """Write the action as a request has it."""
    wanted: Message = {"kind": options.action.replace("-", "_")}
    match options.action:
        case "freeze-cluster":
            from meshos._plain import milliseconds

            wanted["ttl_ms"] = milliseconds(options.ttl)
        case "flush-avoid-lists":
            wanted["scope"] = dict(options.scope)
        case "force-restart-daemon":
            named = {} if options.name is None else {"name": options.name}
            wanted["daemon"] = {"id": f"{options.daemon:#x}", **named}
        case _:
            for name in ("chain", "victim", "target", "migration"):
                if (number := getattr(options, name, None)) is not None:
                    wanted[name] = f"{number:#x}"
    return wanted


def _propose(options: argparse.Namespace) -> ExitCode:
    from meshos import _plain
    from meshos._node_client import NodeClient
    from meshos.operator import IceEnvelope

    missing = [option for name, option in _REQUIRED.items() if not hasattr(options, name)]
    if missing:
        raise Failure(ExitCode.USAGE, "usage", f"the following arguments are required: {', '.join(missing)}")
    wanted = _wanted(options)
    fields: Message = {"action": wanted, "reason": options.reason}
    if hasattr(options, "valid_for"):
        fields["valid_for_ms"] = _plain.milliseconds(options.valid_for)
    with NodeClient(options.node) as client:
        answer = client.ask("propose", fields)
    envelope = IceEnvelope.from_text(str(answer.get("envelope")))
    if envelope.action != _plain.action(wanted) or envelope.reason != options.reason or envelope.signatures:
        raise Failure(ExitCode.UNREACHABLE, "bad_frame", "the node proposed something else than it was asked for")
    files.write(options.out, envelope, armoured=True, replace=getattr(options, "force", False))
    if options.json:
        write_json({"ok": True, "file": str(options.out), **_written(envelope)})
    else:
        from meshos._cli.preview import lines

        show(lines(envelope))
    return ExitCode.OK


# ---------------------------------------------------------------- show, sign


def _written(envelope: IceEnvelope) -> Message:
    from meshos import _plain
    from meshos._cli.preview import signers

    signed = signers(envelope)
    return {
        **_plain.envelope(envelope),
        "signatures": [{"operator_id": _plain.handle(each.operator_id), "fits": each.fits} for each in signed],
        "missing": max(0, envelope.threshold - len({each.operator_id for each in signed if each.fits})),
    }


def _show(options: argparse.Namespace) -> ExitCode:
    from meshos._cli.preview import lines, signers

    envelope = files.read(options.file).envelope
    fits = all(each.fits for each in signers(envelope))
    if options.json:
        write_json({"ok": fits, **_written(envelope)})
    else:
        show(lines(envelope))
    return ExitCode.OK if fits else ExitCode.SIGNATURE


def _sign(options: argparse.Namespace) -> ExitCode:
    from meshos import _keyfile
    from meshos._cli.preview import lines, target
    from meshos._cli.terminal import confirm
    from meshos._plain import handle

    envelope, armoured = files.read(options.file)
    _keyfile.look(str(options.key))
    for line in lines(envelope):
        print(line, file=sys.stderr if options.json else sys.stdout)
    sys.stdout.flush()
    # What can be wrong with the key is found before anybody is asked whether to sign.
    key = load(options.key, options.passphrase_file)
    who = handle(key.operator_id)
    confirm(target(envelope.action), f"sign this as operator {who}", yes=options.yes)
    # Others may have signed the same file meanwhile; what is signed is what was shown.
    now = files.read(options.file).envelope
    if now.signing_bytes() != envelope.signing_bytes():
        message = f"{options.file}: holds another envelope than was shown"
        raise Failure(ExitCode.UNREADABLE, "different_envelopes", message)
    signed = now.with_signatures([key.sign(envelope)])
    out = options.file if options.out is None else options.out
    files.write(out, signed, armoured=armoured, replace=options.out is None or options.force)
    if options.json:
        write_json({"ok": True, "file": str(out), "operator_id": who, **_written(signed)})
    else:
        show((f"signed by   {who}",))
    return ExitCode.OK


# ---------------------------------------------------------------- submit


def _merged(paths: list[Path]) -> IceEnvelope:
    """Return one envelope with the signatures of all files; raises `Failure` where they are not of one envelope."""
    first = files.read(paths[0]).envelope
    merged = first
    for path in paths[1:]:
        other = files.read(path).envelope
        if other.signing_bytes() != first.signing_bytes():
            message = f"{path}: is of another envelope than {paths[0]}"
            raise Failure(ExitCode.USAGE, "different_envelopes", message)
        merged = merged.with_signatures(other.signatures)
    return merged


def _submit(options: argparse.Namespace) -> ExitCode:
    receipt = submit(options.node, _merged(options.file).to_text(), options.timeout)
    if options.json:
        write_json({"ok": True, **receipt})
    else:
        show(receipt_lines(receipt))
    return ExitCode.OK
