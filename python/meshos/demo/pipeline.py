"""The demo of a mesh: flights go through daemons of three nodes, and the alarms of it are read with a token only.

The first node publishes rows. A daemon of the second reads each row and sends what counts of it to the daemon of its
carrier, on the third node. That one keeps the totals, and publishes an alarm for a departure that was very late; a
daemon of the first node reads the alarms.
"""

import csv
import hashlib
import io
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, TextIO

from meshos.chain import CausalEvent, verify_chain
from meshos.channel import ChannelName, ChannelPolicy, Right
from meshos.compute import DaemonRuntime
from meshos.daemon import DaemonHostConfig, MeshDaemon, Output
from meshos.demo.carrier import Totals
from meshos.demo.flights import CARRIER, DEP_DELAY, DEP_TIME, MONTH, NA, open_flights, rows
from meshos.demo.plain import Plain, count
from meshos.demo.report import AIRLINES, Progress, all_hold, grid
from meshos.errors import MeshOsError, SubscribeRejected
from meshos.identity import Identity
from meshos.mesh import Mesh

ROWS = ChannelName("flights/rows")
ALARMS = ChannelName("flights/alarms")
LATE = 300
"""Minutes after which a departure is an alarm."""
AHEAD = 8_192
"""Rows that the publisher may be ahead of who reads them."""
PATIENCE = timedelta(seconds=60)
CONFIG = DaemonHostConfig(outputs_max=1_000_000, outputs_bytes_max=1 << 30)
"""All outputs are kept, so that the chains can be verified from their first event on."""

FLIGHT = struct.Struct("<2sB?h")
"""What counts of a row: carrier, month, whether it was cancelled, delay of the departure in minutes."""
UNKNOWN = -(1 << 15)
"""The delay of a flight whose delay is not known."""


def identity_of(carrier: bytes) -> Identity:
    """Return the key of a carrier's daemon: who sends to it needs no directory."""
    return Identity.from_seed(hashlib.sha256(b"meshos demo of a mesh, " + carrier).digest())


class Parser(MeshDaemon):
    """Reads rows, and sends what counts of them to the daemons of their carriers."""

    name = "parser"

    def __init__(self) -> None:
        self.rows = 0
        self._origins: dict[bytes, int] = {}

    def process(self, event: CausalEvent) -> Output:
        """Read one row."""
        fields = event.payload.split(b",", CARRIER + 1)
        carrier, delay = fields[CARRIER], fields[DEP_DELAY]
        minutes = UNKNOWN if delay == NA else int(delay)
        flight = FLIGHT.pack(carrier, int(fields[MONTH]), fields[DEP_TIME] == NA, minutes)
        if carrier not in self._origins:
            self._origins[carrier] = identity_of(carrier).origin_hash
        self.rows += 1
        return Output(flight, to=self._origins[carrier])


class Statistics(MeshDaemon):
    """Keeps the totals of one carrier, and says when a departure was very late."""

    name = "statistics"
    late: ClassVar[int] = LATE

    def __init__(self) -> None:
        self.flights = 0
        self.months = [Totals() for _ in range(12)]

    def process(self, event: CausalEvent) -> Output | None:
        """Take one flight."""
        _, month, cancelled, delay = FLIGHT.unpack(event.payload)
        totals = self.months[month - 1]
        totals.flights += 1
        totals.cancelled += cancelled
        self.flights += 1
        if delay == UNKNOWN:
            return None
        totals.add_delay(delay)
        return Output(event.payload, channel=ALARMS) if delay >= self.late else None


class Pager(MeshDaemon):
    """Keeps the alarms, in the order in which they came."""

    name = "pager"

    def __init__(self) -> None:
        self.alarms: list[bytes] = []
        self.sources: set[tuple[int | None, str | None]] = set()

    def process(self, event: CausalEvent) -> None:
        """Take one alarm."""
        self.alarms.append(event.payload)
        self.sources.add((event.publisher, event.channel))


def run(path: Path, out: TextIO, progress: TextIO | None) -> bool:
    """Run the demo on a file, and return whether all of it held.

    Raises:
        FlightFileError: The file is something else than a table of flights.
        OSError: It cannot be read.
        MeshOsError: A part of the mesh did not answer in time.
    """
    print(f"counting {path.name} straight, for the comparison", file=out, flush=True)
    plain, late = count(path), _late(path)
    print(f"sending {plain.rows:,} departures through {len(plain.months) + 2} daemons of three nodes", file=out)
    out.flush()
    airport, office, centre = Mesh.local_cluster(3)
    with (
        TemporaryDirectory(prefix="meshos-demo-") as folder,
        DaemonRuntime(airport) as outside,
        DaemonRuntime(office) as middle,
        DaemonRuntime(centre) as inside,
    ):
        for runtime, kinds in ((outside, [Pager]), (middle, [Parser]), (inside, [Statistics])):
            for kind in kinds:
                runtime.register_factory(kind.name, kind)
            runtime.start()
        centre.open_channel(ALARMS, ChannelPolicy(requires_token=True))
        identities = {carrier: identity_of(carrier.encode()) for carrier in plain.months}
        for identity in identities.values():
            inside.spawn(Statistics.name, identity, CONFIG)
        parser_identity, pager_identity = Identity.generate(), Identity.generate()
        parser = middle.spawn(Parser.name, parser_identity, CONFIG).origin_hash
        pager = outside.spawn(Pager.name, pager_identity).origin_hash

        middle.subscribe_channel(parser, airport.node_id, ROWS)
        refused = _refused(outside, pager, centre)
        token = centre.issue_token(
            pager_identity.entity_id, ALARMS, rights=[Right.SUBSCRIBE], ttl=timedelta(minutes=30)
        )
        outside.subscribe_channel(pager, centre.node_id, ALARMS, token)

        began = time.perf_counter()
        with Progress(plain.rows, progress) as shown:
            _publish(path, airport, middle, parser, shown)
            _wait(middle, parser, plain.rows)
            for carrier, identity in identities.items():
                expected = sum(month.flights for month in plain.months[carrier])
                _finish_statistics(inside, identity, expected)
            total = sum(map(len, late.values()))
            outside.wait_for(pager, Pager, lambda daemon: len(daemon.alarms) >= total, timeout=PATIENCE)
        seconds = time.perf_counter() - began
        print(f"{plain.rows:,} rows in {seconds:.2f} s, {plain.rows / seconds:,.0f}/s\n", file=out)

        months = {
            carrier: inside.with_daemon(identity.origin_hash, Statistics, lambda daemon: daemon.months)
            for carrier, identity in identities.items()
        }
        alarms, sources = outside.with_daemon(pager, Pager, lambda daemon: (daemon.alarms, daemon.sources))
        chains = {"parser": (middle, parser_identity)}
        chains |= {f"statistics of {carrier}": (inside, identity) for carrier, identity in identities.items()}
        doubts, links = _verify(chains, Path(folder))
        print(_table(plain, late, alarms), end="\n\n", file=out)
        return all_hold(
            {
                f"all totals of {len(months)} daemons equal the straight count": _compare(plain, months),
                f"{total:,} alarms came once, each carrier's in order": _alarms(late, alarms),
                "they came from the node and the channel that they were read from": iter(
                    [] if sources <= {(centre.node_id, ALARMS)} else [f"{sources}"]
                ),
                "without a token the alarms could not be read": iter(refused),
                f"{len(chains)} chains with {links:,} links verified from their public keys": iter(doubts),
            },
            out,
        )


