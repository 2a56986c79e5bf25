"""The daemons of the demo: one per carrier, fed in file order, and restarted from bytes half way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshos.chain import CausalEvent
from meshos.compute import DaemonRuntime
from meshos.daemon import DaemonHandle
from meshos.demo.carrier import END, Carrier, Totals
from meshos.demo.flights import CARRIER, rows
from meshos.demo.report import Progress
from meshos.identity import Identity
from meshos.snapshot import StateSnapshot


@dataclass(slots=True)
class Member:
    """One carrier's daemon, and what it emitted."""

    identity: Identity
    handle: DaemonHandle
    summaries: int = 0
    last: CausalEvent | None = None

    def note(self, outputs: Sequence[CausalEvent]) -> None:
        """Remember what one event made the daemon emit."""
        self.summaries += len(outputs)
        self.last = outputs[-1]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left of a carrier's daemon when its runtime is gone."""

    public_key: bytes
    chain: Path
    summaries: int
    last: CausalEvent | None
    months: Sequence[Totals]
    """The numbers that were inside the daemon."""


class Fleet:
    """The daemons of one run, and the feed that numbers their events."""

    def __init__(self, runtime: DaemonRuntime) -> None:
        self._runtime = runtime
        self._members: dict[bytes, Member] = {}
        self._feed = Identity.generate().origin_hash
        runtime.register_factory(Carrier.name, Carrier)
        runtime.start()

    def stream(self, path: Path, progress: Progress) -> str:
        """Deliver every row to its carrier's daemon, and return what happened half way."""
        deliver, external, feed, members = self._runtime.deliver, CausalEvent.external, self._feed, self._members
        half, step, story, number = progress.total // 2, progress.step, "", 0
        for number, row in enumerate(rows(path), 1):
            carrier = row.split(b",", CARRIER + 1)[CARRIER]
            member = members.get(carrier) or self._spawn(carrier)
            outputs = deliver(member.handle.origin_hash, external(feed, number, row))
            if outputs:
                member.note(outputs)
            if number == half:
                story = f"half way, after row {number:,}: {self._restart()}"
            if number % step == 0:
                progress.at(number)
        for member in members.values():
            member.note(deliver(member.handle.origin_hash, external(feed, number + 1, END)))
        progress.at(number)
        return story

    def export(self, folder: Path) -> Mapping[str, Evidence]:
        """Write every chain to a file, and return what is known of each carrier."""
        evidence = {}
        for number, (carrier, member) in enumerate(sorted(self._members.items())):
            file = folder / f"{number:02}.chain"
            self._runtime.export_chain(member.handle.origin_hash, file)
            evidence[carrier.decode()] = Evidence(
                public_key=bytes(member.identity.entity_id),
                chain=file,
                summaries=member.summaries,
                last=member.last,
                months=self._runtime.with_daemon(member.handle.origin_hash, Carrier, lambda daemon: daemon.months),
            )
        return evidence

    def _spawn(self, carrier: bytes) -> Member:
        identity = Identity.generate()
        member = Member(identity, self._runtime.spawn(Carrier.name, identity))
        self._members[carrier] = member
        return member

    def _restart(self) -> str:
        """Snapshot and stop every daemon, and let a new one continue from the bytes."""
        size = 0
        for member in self._members.values():
            snapshot = self._runtime.snapshot(member.handle.origin_hash)
            assert snapshot is not None, "a daemon with state has a snapshot"
            data = snapshot.to_bytes()
            self._runtime.stop(member.handle.origin_hash)
            member.handle = self._runtime.spawn_from_snapshot(
                Carrier.name, member.identity, StateSnapshot.from_bytes(data)
            )
            size += len(data)
        return f"{len(self._members)} daemons snapshotted, stopped, and restored from {size:,} bytes"
