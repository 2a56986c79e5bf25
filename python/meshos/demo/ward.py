"""The daemons of the supervised demo, and those who send to them, also while a daemon is down."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter
from typing import NamedTuple

from meshos.chain import CausalEvent
from meshos.compute import Receipt
from meshos.daemon import DaemonHandle, DaemonHostConfig
from meshos.demo.carrier import END
from meshos.demo.flights import FLIGHT
from meshos.demo.report import Progress
from meshos.demo.senders import Senders
from meshos.demo.shard import POISON, Shard, name_of, share_of
from meshos.errors import ProcessFailed
from meshos.events import DaemonIntent
from meshos.identity import Identity
from meshos.node import Node
from meshos.status import BackingOff, MeshOsSnapshot

BATCH = 64
CRASHING_EVERY = 10
"""One daemon in so many is given poison."""
CRASHES_MAX = 3
"""How often the first of them is, one time after the other; the others once."""
PATIENCE = timedelta(seconds=30)
"""Longest wait for something that the behaviour loop is to do."""
KEPT = DaemonHostConfig(auto_snapshot_interval=100)
"""A daemon that is started again takes its newest snapshot and the inputs since."""


@dataclass(slots=True)
class Member:
    """One daemon, what it was sent, and what it is still to be sent."""

    place: int
    name: str
    identity: Identity
    handle: DaemonHandle
    rows: int
    """Rows that it will be sent."""
    crashes: int
    """How often it is given poison."""
    poison_after: int
    """After how many rows."""
    sent: int = 0
    """Rows so far."""
    poisoned: bool = False
    waiting: list[CausalEvent] = field(default_factory=list)
    """Events of the batch that is being filled."""
    receipt: Receipt | None = None
    """The last one."""


@dataclass(slots=True)
class Crash:
    """One crash, as its sender saw it."""

    name: str
    number: int
    """Of the event that it failed on."""
    failed_at: float
    backoff: timedelta | None
    """How long the daemon was to stay down; `None`: it ran again before anybody could look."""
    waited: float | None = None
    """Seconds until the next event of the same sender took effect; `None`: there was none."""


class Batch(NamedTuple):
    """Events of one daemon."""

    member: Member
    events: list[CausalEvent]


class Ward:
    """Spawns the daemons, has them watched over, and feeds them."""

    def __init__(self, node: Node, shares: Mapping[str, int], rows: Mapping[str, int]) -> None:
        self.crashes: list[Crash] = []
        self.explanation = ""
        """Why a daemon did not run while it was down."""
        self._node = node
        self._shares = {carrier.encode(): count for carrier, count in shares.items()}
        self._feed = Identity.generate().origin_hash
        self._number = 0
        self.members: dict[str, Member] = {}
        for carrier, count in shares.items():
            for number in range(count):
                name = name_of(carrier, number)
                self.members[name] = self._spawn(len(self.members), name, rows.get(name, 0))
        # By carrier and by flight, so that no row is looked at twice.
        self._found: dict[tuple[bytes, bytes], Member] = {}

    def _spawn(self, place: int, name: str, rows: int) -> Member:
        identity = Identity.generate()
        handle = self._node.daemons.spawn(Shard.name, identity, KEPT)
        self._node.runtime.set_intent(handle.origin_hash, DaemonIntent.RUN)
        crashes = 0 if place % CRASHING_EVERY else 1 if place else CRASHES_MAX
        # Half of them crash before the node is drained, and half after it.
        early = place // CRASHING_EVERY % 2 == 0
        return Member(place, name, identity, handle, rows, crashes, rows // 4 if early else rows - rows // 4)

    def feed(self, rows: Iterable[bytes], progress: Progress, senders: Senders[Batch]) -> None:
        """Send every row to its daemon, and poison where it is due; returns when all of it was sent."""
        step, done = progress.step, sum(member.sent for member in self.members.values())
        for done, row in enumerate(rows, done + 1):  # noqa: B020  `done` is where the last feed ended
            *_, carrier, flight, _rest = row.split(b",", FLIGHT + 1)
            member = self._found.get((carrier, flight)) or self._find(carrier, flight)
            if member.crashes and not member.poisoned and member.sent >= member.poison_after:
                self._poison(member)
            self._put(member, row, senders)
            member.sent += 1
            if done % step == 0:
                progress.at(done)
        self._flush(senders)
        senders.join()

    def finish(self, senders: Senders[Batch]) -> None:
        """Send what is left, and the end, to every daemon."""
        for member in self.members.values():
            if member.crashes and not member.poisoned:
                self._poison(member)
            self._put(member, END, senders)
        self._flush(senders)
        senders.join()

    def send(self, batch: Batch) -> None:
        """Send events in order, on any thread; a daemon that crashes over poison is waited for."""
        member, events = batch
        crash: Crash | None = None
        while events:
            # After a crash one event alone, to see how long it takes.
            now = events[:1] if crash else events
            try:
                receipts = self._node.daemons.send_many(member.handle.origin_hash, now)
            except ProcessFailed as error:
                failed = perf_counter()
                place = next(n for n, event in enumerate(now) if event.sequence == error.event_sequence)
                if now[place].payload != POISON:
                    raise
                # What came before it took effect, it did not, and what comes after it was not tried.
                events = events[place + 1 :]
                crash = self._crashed(member, error, failed, crash)
            else:
                member.receipt = receipts[-1]
                events = events[len(now) :]
                if crash:
                    crash.waited = perf_counter() - crash.failed_at
                crash = None

    def _crashed(self, member: Member, error: ProcessFailed, failed: float, before: Crash | None) -> Crash:
        key, number = member.handle.origin_hash, error.event_sequence

        def shows_it(snapshot: MeshOsSnapshot) -> bool:
            crash = snapshot.daemons[key].last_crash
            return crash is not None and crash.event_sequence == number

        if before:
            before.waited = failed - before.failed_at
        shown = self._node.runtime.snapshot_reader().wait_for(shows_it, timeout=PATIENCE).daemons[key]
        backoff = None
        if isinstance(shown.restart_state, BackingOff) and shown.last_crash is not None:
            backoff = shown.restart_state.until - shown.last_crash.at
        crash = Crash(member.name, number, failed, backoff)
        self.crashes.append(crash)
        if member.place == 0:  # the one that crashes again and again: the last is its longest wait
            self.explanation = str(self._node.runtime.explain(daemon=key))
        return crash

    def _find(self, carrier: bytes, flight: bytes) -> Member:
        name = name_of(carrier.decode(), share_of(flight, self._shares[carrier]))
        return self._found.setdefault((carrier, flight), self.members[name])

    def _event(self, payload: bytes) -> CausalEvent:
        self._number += 1
        return CausalEvent.external(self._feed, self._number, payload)

    def _put(self, member: Member, payload: bytes, senders: Senders[Batch]) -> None:
        member.waiting.append(self._event(payload))
        if len(member.waiting) >= BATCH:
            self._send_soon(member, senders)

    def _poison(self, member: Member) -> None:
        member.poisoned = True
        member.waiting.extend(self._event(POISON) for _ in range(member.crashes))

    def _send_soon(self, member: Member, senders: Senders[Batch]) -> None:
        events, member.waiting = member.waiting, []
        senders.put(member.place, Batch(member, events))

    def _flush(self, senders: Senders[Batch]) -> None:
        for member in self.members.values():
            if member.waiting:
                self._send_soon(member, senders)
