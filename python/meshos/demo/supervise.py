"""The story of the supervised demo: crashes, a slow peer, a drained node, and every total right at the end."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter
from typing import TextIO

from meshos.chain import ChainReport, verify_chain
from meshos.compute import Receipt
from meshos.daemon import DaemonStats
from meshos.demo.carrier import Totals
from meshos.demo.flights import CARRIER, rows
from meshos.demo.plain import Plain, count
from meshos.demo.report import AIRLINES, Progress, all_hold, grid
from meshos.demo.senders import Senders
from meshos.demo.shard import POISON, Shard, name_of, share_of, shares
from meshos.demo.ward import PATIENCE, Batch, Member, Ward
from meshos.errors import ChainError, DaemonNotFound, WaitTimeout
from meshos.events import EnterMaintenance, ExitMaintenance, UnsignedAdminEvent
from meshos.identity import EntityId, NodeId
from meshos.mesh import Mesh
from meshos.node import Node
from meshos.probes import HealthProbe, LocalityProbe, NodeHealth
from meshos.runtime import BackoffConfig, LocalityConfig, MaintenanceConfig, MeshOsConfig
from meshos.status import DaemonSnapshot, MaintenancePhase, MeshOsSnapshot

NEAR, FAR = 2, 3
"""Two other nodes, as the probes tell of them."""
CONFIG = MeshOsConfig(
    tick_interval=timedelta(milliseconds=50),
    authority="open",
    backoff=BackoffConfig(initial=timedelta(milliseconds=100)),
    locality=LocalityConfig(degraded_rtt_threshold=timedelta(milliseconds=250)),
    maintenance=MaintenanceConfig(
        default_drain_deadline=PATIENCE,
        exit_deadline=PATIENCE,
        recovery_ramp_window=timedelta(milliseconds=100),
        stop_grace=timedelta(seconds=5),
    ),
)


class Pings(LocalityProbe):
    """Round trips to two nodes; one of them gets slow."""

    def __init__(self, trouble: Event) -> None:
        self._trouble = trouble

    def rtt_samples(self) -> Iterable[tuple[NodeId, timedelta]]:
        """Return what a ping would measure."""
        slow = timedelta(milliseconds=410 if self._trouble.is_set() else 4)
        return [(NEAR, timedelta(milliseconds=3)), (FAR, slow)]


class Beats(HealthProbe):
    """How two nodes look; one of them gets worse."""

    def __init__(self, trouble: Event) -> None:
        self._trouble = trouble

    def health_samples(self) -> Iterable[tuple[NodeId, NodeHealth]]:
        """Return what a heartbeat would tell."""
        worse = NodeHealth.DEGRADED if self._trouble.is_set() else NodeHealth.HEALTHY
        return [(NEAR, NodeHealth.HEALTHY), (FAR, worse)]


@dataclass(slots=True)
class Story:
    """What was seen while it ran."""

    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)
    peer: list[str] = field(default_factory=list)
    """What is wrong with what was seen of the peer."""
    drain: list[str] = field(default_factory=list)
    """What is wrong with the drained node."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left of a daemon when its node is gone."""

    public_key: bytes
    chain: Path
    receipt: Receipt | None
    months: Sequence[Totals]
    rows: int
    crashes: int
    stats: DaemonStats
    shown: DaemonSnapshot


