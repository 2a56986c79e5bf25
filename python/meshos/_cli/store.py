"""`meshos inspect` and `meshos verify` of the folder of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meshos._cli.exits import ExitCode
from meshos._cli.output import plain, show, write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from meshos.store import StoreContents, StoredDaemon


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = (
        "Show what the folder of a store holds. It needs no key, and calls no user code; no process may have it open."
    )
    inspect = command("inspect", _inspect, "show what a store holds", text)
    inspect.add_argument("folder", type=Path, metavar="DIR", help="the folder of the store")

    stats = command(
        "store stats", _stats, "show how much a store holds", f"{text} Only the totals, without its daemons."
    )
    stats.add_argument("folder", type=Path, metavar="DIR", help="the folder of the store")


def _stats(options: argparse.Namespace) -> ExitCode:
    from meshos.store import inspect

    found = inspect(options.folder)
    counted = _counted(found)
    if options.json:
        write_json({"ok": True, **counted})
    else:
        show(f"{name:<15}{count:,}" for name, count in counted.items())
    return ExitCode.OK


def _inspect(options: argparse.Namespace) -> ExitCode:
    from meshos.store import inspect

    found = inspect(options.folder)
    if options.json:
        write_json({"ok": True, **_plain(found)})
    else:
        show(_lines(found))
    return ExitCode.OK


def verify(folder: Path, *, as_json: bool) -> ExitCode:
    """Check the folder of a store."""
    from meshos.store import verify as check

    proof = check(folder)
    if as_json:
        write_json({"ok": True, **proof._asdict()})
    else:
        show([f"ok: {', '.join(f'{count:,} {name}' for name, count in proof._asdict().items())}"])
    return ExitCode.OK


def _plain(found: StoreContents) -> dict[str, object]:
    return {
        "node": found.node.hex(),
        **_counted(found),
        "daemons": [_daemon(each) for each in found.daemons],
    }


def _counted(found: StoreContents) -> dict[str, int]:
    stats = found.stats
    return {
        "daemons": stats.daemons,
        "commits": stats.commits,
        "journal_bytes": stats.journal_bytes,
        "snapshot_bytes": stats.snapshot_bytes,
        "file_bytes": stats.file_bytes,
        "dead_letters": stats.dead_letters,
        "bytes_cut": found.bytes_cut,
    }


def _daemon(found: StoredDaemon) -> dict[str, object]:
    fields = found._asdict()
    fields["entity_id"] = found.entity_id.hex()
    fields["origin"] = f"0x{found.entity_id.origin_hash:016x}"
    fields["head"] = found.head.hex()
    return fields


def _lines(found: StoreContents) -> Iterator[str]:
    stats = found.stats
    yield f"node       {found.node.hex()}"
    yield f"commits    {stats.commits:,}"
    yield f"bytes      {stats.file_bytes:,} in files, of them {stats.snapshot_bytes:,} of snapshots"
    yield f"log        {stats.journal_bytes:,} bytes not in the tree yet"
    yield f"cut        {found.bytes_cut:,} bytes at the end that were no whole commit"
    yield f"daemons    {len(found.daemons)}"
    yield f"letters    {stats.dead_letters:,} dead"
    for each in found.daemons:
        what = plain(each.kind) if each.problem is None else f"unreadable: {plain(each.problem)}"
        yield ""
        yield f"0x{each.entity_id.origin_hash:016x}  {what}{'' if each.runs or each.problem else ', stopped'}"
        yield f"  entity    {each.entity_id.hex()}"
        yield f"  chain     {each.sequence:,} events, epoch {each.epoch}, head {each.head.hex()}"
        yield f"  journal   {each.steps:,} inputs, {each.to_replay:,} since the newest snapshot"
        yield f"  snapshots {each.snapshots}, {each.snapshot_bytes:,} bytes"
        yield f"  kept      {each.input_bytes:,} bytes of inputs, {each.output_bytes:,} of outputs"
        if each.dead_letters:
            yield f"  dead      {each.dead_letters:,} letters"
