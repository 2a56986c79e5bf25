"""The demo of durability: a process streams the flights into a store, is killed, and started again until all are in.

This module is both: `run` is who kills, and `python -m meshos.demo.crash FILE STATE ROWS` is who is killed.
"""

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from meshos.chain import CausalEvent
from meshos.compute import DaemonRuntime
from meshos.daemon import DaemonHostConfig
from meshos.demo.carrier import Carrier, Totals
from meshos.demo.flights import CARRIER, rows
from meshos.demo.plain import Plain, count
from meshos.demo.report import Progress, all_hold, grid
from meshos.errors import MeshOsError
from meshos.identity import Identity, OriginHash
from meshos.mesh import Mesh
from meshos.store import Store, StoreProof, verify

KILLS = 3
"""How often the process is killed."""
BATCHES = 100
"""Times at which rows are acknowledged, unless they are few or many."""
FEED = 2013
"""Origin of the rows; a row's number in the file is its sequence."""
CONFIG = DaemonHostConfig(durability="journal", auto_snapshot_interval=4_000)


@dataclass(slots=True)
class Life:
    """What one process told, until it ended or was killed."""

    daemons: int = 0
    replayed: int = 0
    """Inputs that its daemons took again."""
    seen: int = 0
    """The last row that one of them had seen."""
    ready_ms: float = 0.0
    """How long it took to bring them back."""
    since: int = 0
    """Rows acknowledged before it."""
    acknowledged: int = 0
    """Rows acknowledged at its end."""
    refused: list[str] = field(default_factory=list)
    """What went wrong."""


def identity_of(carrier: bytes) -> Identity:
    """Return the key of a carrier's daemon: the same in each life."""
    return Identity.from_seed(hashlib.sha256(b"meshos demo of durability, " + carrier).digest())


# ---------------------------------------------------------------- who is killed


def stream(path: Path, state: Path, size: int, out: TextIO) -> None:
    """Bring the daemons back, stream what they have not seen, and say after each batch how far it came."""
    with Store.open(state) as store, DaemonRuntime(Mesh.local(store=store)) as runtime:
        runtime.register_factory(Carrier.name, Carrier)
        runtime.start()
        report = runtime.recover()
        cursors = {origin: daemon.cursors.get(FEED, 0) for origin, daemon in report.daemons.items()}
        failed = [f"{daemon.error}" for daemon in report.daemons.values() if daemon.error is not None]
        replayed = sum(daemon.replayed for daemon in report.daemons.values())
        seen, took = max(cursors.values(), default=0), report.took.total_seconds() * 1000
        print("back", len(cursors), replayed, seen, took, *failed, file=out, flush=True)
        batch: dict[bytes, list[CausalEvent]] = {}
        origins: dict[bytes, OriginHash] = {}
        number = 0
        for number, row in enumerate(rows(path), 1):
            carrier = row.split(b",", CARRIER + 1)[CARRIER]
            origin = origins.get(carrier)
            if origin is None:
                identity = identity_of(carrier)
                origin = origins[carrier] = identity.origin_hash
                if origin not in cursors:
                    runtime.spawn(Carrier.name, identity, CONFIG)
                    cursors[origin] = 0
            # What was seen before the last kill would be answered as a duplicate; not to send it is faster.
            if number > cursors[origin]:
                batch.setdefault(carrier, []).append(CausalEvent.external(FEED, number, row))
            if number % size == 0:
                _deliver(runtime, origins, batch)
                print("at", number, file=out, flush=True)
        _deliver(runtime, origins, batch)
        print("at", number, file=out, flush=True)


def _deliver(
    runtime: DaemonRuntime, origins: Mapping[bytes, OriginHash], batch: dict[bytes, list[CausalEvent]]
) -> None:
    for carrier, events in batch.items():
        runtime.deliver_many(origins[carrier], events)
    batch.clear()


# ---------------------------------------------------------------- who kills


