"""`meshos audit`: what was commanded, from a running node or from files of records."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meshos._cli.exits import ExitCode, code_of
from meshos._cli.nodes import node_option, text
from meshos._cli.output import Failure, plain, show, write_json
from meshos._cli.values import digest, identifier, moment, since

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator
    from typing import Literal

    from meshos._frames import Message
    from meshos.identity import EntityId

T = TypeVar("T")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    tail = command("audit tail", _tail, "show the newest commands of a running node", "Show what a node still holds.")
    node_option(tail)
    _filters(tail)

    look = command("audit show", _show, "show the records of a file", "Check a file of records, and show them.")
    look.add_argument("file", type=Path, metavar="FILE", help="the file of records, or the folder of a store")
    _of_store(look)
    _filters(look)

    verify = command(
        "audit verify",
        _verify,
        "check a file of records",
        "Check every link of a file of records.",
    )
    verify.add_argument("file", type=Path, metavar="FILE", help="the file of records, or the folder of a store")
    _of_store(verify)
    verify.add_argument("--signer", type=digest, metavar="HEX", help="the public key that must have signed all of it")
    verify.add_argument("--head", type=digest, metavar="HEX", help="the digest that the file is known to end with")
    replay = command(
        "audit replay",
        _replay,
        "tell what the commands of a file had decided",
        "Check a file of audit records, and rebuild from it what commands alone had decided.",
    )
    replay.add_argument("file", type=Path, metavar="FILE", help="the file of audit records, or the folder of a store")
    replay.add_argument("--at", type=moment, metavar="T", help="only what was recorded until then, and what holds then")
    replay.add_argument("--digest", type=digest, metavar="HEX", help="the digest that has to come out")


def _of_store(parser: argparse.ArgumentParser) -> None:
    """Add which records of a store; a file has one sort."""
    sorts = ("audit", "log", "failure", "action")
    parser.add_argument("--records", choices=sorts, default="audit", help="which records of a store; default: audit")


def _filters(parser: argparse.ArgumentParser) -> None:
    """Add which records; all conditions hold together."""
    parser.add_argument("--since", type=since, default=0, metavar="S", help="only after this number, or point in time")
    parser.add_argument("--operator", type=identifier, metavar="ID", help="only what this operator signed")
    parser.add_argument("--verdict", choices=("accepted", "rejected", "unverified"), help="only what came out so")
    parser.add_argument("--kind", metavar="KIND", help="only this command or action, such as cordon or start_daemon")


def _fitting(options: argparse.Namespace, records: Iterable[Message]) -> list[Message]:
    """Return the records that fulfil every condition; one without what a condition is about does not."""
    from meshos._plain import handle, moment

    after: int | str | None = moment(options.since) if isinstance(options.since, datetime) else options.since
    wanted = None if options.operator is None else handle(options.operator)

    def fits(record: Message) -> bool:
        operators, event = record.get("operator_ids"), record.get("event")
        kind = event.get("kind") if isinstance(event, dict) else record.get("action")
        at = record.get("committed_at", record.get("at"))
        seq = record.get("seq")
        return (
            ((isinstance(after, str) and str(at) > after) or (isinstance(after, int) and int(str(seq)) > after))
            and (wanted is None or (isinstance(operators, list) and wanted in operators))
            and (options.verdict is None or record.get("verdict") == options.verdict)
            and (options.kind is None or kind == options.kind)
        )

    return [record for record in records if fits(record)]


# ---------------------------------------------------------------- a running node


def _tail(options: argparse.Namespace) -> ExitCode:
    from meshos._node_client import NodeClient

    records: list[Message] = []
    newest = options.since if isinstance(options.since, int) else 0
    with NodeClient(options.node) as client:
        while True:
            found = client.ask("audit", {"since": newest}).get("records")
            page = [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []
            # A node that says anything else would have this go on for ever.
            numbers = [seq for record in page if isinstance(seq := record.get("seq"), int) and seq > newest]
            if not numbers or len(numbers) != len(page):
                break
            records += page
            newest = max(numbers)
    return _tell(options, _fitting(options, records))


# ---------------------------------------------------------------- a file


def _show(options: argparse.Namespace) -> ExitCode:
    from meshos._plain import record
    from meshos.audit import read_records

    return _tell(
        options,
        _fitting(
            options, map(record, _checked(options.file, lambda: read_records(options.file, kind=options.records)))
        ),
    )


def _verify(options: argparse.Namespace) -> ExitCode:
    from meshos.identity import EntityId

    signer = None if options.signer is None else EntityId(options.signer)
    return verify(options.file, signer, options.head, kind=options.records, as_json=options.json)


def verify(
    file: Path,
    signer: EntityId | None,
    head: bytes | None,
    *,
    kind: Literal["audit", "log", "failure", "action"] = "audit",
    as_json: bool,
) -> ExitCode:
    """Check a file of records, or those of a store, and say what it proves; raises `Failure`, `OSError`."""
    from meshos.audit import verify_records

    report = _checked(file, lambda: verify_records(file, kind=kind, signer=signer, head_digest=head))
    signed = report.signed_through
    holds = signer is None or signed >= report.records
    found: dict[str, object] = {
        "ok": holds,
        "records": report.records,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "head_digest": report.head_digest.hex(),
        "signed_through": signed,
    }
    if as_json:
        write_json(found)
    else:
        verdict = "ok" if holds else f"FAILED: records {signed + 1} to {report.records} are not signed for"
        show((f"{verdict}: {report.records} records", f"head    {report.head_digest.hex()}", f"signed  {signed}"))
    return ExitCode.OK if holds else ExitCode.FAILED


def _replay(options: argparse.Namespace) -> ExitCode:
    from meshos import _plain
    from meshos.audit import replay_records

    report = _checked(options.file, lambda: replay_records(options.file, at=options.at))
    holds = options.digest in (None, report.digest)
    found = _plain.replay(report)
    if options.json:
        write_json({"ok": holds, **found})
    else:
        show(_replayed(found, holds=holds))
    return ExitCode.OK if holds else ExitCode.FAILED


def _replayed(found: Message, *, holds: bool) -> Iterator[str]:
    verdict = "ok" if holds else "FAILED: another digest comes out"
    yield f"{verdict}: {text(found, 'records')} records of {text(found, 'runs')} runs"
    yield f"commands     {text(found, 'accepted')} obeyed, {text(found, 'rejected')} refused"
    yield f"at           {text(found, 'at')}"
    yield f"frozen       {'no' if found['freeze_until'] is None else 'until ' + text(found, 'freeze_until')}"
    yield f"cordoned     {', '.join(_listed(found['cordoned'])) or 'none'}"
    for each in _listed(found["maintenance"]):
        by = "" if text(each, "deadline") == "none" else f", by {text(each, 'deadline')}"
        back = ", comes back by itself" if text(each, "returns") == "True" else ""
        yield f"maintenance  {text(each, 'node')} since {text(each, 'since')}{by}{back}"
    for each in _listed(found["forced"]):
        about = f"{text(each, 'order')} of chain {text(each, 'chain')}, node {text(each, 'node')}"
        yield f"forced       {about}, until {text(each, 'until')}"
    yield f"envelopes    {text(found, 'envelopes')} remembered"
    yield f"digest       {text(found, 'digest')}"


def _listed(found: object) -> list[Any]:
    return found if isinstance(found, list) else []


def _checked(file: Path, call: Callable[[], T]) -> T:
    """Call what checks a file, and name the file in what is wrong with it."""
    from meshos.errors import ChainError

    try:
        return call()
    except ChainError as error:
        about = {name: getattr(error, name) for name in ("sequence", "offset") if hasattr(error, name)}
        name = type(error).__name__
        raise Failure(code_of(error.kind), error.kind, f"{file}: {name}: {error}", error=name, **about) from None


def _tell(options: argparse.Namespace, records: list[Message]) -> ExitCode:
    if options.json:
        write_json({"ok": True, "records": [*records]})
    else:
        show(map(_line, records))
    return ExitCode.OK


def _line(record: Message) -> str:
    """Write any record as one line."""
    seq, at = text(record, "seq"), text(record, "committed_at" if "committed_at" in record else "at")
    if "event" in record:
        return f"{seq}  {at}  {_command(record)}"
    if "message" in record:
        daemon = "" if record.get("daemon") is None else f" {text(record, 'daemon')}"
        return f"{seq}  {at}  {text(record, 'level')}{daemon}: {text(record, 'message')}"
    if "action" in record:
        named = f"{text(record, 'action')} {text(record, 'action_id')}"
        return f"{seq}  {at}  {named} {text(record, 'disposition')}: {text(record, 'reason')}"
    source = f"{text(record, 'source', 'part')} {text(record, 'source', 'name')}"
    return f"{seq}  {at}  {source}: {text(record, 'reason')}"


def _command(record: Message) -> str:
    event, operators = record.get("event"), record.get("operator_ids")
    fields = event if isinstance(event, dict) else {}
    about = "".join(f" {plain(name)}={plain(str(value))}" for name, value in fields.items() if name != "kind")
    who = ",".join(map(str, operators)) if isinstance(operators, list) and operators else "nobody"
    times = "" if record.get("times", 1) == 1 else f", {text(record, 'times')} times"
    why = "" if record.get("rejected_kind") is None else f" ({text(record, 'rejected_kind')}{times})"
    verdict = f"{text(record, 'verdict')}{why}"
    return f"{verdict}  {text(record, 'event', 'kind')}{about}  by {plain(who)}: {text(record, 'reason')}"
