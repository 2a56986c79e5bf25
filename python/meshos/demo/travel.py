"""The demo of moves: flights go through daemons of three nodes, and every carrier's daemon moves twice meanwhile.

The first node sends rows to a reader on the second, which sends what counts of each to the daemon of its carrier.
Those begin on the third node, go to the first and from there to the second, while they are sent to. An alarm goes to a
pager, wherever its sender is.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from meshos.chain import CausalEvent
from meshos.compute import DaemonRuntime
from meshos.daemon import Output
from meshos.demo.carrier import Totals
from meshos.demo.flights import rows
from meshos.demo.pipeline import (
    CONFIG,
    PATIENCE,
    Pager,
    Parser,
    Statistics,
    _alarms,
    _compare,
    _finish_statistics,
    _late,
    _verify,
    identity_of,
)
from meshos.demo.plain import count
from meshos.demo.report import Progress, all_hold, grid
from meshos.identity import Identity
from meshos.mesh import Mesh
from meshos.migration import MigrationOutcome

BATCH = 256
"""Rows that are sent together."""
PAGER = Identity.from_seed(hashlib.sha256(b"meshos demo of moves, pager").digest())


class Traveller(Statistics):
    """Keeps the totals of one carrier wherever it is, and sends an alarm to the pager."""

    name = "traveller"

    def process(self, event: CausalEvent) -> Output | None:
        """Take one flight."""
        alarm = super().process(event)
        return None if alarm is None else Output(event.payload, to=PAGER.origin_hash)

    def snapshot(self) -> bytes:
        """Return the totals."""
        return json.dumps([self.flights, [month.as_row() for month in self.months]]).encode()

    def restore(self, state: bytes) -> None:
        """Take the totals over."""
        self.flights, months = json.loads(state)
        self.months = [Totals(*row) for row in months]


Moves = dict[str, list[MigrationOutcome]]


def run(path: Path, out: TextIO, progress: TextIO | None) -> bool:
    """Run the demo on a file, and return whether all of it held.

    Raises:
        FlightFileError: The file is something else than a table of flights.
        OSError: It cannot be read.
        MeshOsError: A part of the mesh did not answer in time, or a move came to nothing.
    """
    print(f"counting {path.name} straight, for the comparison", file=out, flush=True)
    plain, late = count(path), _late(path)
    total = sum(map(len, late.values()))
    print(f"sending {plain.rows:,} departures while {len(plain.months)} daemons move twice", file=out, flush=True)
    nodes = Mesh.local_cluster(3)
    with (
        TemporaryDirectory(prefix="meshos-demo-") as folder,
        DaemonRuntime(nodes[0]) as first,
        DaemonRuntime(nodes[1]) as second,
        DaemonRuntime(nodes[2]) as third,
    ):
        for runtime in (first, second, third):
            for kind in (Parser, Traveller, Pager):
                runtime.register_factory(kind.name, kind)
            runtime.start()
        identities = {carrier: identity_of(carrier.encode()) for carrier in plain.months}
        for identity in identities.values():
            third.spawn(Traveller.name, identity, CONFIG)
        parser_identity = Identity.generate()
        parser = second.spawn(Parser.name, parser_identity, CONFIG).origin_hash
        pager = first.spawn(Pager.name, PAGER, CONFIG).origin_hash

        moves: Moves = {carrier: [] for carrier in identities}
        began = time.perf_counter()
        with Progress(plain.rows, progress) as shown:
            half_way = threading.Event()
            failures: list[BaseException] = []
            mover = threading.Thread(target=_move, args=(third, nodes, identities, moves, half_way, failures))
            mover.start()
            try:
                _send(path, first, parser, shown, half_way, plain.rows // 2)
            finally:
                half_way.set()
                mover.join()
            if failures:
                raise failures[0]
            second.wait_for(parser, Parser, lambda daemon: daemon.rows >= plain.rows, timeout=PATIENCE)
            for carrier, identity in identities.items():
                _finish_statistics(second, identity, sum(month.flights for month in plain.months[carrier]))
            first.wait_for(pager, Pager, lambda daemon: len(daemon.alarms) >= total, timeout=PATIENCE)
        seconds = time.perf_counter() - began
        print(f"{plain.rows:,} rows in {seconds:.2f} s, {plain.rows / seconds:,.0f}/s\n", file=out)

        months = {
            carrier: second.with_daemon(identity.origin_hash, Traveller, lambda daemon: daemon.months)
            for carrier, identity in identities.items()
        }
        alarms = first.with_daemon(pager, Pager, lambda daemon: daemon.alarms)
        chains = {"parser": (second, parser_identity)}
        chains |= {f"statistics of {carrier}": (second, identity) for carrier, identity in identities.items()}
        doubts, links = _verify(chains, Path(folder))
        print(_table(moves), end="\n\n", file=out)
        return all_hold(
            {
                f"all totals of {len(months)} daemons equal the straight count": _compare(plain, months),
                f"{total:,} alarms came once, each carrier's in order": _alarms(late, alarms),
                f"{2 * len(moves)} moves, each to the next epoch": _epochs(moves),
                f"{len(chains)} chains with {links:,} links and every lineage verified from their public keys": iter(
                    doubts
                ),
            },
            out,
        )


def _send(
    path: Path, runtime: DaemonRuntime, parser: int, shown: Progress, half_way: threading.Event, half: int
) -> None:
    batch: list[bytes] = []
    for number, row in enumerate(rows(path), 1):
        batch.append(row)
        if len(batch) == BATCH:
            runtime.send_many(parser, batch)
            batch.clear()
            shown.at(number)
        if number >= half:
            half_way.set()
    if batch:
        runtime.send_many(parser, batch)


def _move(
    runtime: DaemonRuntime,
    nodes: list[Mesh],
    identities: dict[str, Identity],
    moves: Moves,
    half_way: threading.Event,
    failures: list[BaseException],
) -> None:
    """Move each daemon to the first node, and when half of the rows are sent to the second."""
    first, second, third = (node.node_id for node in nodes)
    try:
        for source, target in ((third, first), (first, second)):
            for carrier, identity in identities.items():
                ordered = runtime.start_migration(identity.origin_hash, source, target)
                moves[carrier].append(ordered.wait(PATIENCE))
            half_way.wait()
    except BaseException as error:
        failures.append(error)


def _epochs(moves: Moves) -> Iterator[str]:
    for carrier, made in moves.items():
        if [outcome.epoch for outcome in made] != [2, 3]:
            yield f"{carrier}: epochs {[outcome.epoch for outcome in made]}"


def _table(moves: Moves) -> str:
    head = ["carrier", "epoch", "blackout", "bytes", "epoch", "blackout", "bytes"]
    body = [
        [
            carrier,
            *(
                cell
                for outcome in made
                for cell in (
                    f"{outcome.epoch}",
                    f"{outcome.blackout.total_seconds() * 1000:.2f} ms",
                    f"{outcome.bytes_moved:,}",
                )
            ),
        ]
        for carrier, made in moves.items()
    ]
    return grid([head, *body], left=(0,))
