"""What a node keeps: its key, journals and snapshots, and what comes back of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meshos._core import Continuous as Continuous
from meshos._core import EntityLog as EntityLog
from meshos._core import Forked as Forked
from meshos._core import LogEvents as LogEvents
from meshos._core import LogIndex as LogIndex
from meshos._core import Migrated as Migrated
from meshos._core import Span as Span
from meshos._core import Store as Store
from meshos._core import StoreStats as StoreStats
from meshos._core import Unverifiable as Unverifiable
from meshos._core import _inspect_store, _settle_stored_letter, _stored_letters, _verify_store
from meshos._core import open_logs as open_logs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from os import PathLike

    from meshos.chain import CausalEvent
    from meshos.daemon import DaemonRef
    from meshos.identity import EntityId, OriginHash

    _Letter: TypeAlias = tuple[int, CausalEvent, int, str, str, int, bool]

__all__ = [
    "Continuity",
    "Continuous",
    "DaemonRecovery",
    "DeadLetter",
    "Divergence",
    "EntityLog",
    "Forked",
    "LogEvents",
    "LogIndex",
    "Migrated",
    "RecoveryReport",
    "Span",
    "Store",
    "StoreContents",
    "StoreProof",
    "StoreStats",
    "StoredDaemon",
    "Unverifiable",
    "dead_letters",
    "discard_dead_letter",
    "inspect",
    "open_logs",
    "retry_dead_letter",
    "verify",
]

Continuity: TypeAlias = Continuous | Migrated | Forked | Unverifiable
"""What can be said of a chain; the `kind` of each tells them apart."""


class DeadLetter(NamedTuple):
    """An event that failed too often and was passed over."""

    daemon: DaemonRef
    """The daemon that it was for."""
    number: int
    """Number of the letter at this daemon, from 1; none is used twice."""
    event: CausalEvent
    """The event."""
    attempts: int
    """Tries so far."""
    exception: str
    """Class name of the last exception."""
    message: str
    """Its text, cut at 4096 bytes."""
    at: datetime
    """When it was passed over."""
    is_marked: bool
    """Whether it is tried again when its daemon comes back."""


class Divergence(NamedTuple):
    """Where a daemon first did something else when it took its inputs again; what it emitted the first time counts."""

    step: int
    """Number of the input, from 1."""
    sequence: int
    """First position of its chain that would have been another."""
    expected: int
    """Outputs of that input the first time."""
    found: int | None
    """Outputs now; `None`: it raised."""
    exception: str
    """Class name of what it raised; empty if it did not."""
    steps: int
    """Inputs at which it did something else."""


class DaemonRecovery(NamedTuple):
    """How one daemon came back, or why not."""

    daemon: DaemonRef
    """The daemon."""
    kind: str
    """Name under which its class is registered; empty where that cannot be read."""
    epoch: int
    """Term of ownership."""
    snapshot_sequence: int
    """Position of its chain in the snapshot that it began with; 0: it began with nothing."""
    sequence: int
    """Position of its chain now."""
    replayed: int
    """Inputs that it took again."""
    suppressed: int
    """Outputs that it made again and that were held back."""
    cursors: Mapping[OriginHash, int]
    """Highest sequence processed of direct sends and deliveries, by origin: go on with the next."""
    snapshots_skipped: int
    """Damaged snapshots that were passed over."""
    rolled_back_from: int | None
    """Outputs after this position are declared rolled back; `None` under durability "journal", where none are."""
    divergence: Divergence | None
    """Where it did something else than the first time, and went on all the same: `on_divergence="continue"`."""
    error_kind: str | None
    """`kind` of what kept it from starting; `None`: it runs."""
    error: Exception | None
    """What kept it from starting, with the user's exception as its cause."""


class RecoveryReport(NamedTuple):
    """What a store held and what became of it."""

    daemons: Mapping[OriginHash, DaemonRecovery]
    """Each daemon that was brought back, or could not be, by handle."""
    kinds_missing: frozenset[str]
    """Kinds without a factory; register them and `recover` again."""
    tail_bytes_cut: int
    """Bytes at the end of the store that were no whole commit when it was opened: nobody was told of them."""
    took: timedelta
    """How long it took."""