def run(path: Path, out: TextIO, progress: TextIO | None) -> bool:
    """Run the demo on a file, and return whether all of it held.

    Raises:
        FlightFileError: The file is something else than a table of flights.
        OSError: It cannot be read.
    """
    carriers = sorted({row.split(b",", CARRIER + 1)[CARRIER].decode("utf-8", "replace") for row in rows(path)})
    shared = shares(carriers)
    print(f"counting {path.name} straight, for the comparison", file=out, flush=True)
    plain = count(path, lambda carrier, flight: name_of(carrier, share_of(flight.encode(), shared.get(carrier, 1))))
    daemons = sum(shared.values())
    print(f"streaming {plain.rows:,} departures through {daemons} supervised daemons", file=out, flush=True)
    with TemporaryDirectory(prefix="meshos-demo-") as name:
        ward, story, evidence = _supervise(path, plain, shared, Path(name), progress)
        # From here on there is no node and no secret key: only files, and the public keys of who wrote them.
        verified = {name: _verify(each) for name, each in evidence.items()}
        summaries = {name: each.chain.read_bytes() for name, each in evidence.items()}

    events = plain.rows + daemons
    rate = events / story.seconds
    print(f"{events:,} events in {story.seconds:.2f} s: {rate:,.0f} events/s, all of it included\n", file=out)
    print(grid(_crash_rows(ward), left=(0,)), end="\n\n", file=out)
    print(f"explain() of {next(iter(ward.members))} while it was down for the last time:", file=out)
    print(*(f"    {line}" for line in ward.explanation.splitlines()), sep="\n", end="\n\n", file=out)
    print(*story.lines, sep="\n", end="\n\n", file=out)
    print(grid(_carrier_rows(evidence, verified), left=(0, 1)), end="\n\n", file=out)
    crashes = sum(each.crashes for each in evidence.values())
    restarts = sum(each.shown.restarts for each in evidence.values())
    chained = sum(report.events for report in verified.values() if isinstance(report, ChainReport))
    return all_hold(
        {
            f"all totals of {daemons} daemons equal the straight count": _totals(plain, evidence),
            "the last summary of each chain says the same": _summaries(plain, evidence, summaries),
            f"{events:,} events took effect, each once": _effects(evidence),
            f"{crashes} crashes on purpose, {restarts} restarts, and every daemon runs": _restarts(ward, evidence),
            "the slow peer was seen and avoided": iter(story.peer),
            "the node was drained, and came back with every daemon": iter(story.drain),
            f"{len(evidence)} chains, {chained:,} events: verified from the public keys alone": _chains(
                evidence, verified
            ),
        },
        out,
    )