def _refused(runtime: DaemonRuntime, pager: int, centre: Mesh) -> list[str]:
    """Return what speaks against that a daemon without a token is refused."""
    try:
        runtime.subscribe_channel(pager, centre.node_id, ALARMS)
    except SubscribeRejected as error:
        return [] if error.kind == "unauthorized" else [f"refused as {error.kind}"]
    return ["it could subscribe"]


def _publish(path: Path, airport: Mesh, middle: DaemonRuntime, parser: int, shown: Progress) -> None:
    """Publish all rows, not too far ahead of who reads them."""
    for number, row in enumerate(rows(path), 1):
        airport.publish(ROWS, row)
        if number % (AHEAD // 2) == 0:
            shown.at(number)
            _wait(middle, parser, number - AHEAD)


def _wait(runtime: DaemonRuntime, parser: int, expected: int) -> None:
    runtime.wait_for(parser, Parser, lambda daemon: daemon.rows >= expected, timeout=PATIENCE)


def _finish_statistics(runtime: DaemonRuntime, identity: Identity, expected: int) -> None:
    origin = identity.origin_hash
    runtime.wait_for(origin, Statistics, lambda daemon: daemon.flights >= expected, timeout=PATIENCE)


def _late(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Return month and delay of the very late departures of each carrier, in file order."""
    late: dict[str, list[tuple[int, int]]] = {}
    with open_flights(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        for row in csv.DictReader(text):
            if row["dep_delay"] != "NA" and int(row["dep_delay"]) >= LATE:
                late.setdefault(row["carrier"], []).append((int(row["month"]), int(row["dep_delay"])))
    return late


def _by_carrier(alarms: Iterable[bytes]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for alarm in alarms:
        carrier, month, _, delay = FLIGHT.unpack(alarm)
        found.setdefault(carrier.decode(), []).append((month, delay))
    return found


def _alarms(late: Mapping[str, list[tuple[int, int]]], alarms: list[bytes]) -> Iterator[str]:
    found = _by_carrier(alarms)
    for carrier in sorted(late.keys() | found.keys()):
        expected, came = late.get(carrier, []), found.get(carrier, [])
        if expected != came:
            yield f"{carrier}: {len(came)} came, {len(expected)} were due"


def _compare(plain: Plain, months: Mapping[str, list[Totals]]) -> Iterator[str]:
    for carrier, expected in plain.months.items():
        if months[carrier] != expected:
            flights = sum(month.flights for month in months[carrier])
            yield f"{carrier}: {flights:,} flights, {sum(month.flights for month in expected):,} in the file"


def _verify(chains: Mapping[str, tuple[DaemonRuntime, Identity]], folder: Path) -> tuple[list[str], int]:
    """Export each chain, and verify it; return what speaks against them, and how many links they have."""
    doubts: list[str] = []
    links = 0
    for number, (name, (runtime, identity)) in enumerate(chains.items()):
        file = folder / f"{number}.chain"
        try:
            runtime.export_chain(identity.origin_hash, file)
            report = verify_chain(file, identity.entity_id)
        except MeshOsError as error:
            doubts.append(f"{name}: {error}")
            continue
        links += report.events
        if report.first_sequence > 1 or report.signed_through < report.last_sequence:
            doubts.append(f"{name}: signed from {report.first_sequence} to {report.signed_through} only")
    return doubts, links


def _table(plain: Plain, late: Mapping[str, list[tuple[int, int]]], alarms: list[bytes]) -> str:
    found = Counter({carrier: len(came) for carrier, came in _by_carrier(alarms).items()})
    head = ["carrier", "", "flights", "very late", "alarms read"]
    body = [
        [
            carrier,
            AIRLINES.get(carrier, ""),
            f"{sum(month.flights for month in months):,}",
            f"{len(late.get(carrier, []))}",
            f"{found[carrier]}",
        ]
        for carrier, months in plain.months.items()
    ]
    return grid([head, *body], left=(0, 1))