def run(path: Path, out: TextIO, progress: TextIO | None) -> bool:
    """Run the demo on a file, and return whether all of it held.

    Raises:
        FlightFileError: The file is something else than a table of flights.
        OSError: It cannot be read.
    """
    print(f"counting {path.name} straight, for the comparison", file=out, flush=True)
    plain = count(path)
    kills = sorted(random.sample(range(1, max(plain.rows, KILLS + 1)), KILLS))
    print(f"streaming {plain.rows:,} departures into a store, in a process that is killed {KILLS} times", file=out)
    out.flush()
    with TemporaryDirectory(prefix="meshos-demo-") as name:
        state = Path(name) / "state"
        began = time.perf_counter()
        with Progress(plain.rows, progress) as shown:
            lives = [*_lives(path, state, kills, shown)]
        seconds = time.perf_counter() - began
        proof = verify(state)
        kept = _totals_in(state, plain)
    print(f"{plain.rows:,} events in {seconds:.2f} s, {len(lives)} processes and all syncs included\n", file=out)
    print(_table(lives), end="\n\n", file=out)
    return all_hold(
        {
            f"all totals of {len(plain.months)} daemons equal the straight count": _compare(plain, kept),
            "what was acknowledged before a kill was there after it": _nothing_lost(lives),
            f"{_told(proof)}: every row, link and signature of the store checked": iter(()),
        },
        out,
    )


def _told(proof: StoreProof) -> str:
    return f"{proof.steps:,} inputs and {proof.outputs:,} outputs kept, {proof.snapshots} snapshots"


def _lives(path: Path, state: Path, kills: list[int], progress: Progress) -> Iterator[Life]:
    acknowledged = 0
    size = max(16, min(2_048, progress.total // BATCHES))
    for kill in (*kills, None):
        life = Life(since=acknowledged, acknowledged=acknowledged)
        command = [sys.executable, "-m", "meshos.demo.crash", str(path), str(state), str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    what, *values = line.split(maxsplit=5)
                    if what == "back":
                        life.daemons, life.replayed, life.seen = map(int, values[:3])
                        life.ready_ms = float(values[3])
                        life.refused += values[4:]
                    elif what == "at":
                        life.acknowledged = max(life.acknowledged, int(values[0]))
                        progress.at(life.acknowledged)
                    if kill is not None and life.acknowledged >= min(kill, progress.total - size):
                        process.kill()
            finally:
                process.kill()
        if kill is None and process.returncode != 0:
            life.refused.append(f"the last process ended with {process.returncode}")
        acknowledged = life.acknowledged
        yield life


def _totals_in(state: Path, plain: Plain) -> dict[str, list[Totals] | str]:
    """Bring the daemons back once more, here, and read their totals."""
    kept: dict[str, list[Totals] | str] = {}
    with Store.open(state) as store, DaemonRuntime(Mesh.local(store=store)) as runtime:
        runtime.register_factory(Carrier.name, Carrier)
        runtime.start()
        report = runtime.recover()
        for carrier in plain.months:
            origin = identity_of(carrier.encode()).origin_hash
            daemon = report.daemons.get(origin)
            if daemon is None or daemon.error is not None:
                kept[carrier] = "not there" if daemon is None else str(daemon.error)
                continue
            try:
                kept[carrier] = runtime.with_daemon(origin, Carrier, lambda found: found.months)
            except MeshOsError as error:
                kept[carrier] = str(error)
    return kept


def _table(lives: list[Life]) -> str:
    head = ["process", "daemons back", "in ms", "inputs again", "rows acknowledged"]
    body = [
        [str(number), str(life.daemons), f"{life.ready_ms:.1f}", f"{life.replayed:,}", f"{life.acknowledged:,}"]
        for number, life in enumerate(lives, 1)
    ]
    return grid([head, *body], left=())


def _compare(plain: Plain, kept: Mapping[str, list[Totals] | str]) -> Iterator[str]:
    for carrier, counted in plain.months.items():
        if kept[carrier] != counted:
            yield f"{carrier}: the daemon has {kept[carrier]}, the file {counted}"


def _nothing_lost(lives: list[Life]) -> Iterator[str]:
    for number, life in enumerate(lives, 1):
        for what in life.refused:
            yield f"process {number}: {what}"
        if life.seen < life.since:
            yield f"process {number}: row {life.since:,} was acknowledged before, and {life.seen:,} is the last there"


if __name__ == "__main__":
    stream(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.stdout)