def _supervise(
    path: Path, plain: Plain, shared: Mapping[str, int], folder: Path, progress: TextIO | None
) -> tuple[Ward, Story, dict[str, Evidence]]:
    """Do everything that needs a node."""
    story, trouble = Story(), Event()
    expected = {name: sum(month.flights for month in months) for name, months in plain.months.items()}
    with Node(Mesh.local(), kinds={Shard.name: Shard}, config=CONFIG) as node:
        ward = Ward(node, shared, expected)
        node.runtime.add_locality_probe(Pings(trouble))
        node.runtime.add_health_probe(Beats(trouble))
        with Senders[Batch](ward.send) as senders, Progress(plain.rows, progress) as shown:
            began = perf_counter()
            source = rows(path)
            ward.feed(islice(source, plain.rows // 2), shown, senders)
            _peer(node, trouble, story)
            _drain(node, ward, story)
            ward.feed(source, shown, senders)
            ward.finish(senders)
            shown.at(plain.rows)
            story.seconds = perf_counter() - began
        last = _settled(node, ward)
        story.lines.append(_numbers(node, last))
        return ward, story, _evidence(node, ward, last, folder)


# ---------------------------------------------------------------- half way


def _drain(node: Node, ward: Ward, story: Story) -> None:
    """Drain the node and bring it back."""
    order, here, everyone = node.runtime.handle().publish, node.mesh.node_id, len(ward.members)
    began = perf_counter()
    order(UnsignedAdminEvent(EnterMaintenance(here)))
    drained = _phase(node, MaintenancePhase.MAINTENANCE)
    took = perf_counter() - began
    stopped, left = drained.summary().daemons.stopped, node.daemons.daemon_count()
    if (stopped, left) != (everyone, 0):
        story.drain.append(f"{stopped} of {everyone} were stopped, and {left} were still there")
    answer = _answer(node, next(iter(ward.members.values())), story)
    story.lines.append(
        f"half way the node was drained: MAINTENANCE after {took * 1000:.0f} ms, {stopped} daemons stopped, "
        f"a send meanwhile: {answer}"
    )
    began = perf_counter()
    order(UnsignedAdminEvent(ExitMaintenance(here)))
    node.runtime.snapshot_reader().wait_for(lambda s: s.summary().daemons.running == everyone, timeout=PATIENCE)
    running = perf_counter() - began
    _phase(node, MaintenancePhase.ACTIVE)
    active = perf_counter() - began
    story.lines.append(
        f"and resumed: {everyone} daemons run after {running * 1000:.0f} ms, ACTIVE after {active * 1000:.0f} ms"
    )


def _answer(node: Node, member: Member, story: Story) -> str:
    """Send to a daemon of a drained node; poison, so that it would be noticed if it were taken."""
    try:
        node.daemons.send(member.handle.origin_hash, POISON)
    except DaemonNotFound as error:
        return type(error).__name__
    story.drain.append(f"{member.name} took an event")
    return "taken"


def _phase(node: Node, phase: MaintenancePhase) -> MeshOsSnapshot:
    return node.runtime.snapshot_reader().wait_for(lambda s: s.local_maintenance.phase is phase, timeout=PATIENCE)


def _peer(node: Node, trouble: Event, story: Story) -> None:
    """Let a peer get slow, and see that it is seen."""
    began = perf_counter()
    before = node.runtime.snapshot()
    trouble.set()
    seen = node.runtime.snapshot_reader().wait_for(
        lambda s: FAR in s.avoid_list and s.peers[FAR].health is NodeHealth.DEGRADED, timeout=PATIENCE
    )
    took = perf_counter() - began
    peer, entry = seen.peers[FAR], seen.avoid_list[FAR]
    story.lines.append(
        f"peer {FAR} got slow: {peer.health}, {(peer.rtt or timedelta()) / timedelta(milliseconds=1):.0f} ms; on the "
        f"avoid list {took * 1000:.0f} ms later ({entry.reason})"
    )
    if FAR in before.avoid_list or NEAR in seen.avoid_list:
        story.peer.append(f"avoided before: {list(before.avoid_list)}, after: {list(seen.avoid_list)}")


# ---------------------------------------------------------------- the end


def _settled(node: Node, ward: Ward) -> MeshOsSnapshot:
    """Return a snapshot in which every daemon runs again, or the last one there is."""

    def settled(snapshot: MeshOsSnapshot) -> bool:
        shown = [(snapshot.daemons[member.handle.origin_hash], member) for member in ward.members.values()]
        return all(daemon.lifecycle == "running" and daemon.restarts >= member.crashes for daemon, member in shown)

    try:
        return node.runtime.snapshot_reader().wait_for(settled, timeout=PATIENCE)
    except WaitTimeout:
        return node.runtime.snapshot()


def _evidence(node: Node, ward: Ward, last: MeshOsSnapshot, folder: Path) -> dict[str, Evidence]:
    evidence = {}
    for member in ward.members.values():
        key = member.handle.origin_hash
        chain = folder / f"{member.place:03}.chain"
        node.daemons.export_chain(key, chain)
        handle = node.daemons.find(key)
        assert handle is not None, "it was exported"
        evidence[member.name] = Evidence(
            public_key=bytes(member.identity.entity_id),
            chain=chain,
            receipt=member.receipt,
            months=node.daemons.with_daemon(key, Shard, lambda daemon: daemon.months),
            rows=member.rows,
            crashes=member.crashes,
            stats=handle.stats,
            shown=last.daemons[key],
        )
    return evidence


def _numbers(node: Node, last: MeshOsSnapshot) -> str:
    counts, stats = last.summary(), node.runtime.executor_stats()
    return (
        f"snapshot {last.generation:,} after {last.tick:,} ticks: {counts.daemons.running} daemons run, "
        f"{counts.peers.degraded} of {counts.peers.healthy + counts.peers.degraded} peers degraded, "
        f"{stats.dispatched:,} actions dispatched, {stats.failed} failed, {node.runtime.dropped_actions()} dropped"
    )


def _verify(evidence: Evidence) -> ChainReport | ChainError:
    receipts = [evidence.receipt] if evidence.receipt is not None else []
    try:
        return verify_chain(evidence.chain, EntityId(evidence.public_key), receipts=receipts)
    except ChainError as error:
        return error


def _crash_rows(ward: Ward) -> list[Sequence[str]]:
    cells: list[Sequence[str]] = [("crashed", "on event", "backoff", "sender waited")]
    for crash in sorted(ward.crashes, key=lambda crash: crash.number):
        backoff = "-" if crash.backoff is None else f"{crash.backoff / timedelta(milliseconds=1):.0f} ms"
        waited = "-" if crash.waited is None else f"{crash.waited * 1000:.0f} ms"
        cells.append((crash.name, f"{crash.number:,}", backoff, waited))
    return cells


def _carrier_rows(
    evidence: Mapping[str, Evidence], verified: Mapping[str, ChainReport | ChainError]
) -> list[Sequence[str]]:
    cells: list[Sequence[str]] = [
        ("carrier", "", "daemons", "flights", "cancelled", "mean delay", "crashes", "restarts", "events in chains")
    ]
    carriers = sorted({name.rpartition("-")[0] for name in evidence})
    for carrier in (*carriers, None):
        of = [name for name in evidence if carrier is None or name.rpartition("-")[0] == carrier]
        months = [month for name in of for month in evidence[name].months]
        delays = sum(month.delays for month in months)
        reports = [verified[name] for name in of]
        cells.append(
            (
                carrier or "all",
                AIRLINES.get(carrier or "", ""),
                f"{len(of)}",
                f"{sum(month.flights for month in months):,}",
                f"{sum(month.cancelled for month in months):,}",
                f"{sum(month.delay_sum for month in months) / delays:.1f} min" if delays else "-",
                f"{sum(evidence[name].crashes for name in of)}",
                f"{sum(evidence[name].shown.restarts for name in of)}",
                f"{sum(report.events for report in reports if isinstance(report, ChainReport)):,}",
            )
        )
    return cells


# ---------------------------------------------------------------- checks


def _expected(plain: Plain, name: str) -> Sequence[Totals]:
    """Say what was counted straight for a daemon; some have no flights."""
    return plain.months.get(name) or [Totals() for _ in range(12)]


def _totals(plain: Plain, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    for name in sorted({*plain.months, *evidence}):
        kept = evidence[name].months if name in evidence else None
        if kept != _expected(plain, name):
            yield f"{name}: the daemon has {kept}, the file {_expected(plain, name)}"


def _effects(evidence: Mapping[str, Evidence]) -> Iterator[str]:
    for name, each in evidence.items():
        stats = each.stats
        # The end is an event too; poison is none that took effect.
        if (stats.events_processed, stats.duplicates) != (each.rows + 1, 0):
            yield f"{name}: {each.rows} rows and the end were sent: {stats}"


def _restarts(ward: Ward, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    for name, each in evidence.items():
        shown = each.shown
        seen = sum(crash.name == name for crash in ward.crashes)
        if (shown.lifecycle, shown.restarts, seen) != ("running", each.crashes, each.crashes):
            yield f"{name}: {each.crashes} crashes, {seen} seen by its sender: {shown}"
        if each.crashes and (shown.last_crash is None or shown.last_crash.exception != "EngineFailure"):
            yield f"{name}: another crash than that on purpose: {shown.last_crash}"


def _chains(evidence: Mapping[str, Evidence], verified: Mapping[str, ChainReport | ChainError]) -> Iterator[str]:
    for name, report in verified.items():
        emitted = evidence[name].rows // Shard.summary_every + 1
        if isinstance(report, ChainError):
            yield f"{name}: {report}"
        elif not report.events == report.last_sequence == report.signed_through == emitted:
            yield f"{name}: {emitted} events were emitted, and this is what the file proves: {report}"


def _summaries(plain: Plain, evidence: Mapping[str, Evidence], chains: Mapping[str, bytes]) -> Iterator[str]:
    for name, each in evidence.items():
        document = {
            "carrier": name.rpartition("-")[0] if each.rows else "",
            "flights": each.rows,
            "final": True,
            "months": [totals.as_row() for totals in _expected(plain, name)],
        }
        # Payloads are in the file as they are.
        if json.dumps(document, separators=(",", ":")).encode() not in chains[name]:
            yield f"{name}: no summary in the chain is {document}"