class StoredDaemon(NamedTuple):
    """What a store has of one daemon."""

    entity_id: EntityId
    """Its public key."""
    kind: str
    """Name under which its class is registered; empty where that cannot be read."""
    problem: str | None
    """What is wrong with the row that says what it is; `None`: nothing."""
    runs: bool
    """Whether `recover` brings it back: it was not stopped."""
    epoch: int
    """Term of ownership."""
    sequence: int
    """Position of its chain."""
    head: bytes
    """32-byte digest of its chain there."""
    steps: int
    """Events since it began."""
    to_replay: int
    """Events that a recovery has it take again."""
    snapshots: int
    """Snapshots kept."""
    snapshot_bytes: int
    """Their bytes."""
    input_bytes: int
    """Bytes of the inputs kept."""
    output_bytes: int
    """Bytes of the outputs kept."""
    dead_letters: int
    """Events that it passed over."""


class StoreContents(NamedTuple):
    """What a store holds."""

    node: EntityId
    """Whose it is."""
    stats: StoreStats
    """How much it holds."""
    bytes_cut: int
    """Bytes at the end that were no whole commit: nobody was told of them."""
    daemons: tuple[StoredDaemon, ...]
    """Its daemons, by public key."""


def inspect(path: str | PathLike[str]) -> StoreContents:
    """Look into the folder of a store; it needs no key, restores nothing and calls no user code.

    Raises `StoreError`, of kind "locked" while a process has it open.
    """
    node, stats, cut, seen = _inspect_store(path)
    daemons = tuple(
        StoredDaemon(entity, *what, *chain, *steps, *sizes, letters)
        for entity, what, chain, steps, sizes, letters in seen
    )
    return StoreContents(node, stats, cut, daemons)


def dead_letters(path: str | PathLike[str]) -> tuple[DeadLetter, ...]:
    """Read all dead letters in the folder of a store, by daemon and number; the label of a daemon is its kind.

    Raises `StoreError`, of kind "locked" while a process has it open: then ask its `DaemonRuntime`.
    """
    kinds = {stored.entity_id.origin_hash: stored.kind for stored in inspect(path).daemons}
    return tuple(_letter(origin, kinds.get(origin, ""), row) for origin, row in _stored_letters(path))


def retry_dead_letter(path: str | PathLike[str], letter: DeadLetter) -> None:
    """Have a letter in the folder of a store tried once more when its daemon comes back; raises as `dead_letters`."""
    origin, number, _ = _named(letter)
    _settle_stored_letter(path, origin, number, retry=True)


def discard_dead_letter(path: str | PathLike[str], letter: DeadLetter) -> None:
    """Let a letter in the folder of a store go; raises as `dead_letters`."""
    origin, number, _ = _named(letter)
    _settle_stored_letter(path, origin, number, retry=False)


def _named(letter: object) -> tuple[OriginHash, int, CausalEvent]:
    """Return what a letter is found by; raises `TypeError` for what is none."""
    from meshos._checks import instance

    found = instance(letter, DeadLetter, "letter")
    return found.daemon.id, found.number, found.event


def _letter(origin_hash: OriginHash, kind: str, row: _Letter) -> DeadLetter:
    from datetime import UTC, datetime

    from meshos.daemon import DaemonRef

    number, event, attempts, exception, message, at_ms, is_marked = row
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return DeadLetter(DaemonRef(origin_hash, kind), number, event, attempts, exception, message, at, is_marked)


class StoreProof(NamedTuple):
    """What was checked of a store, and found whole."""

    daemons: int
    """Daemons."""
    steps: int
    """Inputs, each bound to all before it."""
    outputs: int
    """Outputs, each bound to all before it."""
    snapshots: int
    """Snapshots."""
    signed: int
    """Certificates and checkpoints."""
    records: int
    """Records of behaviour loops, each bound to all before it."""


def verify(path: str | PathLike[str]) -> StoreProof:
    """Check everything in the folder of a store: every row, link, signature and snapshot; it needs no key.

    Raises `StoreError`: of kind "corrupt" with the first bad place, "locked" while a process has it open.
    Raises `ChainError` for the first bad record of a behaviour loop.
    """
    return StoreProof(*_verify_store(path))
