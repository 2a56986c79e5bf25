"""The story of the demo: stream, restart half way, compare, verify, tamper."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from meshos.chain import ChainReport, verify_chain
from meshos.compute import DaemonRuntime
from meshos.demo.fleet import Evidence, Fleet
from meshos.demo.plain import Plain, count
from meshos.demo.report import Line, Progress, all_hold, table
from meshos.errors import ChainError
from meshos.identity import EntityId
from meshos.mesh import Mesh


def run(path: Path, out: TextIO, progress: TextIO | None) -> bool:
    """Run the demo on a file, and return whether all of it held.

    Raises:
        FlightFileError: The file is something else than a table of flights.
        OSError: It cannot be read.
    """
    print(f"counting {path.name} straight, for the comparison", file=out, flush=True)
    plain = count(path)
    print(f"streaming {plain.rows:,} departures through one daemon per carrier", file=out, flush=True)
    with TemporaryDirectory(prefix="meshos-demo-") as name:
        folder = Path(name)
        with DaemonRuntime(Mesh.local()) as runtime:
            fleet = Fleet(runtime)
            with Progress(plain.rows, progress) as shown:
                began = time.perf_counter()
                story = fleet.stream(path, shown)
                seconds = time.perf_counter() - began
            evidence = fleet.export(folder)
        # From here on there is no runtime and no secret key: only files, and the public keys of who wrote them.
        verified = {carrier: _verify(each) for carrier, each in evidence.items()}
        refusal = _tamper(max(evidence.values(), key=lambda each: each.chain.stat().st_size), folder)

    events = plain.rows + len(evidence)
    print(f"{story}\n" if story else "", end="", file=out)
    print(f"{events:,} events in {seconds:.2f} s: {events / seconds:,.0f} events/s, reading included\n", file=out)
    print(table(_lines(evidence, verified)), end="\n\n", file=out)
    chained = sum(report.events for report in verified.values() if isinstance(report, ChainReport))
    return all_hold(
        {
            f"all totals of {len(evidence)} daemons equal the straight count": _totals(plain, evidence),
            "the last summary of each chain says the same": _summaries(plain, evidence),
            f"{len(evidence)} chains, {chained:,} events: verified from the public keys alone": _chains(
                evidence, verified
            ),
            f"one byte flipped in a copy: {refusal or 'accepted'}": iter(() if refusal else ("it was not refused",)),
        },
        out,
    )


def _verify(evidence: Evidence) -> ChainReport | ChainError:
    try:
        return verify_chain(evidence.chain, EntityId(evidence.public_key))
    except ChainError as error:
        return error


def _tamper(evidence: Evidence, folder: Path) -> str | None:
    """Flip one byte in a copy of a chain, and return how the copy is refused."""
    data = bytearray(evidence.chain.read_bytes())
    data[len(data) // 2] ^= 1
    copy = folder / "tampered.chain"
    copy.write_bytes(data)
    try:
        verify_chain(copy, EntityId(evidence.public_key))
    except ChainError as error:
        return f"refused, {error}"
    return None


def _totals(plain: Plain, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    for carrier in sorted({*plain.months, *evidence}):
        counted = plain.months.get(carrier)
        kept = evidence[carrier].months if carrier in evidence else None
        if kept != counted:
            yield f"{carrier}: the daemon has {kept}, the file {counted}"


def _summaries(plain: Plain, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    for carrier, each in evidence.items():
        months = plain.months.get(carrier, [])
        expected = {
            "carrier": carrier,
            "flights": sum(totals.flights for totals in months),
            "final": True,
            "months": [totals.as_row() for totals in months],
        }
        found = json.loads(each.last.payload) if each.last is not None else None
        if found != expected:
            yield f"{carrier}: the last summary is {found}, expected {expected}"


def _chains(evidence: Mapping[str, Evidence], verified: Mapping[str, ChainReport | ChainError]) -> Iterator[str]:
    for carrier, report in verified.items():
        emitted, last = evidence[carrier].summaries, evidence[carrier].last
        if isinstance(report, ChainError):
            yield f"{carrier}: {report}"
        elif not report.events == report.last_sequence == report.signed_through == emitted:
            yield f"{carrier}: {emitted} events were emitted, and this is what the file proves: {report}"
        elif last is None or last.sequence != report.last_sequence:
            yield f"{carrier}: the last summary is not the last event of the chain"


def _lines(evidence: Mapping[str, Evidence], verified: Mapping[str, ChainReport | ChainError]) -> list[Line]:
    lines = []
    for carrier, each in evidence.items():
        report = verified[carrier]
        lines.append(
            Line(
                carrier=carrier,
                flights=sum(totals.flights for totals in each.months),
                cancelled=sum(totals.cancelled for totals in each.months),
                delays=sum(totals.delays for totals in each.months),
                delay_sum=sum(totals.delay_sum for totals in each.months),
                events=report.events if isinstance(report, ChainReport) else 0,
                head=report.digest if isinstance(report, ChainReport) else b"",
            )
        )
    return lines
