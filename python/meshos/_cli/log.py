"""`meshos log`: what an entity emitted, as the folder of a store has it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.output import Failure, plain, show, write_json
from meshos._cli.values import digest, identifier

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from meshos.chain import CausalEvent
    from meshos.store import Continuity, EntityLog, LogIndex, Span

LIMIT = 100
SHOWN_BYTES = 64


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = (
        "Show what an entity emitted, as the folder of a store has it, who spoke for it, and whether its chain is "
        "whole. It needs no key; no process may have the store open."
    )
    log = command("log", _log, "show what an entity emitted, and whether its chain is whole", text)
    log.add_argument("folder", type=Path, metavar="DIR", help="the folder of the store")
    log.add_argument("entity", type=_entity, metavar="ENTITY", help="the public key, 64 hex digits, or its id")
    log.add_argument("--after", type=_count, metavar="N", default=0, help="only events behind this sequence")
    log.add_argument("--limit", type=_count, metavar="N", default=LIMIT, help=f"events at most; default: {LIMIT}")


def _entity(text: str) -> bytes | int:
    """Read a public key, or a handle."""
    return digest(text) if len(text) == 64 else identifier(text)


def _count(text: str) -> int:
    return identifier(text)


def _log(options: argparse.Namespace) -> ExitCode:
    from meshos.store import open_logs

    with open_logs(options.folder) as index:
        log = _found(index, options.entity)
        events = islice(log.after(options.after), options.limit)
        if options.json:
            outputs = [_output(event) for event in events]
            found = log.assess()
            write_json({"ok": _is_whole(found), **_about(log), "outputs": outputs, "assessment": _plain(found)})
            return _code(found)
        show(_head(log))
        show(map(_line, events))
        found = log.assess()
        show([_verdict(found)])
        return _code(found)


def _found(index: LogIndex, wanted: bytes | int) -> EntityLog:
    from meshos.identity import EntityId

    if isinstance(wanted, int):
        logs = index.find(wanted)
        if len(logs) > 1:
            keys = ", ".join(log.entity_id.hex() for log in logs)
            raise Failure(ExitCode.USAGE, "ambiguous", f"0x{wanted:016x} is the id of several: name one of {keys}")
    else:
        log = index.get(EntityId(wanted))
        logs = () if log is None else (log,)
    if not logs:
        name = f"0x{wanted:016x}" if isinstance(wanted, int) else wanted.hex()
        raise Failure(ExitCode.UNREADABLE, "not_found", f"the store knows no entity {name}")
    return logs[0]


def _is_whole(found: Continuity) -> bool:
    return found.kind in {"continuous", "migrated"}


def _code(found: Continuity) -> ExitCode:
    return ExitCode.OK if _is_whole(found) else ExitCode.FAILED


def _about(log: EntityLog) -> dict[str, object]:
    return {
        "entity_id": log.entity_id.hex(),
        "origin": f"0x{log.origin_hash:016x}",
        "base_sequence": log.base_sequence,
        "base_digest": log.base_digest.hex(),
        "head_sequence": log.head_sequence,
        "head_digest": log.head_digest.hex(),
        "spans": [_span(span) for span in log.spans],
    }


def _span(span: Span) -> dict[str, object]:
    return {
        "epoch": span.epoch,
        "node": span.node.hex(),
        "reason": span.reason,
        "from_sequence": span.from_sequence,
        "from_digest": span.from_digest.hex(),
        "to_sequence": span.to_sequence,
        "to_digest": span.to_digest.hex(),
        "rolled_back_from": span.rolled_back_from,
    }


def _output(event: CausalEvent) -> dict[str, object]:
    link = event.link
    return {
        "sequence": link.sequence,
        "parent": f"{link.parent_hash:016x}",
        "horizon": f"{link.horizon_encoded:016x}",
        "bytes": len(event.payload),
        "payload": event.payload.hex(),
    }


def _plain(found: Continuity) -> dict[str, object]:
    """Return its fields, with bytes as hex digits."""
    plain: dict[str, object] = {"kind": found.kind}
    for name in found.__match_args__:
        value: object = getattr(found, name)
        plain[name] = value.hex() if isinstance(value, bytes) else value
    return plain


def _head(log: EntityLog) -> Iterator[str]:
    base, head = log.base_sequence, log.head_sequence
    yield f"entity  {log.entity_id.hex()}"
    yield f"events  {f'{base + 1} to {head}' if head > base else f'none, the chain is at {head}'}"
    yield f"head    {log.head_digest.hex()}"
    for span in log.spans:
        back = f", rolled back from {span.rolled_back_from}" if span.rolled_back_from is not None else ""
        yield (
            f"epoch   {span.epoch}: node {span.node.hex()}, by {span.reason}, "
            f"events {span.from_sequence + 1} to {span.to_sequence}{back}"
        )


def _line(event: CausalEvent) -> str:
    start = event.payload[:SHOWN_BYTES]
    try:
        text = plain(start.decode("ascii"))
    except UnicodeDecodeError:
        text = f"0x{start.hex()}"
    rest = "…" if len(event.payload) > SHOWN_BYTES else ""
    return f"{event.sequence:>10}  {len(event.payload):>8} bytes  {text}{rest}"


def _verdict(found: Continuity) -> str:
    from meshos.store import Continuous, Forked, Migrated

    match found:
        case Continuous() | Migrated():
            moved = ""
            if isinstance(found, Migrated):
                moved = f"; moved after {found.sequence} from {found.source.hex()} to {found.target.hex()}"
            return (
                f"{found.kind}: certain from its {found.anchor} at {found.anchored_at}, "
                f"signed through {found.signed_through}{moved}"
            )
        case Forked():
            return f"FAILED: forked at {found.sequence}: expected {found.expected.hex()}, found {found.found.hex()}"
        case _:
            return f"FAILED: unverifiable: verified through {found.last_verified}, missing from {found.gap_start}"
