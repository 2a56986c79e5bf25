"""A host alone: deliver, snapshot, restore in place, the ledger, and a short model that it is compared with."""

import struct
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from daemons import Counter, Echo, event, numbered
from meshos import CausalEvent, ChannelName, DaemonHostConfig, EntityId, Identity, MeshDaemon, StateSnapshot
from meshos.capability import CapabilityFilter, CapabilitySet
from meshos.chain import CausalChainBuilder, ObservedHorizon, fork_entity
from meshos.daemon import DaemonHost, DaemonStats, SubscriptionBinding
from meshos.errors import (
    ChannelNameError,
    ConfigError,
    InvalidArgument,
    InvalidDaemon,
    ProcessFailed,
    RestoreFailed,
    SnapshotFailed,
    SnapshotIdentityMismatch,
    StaleSnapshot,
)


def counting(identity: Identity | None = None, config: DaemonHostConfig | None = None) -> tuple[DaemonHost, Counter]:
    daemon = Counter()
    return DaemonHost(daemon, identity or Identity.generate(), config), daemon


def taken(host: DaemonHost) -> StateSnapshot:
    snapshot = host.take_snapshot()
    assert snapshot is not None
    return snapshot


def stats(host: DaemonHost) -> tuple[int, int, int, int, int, int]:
    counted = host.stats
    return (
        counted.events_processed,
        counted.events_emitted,
        counted.duplicates,
        counted.errors,
        counted.snapshots_taken,
        counted.restarts,
    )


def chained(outputs: Iterable[CausalEvent], entity: EntityId) -> bytes:
    """Check that these are the whole chain of an entity, by building it anew; return its digest."""
    builder = CausalChainBuilder(entity)
    for output in outputs:
        assert builder.append(output.payload, output.link.horizon_encoded) == output
    return builder.head_digest


# ---------------------------------------------------------------- views


def test_a_new_host_stands_at_genesis() -> None:
    identity = Identity.generate()
    host, _ = counting(identity)

    assert (host.name, host.sequence, host.subscription_count) == ("counter", 0, 0)
    assert (host.entity_id, host.origin_hash, host.keypair) == (
        identity.entity_id,
        identity.origin_hash,
        identity,
    )
    assert host.head_digest == CausalChainBuilder(identity.entity_id).head_digest
    assert host.head_link == CausalChainBuilder(identity.entity_id).head_link
    assert host.config == DaemonHostConfig()
    assert stats(host) == (0, 0, 0, 0, 0, 0)
    assert "counter" in repr(host)


def test_a_host_shares_the_key_it_was_given() -> None:
    identity = Identity.generate()
    host, _ = counting(identity)

    identity.erase()

    assert host.keypair.is_read_only


def test_a_public_key_is_enough_for_a_host() -> None:
    public = Identity.public_only(Identity.generate().entity_id)
    host, _ = counting(public)

    assert [output.sequence for output in host.deliver(numbered(1))] == [1]


def test_requirements_are_those_of_the_daemon() -> None:
    class Picky(Echo):
        required_capabilities = CapabilitySet(["hardware.gpu"])

    host = DaemonHost(Picky(), Identity.generate())

    assert host.requirements() == CapabilityFilter(require_tags=["hardware.gpu"])


def test_a_daemon_that_does_not_keep_the_contract_gets_no_host() -> None:
    class Half(Echo):
        def snapshot(self) -> bytes:
            return b""

    with pytest.raises(InvalidDaemon) as refused:
        DaemonHost(Half(), Identity.generate())

    assert refused.value.kind == "snapshot_without_restore"


# ---------------------------------------------------------------- deliver


def test_outputs_are_linked_and_verify() -> None:
    host, _ = counting()

    outputs = [output for number in range(1, 6) for output in host.deliver(numbered(number))]

    assert [output.sequence for output in outputs] == [1, 2, 3, 4, 5]
    assert chained(outputs, host.entity_id) == host.head_digest
    assert outputs[-1].link == host.head_link


def test_a_link_carries_the_sketch_of_what_was_seen() -> None:
    host, _ = counting()

    (first,) = host.deliver(numbered(1, origin=7))
    (second,) = host.deliver(numbered(5, origin=9))

    assert first.link.horizon_encoded == ObservedHorizon({7: 1}).encoded
    assert second.link.horizon_encoded == ObservedHorizon({7: 1, 9: 5}).encoded


def test_a_duplicate_returns_nothing_and_changes_nothing() -> None:
    host, daemon = counting()
    host.deliver(numbered(3, 10))
    head = host.head_digest

    for sequence in (3, 2, 1):
        assert host.deliver(numbered(sequence, 10)) == []

    assert (daemon.total, host.head_digest) == (10, head)
    assert stats(host) == (1, 1, 3, 0, 0, 0)


def test_origins_are_counted_apart_and_numbers_may_be_skipped() -> None:
    host, daemon = counting()

    for sequence, origin in ((1, 1), (1, 2), (2**64 - 1, 3), (10, 1)):
        assert len(host.deliver(numbered(sequence, origin=origin))) == 1

    assert daemon.total == 4
    assert dict(taken(host).cursors) == {1: 10, 2: 1, 3: 2**64 - 1}


def test_at_least_once_processes_a_number_again() -> None:
    host, daemon = counting(config=DaemonHostConfig(delivery="at_least_once"))

    assert [len(host.deliver(numbered(sequence))) for sequence in (5, 5, 2)] == [1, 1, 1]

    assert daemon.total == 3
    assert taken(host).cursors == {7: 5}
    assert stats(host) == (3, 3, 0, 0, 1, 0)


def test_a_failed_event_may_be_delivered_again() -> None:
    class Once(MeshDaemon):
        failed = False

        def process(self, event: CausalEvent) -> bytes:
            if not self.failed:
                self.failed = True
                raise ValueError("on purpose")
            return event.payload

    host = DaemonHost(Once(), Identity.generate())

    with pytest.raises(ProcessFailed):
        host.deliver(event(1, b"again"))

    assert [output.payload for output in host.deliver(event(1, b"again"))] == [b"again"]


# ---------------------------------------------------------------- snapshot and restore


def test_a_restored_host_continues_the_same_chain() -> None:
    identity = Identity.generate()
    first, _ = counting(identity)
    outputs = [output for number in (1, 2, 3) for output in first.deliver(numbered(number))]
    snapshot = StateSnapshot.from_bytes(taken(first).to_bytes())

    daemon = Counter()
    second = DaemonHost.from_snapshot(daemon, identity, snapshot)

    assert daemon.total == 3
    assert (second.head_link, second.head_digest) == (first.head_link, first.head_digest)
    assert second.stats == first.stats
    assert second.deliver(numbered(3)) == []
    outputs += second.deliver(numbered(4))
    assert chained(outputs, identity.entity_id) == second.head_digest


def test_a_snapshot_before_the_first_output_continues_from_genesis() -> None:
    identity = Identity.generate()
    first, _ = counting(identity)

    second = DaemonHost.from_snapshot(Counter(), identity, taken(first))

    assert chained(second.deliver(numbered(1)), identity.entity_id) == second.head_digest


def test_a_snapshot_says_what_it_is_of() -> None:
    identity = Identity.generate()
    host, _ = counting(identity)
    host.deliver(numbered(4, 5))

    snapshot = taken(host)

    assert (snapshot.kind, snapshot.schema, snapshot.epoch) == ("counter", 1, 1)
    assert (snapshot.entity_id, snapshot.origin_hash) == (identity.entity_id, identity.origin_hash)
    assert (snapshot.sequence, snapshot.processed) == (1, 1)
    assert (snapshot.head_link, snapshot.head_digest) == (host.head_link, host.head_digest)
    assert (snapshot.state, snapshot.cursors) == (struct.pack("<q", 5), {7: 4})
    assert len(snapshot) == len(snapshot.to_bytes())


def test_a_daemon_without_state_has_no_snapshot() -> None:
    host = DaemonHost(Echo(), Identity.generate())

    assert host.take_snapshot() is None
    assert stats(host) == (0, 0, 0, 0, 0, 0)


def test_a_snapshot_of_another_identity_is_refused() -> None:
    first, _ = counting()
    other = Identity.generate()
    daemon = Counter()

    with pytest.raises(SnapshotIdentityMismatch) as refused:
        DaemonHost.from_snapshot(daemon, other, taken(first))

    assert (refused.value.snapshot, refused.value.identity) == (first.entity_id, other.entity_id)


def test_a_snapshot_of_another_kind_is_refused() -> None:
    class Other(Counter):
        name = "other"

    identity = Identity.generate()
    first, _ = counting(identity)

    with pytest.raises(RestoreFailed) as refused:
        DaemonHost.from_snapshot(Other(), identity, taken(first))

    assert refused.value.kind == "wrong_kind"


def test_a_state_is_not_dropped_for_a_daemon_without_one() -> None:
    class Stateless(Echo):
        name = "counter"

    identity = Identity.generate()
    first, _ = counting(identity)

    with pytest.raises(RestoreFailed) as refused:
        DaemonHost.from_snapshot(Stateless(), identity, taken(first))

    assert refused.value.kind == "stateless"


def test_restore_in_place_for_the_same_entity_takes_the_head_over() -> None:
    identity = Identity.generate()
    ahead, _ = counting(identity)
    behind, daemon = counting(identity)
    outputs = [output for number in (1, 2, 3) for output in ahead.deliver(numbered(number))]

    behind.restore_from_snapshot(taken(ahead))

    assert daemon.total == 3
    assert (behind.head_link, behind.head_digest) == (ahead.head_link, ahead.head_digest)
    assert behind.deliver(numbered(3)) == []
    outputs += behind.deliver(numbered(4))
    assert chained(outputs, identity.entity_id) == behind.head_digest


def test_restore_in_place_for_another_entity_keeps_the_own_chain() -> None:
    active, _ = counting()
    standby, daemon = counting()
    active.record_subscription(1, "a/b")
    for number in (1, 2, 3):
        active.deliver(numbered(number))
    own = standby.deliver(numbered(1, 50))

    standby.restore_from_snapshot(taken(active))

    assert daemon.total == 3
    assert (standby.origin_hash, standby.sequence) == (own[0].origin_hash, 1)
    assert standby.bindings_snapshot() == active.bindings_snapshot()
    assert standby.deliver(numbered(3)) == []
    own += standby.deliver(numbered(4))
    assert chained(own, standby.entity_id) == standby.head_digest
    assert StateSnapshot.from_bytes(taken(standby).to_bytes()).entity_id == standby.entity_id


def test_restore_in_place_refuses_to_go_back() -> None:
    identity = Identity.generate()
    host, daemon = counting(identity)
    host.deliver(numbered(1, 5))
    old = taken(host)
    host.deliver(numbered(2, 5))
    head = host.head_digest

    with pytest.raises(StaleSnapshot) as refused:
        host.restore_from_snapshot(old)

    assert (refused.value.snapshot, refused.value.known, refused.value.counted) == (1, 2, "outputs")
    assert (daemon.total, host.head_digest, host.stats.events_processed) == (10, head, 2)


def test_restore_in_place_refuses_another_chain_of_the_same_entity() -> None:
    identity = Identity.generate()
    host, daemon = counting(identity)
    twin, _ = counting(identity)
    host.deliver(numbered(1, 5))
    twin.deliver(numbered(1, 6))

    with pytest.raises(RestoreFailed) as refused:
        host.restore_from_snapshot(taken(twin))

    assert refused.value.kind == "wrong_chain"
    assert daemon.total == 5


class Fragile(Counter):
    """Is half changed when it refuses a state."""

    name = "counter"
    broken = False

    def restore(self, state: bytes) -> None:
        self.total = -1
        if self.broken or state == struct.pack("<q", 13):
            raise ValueError("on purpose")
        super().restore(state)


def test_a_restore_in_place_that_raises_leaves_everything_as_it_was() -> None:
    daemon = Fragile()
    host = DaemonHost(daemon, Identity.generate())
    other, _ = counting()
    other.record_subscription(1, "a/b")
    other.deliver(numbered(8, 13))
    host.deliver(numbered(1, 5))
    before = (host.head_link, host.head_digest, host.bindings_snapshot(), host.stats.events_processed)

    with pytest.raises(RestoreFailed) as failed:
        host.restore_from_snapshot(taken(other))

    assert isinstance(failed.value.__cause__, ValueError)
    assert daemon.total == 5
    assert (host.head_link, host.head_digest, host.bindings_snapshot(), host.stats.events_processed) == before
    assert host.stats.errors == 1
    assert len(host.deliver(numbered(2))) == 1


def test_a_host_that_cannot_go_back_takes_no_more_events() -> None:
    daemon = Fragile()
    host = DaemonHost(daemon, Identity.generate())
    other, _ = counting()
    snapshot = taken(other)
    daemon.broken = True

    with pytest.raises(RestoreFailed):
        host.restore_from_snapshot(snapshot)
    with pytest.raises(RestoreFailed) as refused:
        host.deliver(numbered(1))

    assert refused.value.kind == "failed"


# ---------------------------------------------------------------- forks


def test_a_fork_begins_at_its_own_genesis() -> None:
    parent, _ = counting()
    parent.deliver(numbered(1))

    child, record, chain = fork_entity(parent.keypair, parent.sequence, parent.head_digest)
    digest = chain.head_digest
    daemon = Counter()
    host = DaemonHost.from_fork(daemon, child, chain)

    record.verify()
    assert (record.parent, record.child) == (parent.entity_id, child.entity_id)
    assert (host.entity_id, host.sequence, host.head_digest) == (child.entity_id, 0, digest)
    (output,) = host.deliver(numbered(1))
    assert output.sequence == 1
    assert output.link.parent_hash == int.from_bytes(digest[:8], "little")


def test_a_fork_under_another_key_is_refused() -> None:
    parent, _ = counting()
    _, _, chain = fork_entity(parent.keypair, 0, parent.head_digest)

    with pytest.raises(RestoreFailed) as refused:
        DaemonHost.from_fork(Counter(), Identity.generate(), chain)

    assert refused.value.kind == "wrong_chain"


def test_a_fork_goes_on_after_a_restore() -> None:
    parent, _ = counting()
    child, _, chain = fork_entity(parent.keypair, 0, parent.head_digest)
    host = DaemonHost.from_fork(Counter(), child, chain)
    host.deliver(numbered(1))

    again = DaemonHost.from_snapshot(Counter(), child, taken(host))

    assert again.head_digest == host.head_digest
    assert again.deliver(numbered(2))[0].sequence == 2


# ---------------------------------------------------------------- the ledger


def test_a_subscription_is_recorded_replaced_and_forgotten() -> None:
    host, _ = counting()

    host.record_subscription(2, "b")
    host.record_subscription(1, "a", b"token")
    host.record_subscription(1, ChannelName("a"), b"newer")

    assert host.subscription_count == 2
    assert host.bindings_snapshot().subscriptions == (
        SubscriptionBinding(1, "a", b"newer"),
        SubscriptionBinding(2, "b"),
    )
    host.forget_subscription(1, "a")
    host.forget_subscription(1, "a")
    assert host.bindings_snapshot().subscriptions == (SubscriptionBinding(2, "b"),)


def test_the_ledger_moves_with_the_state() -> None:
    identity = Identity.generate()
    host, _ = counting(identity)
    host.record_subscription(1, "a", b"token")

    again = DaemonHost.from_snapshot(Counter(), identity, StateSnapshot.from_bytes(taken(host).to_bytes()))

    assert again.bindings_snapshot() == host.bindings_snapshot()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((1, "A"), ChannelNameError),
        ((1, ""), ChannelNameError),
        ((-1, "a"), InvalidArgument),
        ((2**64, "a"), InvalidArgument),
        ((1, "a", bytes(65536)), InvalidArgument),
        ((1, "a", "text"), TypeError),
        (("1", "a"), TypeError),
        ((1, b"a"), TypeError),
    ],
)
def test_a_wrong_subscription_is_refused(arguments: tuple[object, ...], error: type[Exception]) -> None:
    host, _ = counting()

    with pytest.raises(error):
        host.record_subscription(*arguments)  # type: ignore[arg-type]

    assert host.subscription_count == 0


def test_a_view_of_the_ledger_does_not_change() -> None:
    host, _ = counting()
    before = host.bindings_snapshot()

    host.record_subscription(1, "a")

    assert before.subscriptions == ()


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [
        {"auto_snapshot_interval": -1},
        {"auto_snapshot_interval": 2**64},
        {"max_log_entries": 0},
        {"max_log_entries": -1},
        {"max_log_entries": 2**32},
        {"outputs_max": -1},
        {"outputs_max": 2**32},
        {"outputs_bytes_max": -1},
        {"delivery": "twice"},
        {"on_error": "ignore"},
    ],
    ids=str,
)
def test_an_option_out_of_range_names_itself(options: dict[str, int]) -> None:
    (field,) = options

    with pytest.raises(ConfigError) as refused:
        DaemonHostConfig(**options)  # type: ignore[arg-type]

    assert refused.value.field == field


class Noted(Counter):
    """Counts how often it was asked for its state."""

    name = "counter"

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.fails = False

    def snapshot(self) -> bytes:
        self.asked += 1
        if self.fails:
            raise OSError("disk full")
        return super().snapshot()


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
def test_automatic_snapshots_come_exactly_at_their_interval(interval: int) -> None:
    daemon = Noted()
    host = DaemonHost(daemon, Identity.generate(), DaemonHostConfig(auto_snapshot_interval=interval))

    asked = []
    for number in range(1, 22):
        host.deliver(numbered(number))
        host.deliver(numbered(number))
        asked.append(daemon.asked)

    assert asked == [number // interval for number in range(1, 22)]
    assert host.stats.snapshots_taken == daemon.asked


def test_a_snapshot_by_hand_begins_the_interval_anew() -> None:
    daemon = Noted()
    host = DaemonHost(daemon, Identity.generate(), DaemonHostConfig(auto_snapshot_interval=3))

    for number in (1, 2):
        host.deliver(numbered(number))
    host.take_snapshot()
    for number in (3, 4):
        host.deliver(numbered(number))
    before = daemon.asked
    host.deliver(numbered(5))

    assert (before, daemon.asked) == (1, 2)


def test_an_automatic_snapshot_that_raises_does_not_undo_the_event() -> None:
    daemon = Noted()
    host = DaemonHost(daemon, Identity.generate(), DaemonHostConfig(auto_snapshot_interval=1))
    daemon.fails = True

    (output,) = host.deliver(numbered(1))

    assert output.sequence == 1
    assert (host.stats.events_processed, host.stats.snapshots_taken, host.stats.errors) == (1, 0, 1)
    daemon.fails = False
    host.deliver(numbered(2))
    assert host.stats.snapshots_taken == 1


@pytest.mark.parametrize("entries", [1, 2, 5])
def test_a_full_log_takes_a_snapshot_before_one_more_input(entries: int) -> None:
    daemon = Noted()
    config = DaemonHostConfig(on_error="restore", max_log_entries=entries)
    host = DaemonHost(daemon, Identity.generate(), config)

    asked = []
    for number in range(1, 12):
        host.deliver(numbered(number))
        asked.append(daemon.asked)

    assert asked == [1 + (number - 1) // entries for number in range(1, 12)]


def test_a_full_log_without_a_snapshot_takes_no_more_inputs() -> None:
    daemon = Noted()
    host = DaemonHost(daemon, Identity.generate(), DaemonHostConfig(on_error="restore", max_log_entries=1))
    host.deliver(numbered(1))
    daemon.fails = True

    with pytest.raises(SnapshotFailed):
        host.deliver(numbered(2))

    assert (daemon.total, host.stats.events_processed) == (1, 1)
    daemon.fails = False
    assert len(host.deliver(numbered(2))) == 1


def test_a_log_is_not_kept_without_restore() -> None:
    daemon = Noted()
    host = DaemonHost(daemon, Identity.generate(), DaemonHostConfig(max_log_entries=1))

    for number in range(1, 6):
        host.deliver(numbered(number))

    assert daemon.asked == 0


def test_restore_on_error_rebuilds_the_state_and_keeps_the_chain() -> None:
    host, daemon = counting(config=DaemonHostConfig(on_error="restore", max_log_entries=3))
    outputs: list[CausalEvent] = []
    for number in range(1, 11):
        outputs += host.deliver(numbered(2 * number, number))
        with pytest.raises(ProcessFailed):
            host.deliver(numbered(2 * number + 1, 0))

    assert daemon.total == sum(range(1, 11))
    assert host.stats.restarts == 10
    assert chained(outputs, host.entity_id) == host.head_digest


def test_restore_on_error_of_a_daemon_without_state_is_nothing_to_do() -> None:
    class Fails(Echo):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            raise ValueError("on purpose")

    host = DaemonHost(Fails(), Identity.generate(), DaemonHostConfig(on_error="restore"))

    with pytest.raises(ProcessFailed):
        host.deliver(event(1))

    assert stats(host) == (0, 0, 0, 1, 0, 0)


def test_a_chain_without_room_takes_nothing() -> None:
    identity = Identity.generate()
    full = CausalChainBuilder(identity.entity_id)
    head = full.append(b"last").link
    last = type(head)(head.origin_hash, head.horizon_encoded, 2**64 - 2, head.parent_hash)
    chain = CausalChainBuilder.from_head(identity.entity_id, last, full.head_digest)

    class Twice(Echo):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            return [b"one", b"two"]

    host = DaemonHost.from_fork(Twice(), identity, chain)
    with pytest.raises(ProcessFailed) as refused:
        host.deliver(event(1))

    assert refused.value.kind == "sequence_exhausted"
    assert (host.sequence, host.stats.events_processed, host.stats.errors) == (2**64 - 2, 0, 1)


# ---------------------------------------------------------------- against a model


class Model(NamedTuple):
    """A host in a few lines: what each operation does to total, cursors and outputs."""

    total: int
    cursors: dict[int, int]
    outputs: tuple[bytes, ...]
    counters: dict[str, int]

    def plus(self, **more: int) -> "Model":
        counters = {name: self.counters[name] + more.get(name, 0) for name in self.counters}
        return self._replace(counters=counters)


NOTHING = {
    "events_processed": 0,
    "events_emitted": 0,
    "duplicates": 0,
    "errors": 0,
    "snapshots_taken": 0,
    "restarts": 0,
}


class Kept(NamedTuple):
    host: DaemonHost
    daemon: Counter
    outputs: list[CausalEvent]


class HostMachine(RuleBasedStateMachine):
    """Hosts of one identity: deliver, repeat, fail, snapshot, continue elsewhere; each step is done to a model too."""

    snapshots = Bundle("snapshots")

    @initialize(on_error=st.sampled_from(["raise", "restore"]), log=st.integers(1, 4), interval=st.integers(0, 3))
    def begin(self, on_error: str, log: int, interval: int) -> None:
        self.identity = Identity.generate()
        self.config = DaemonHostConfig(
            on_error=on_error,  # type: ignore[arg-type]
            max_log_entries=log,
            auto_snapshot_interval=interval,
        )
        host, daemon = counting(self.identity, self.config)
        self.kept = Kept(host, daemon, [])
        self.since = 0
        self.model = Model(0, {}, (), dict(NOTHING))
        if on_error == "restore":
            self.model = self.model.plus(snapshots_taken=1)

    def snapshot_before(self) -> None:
        if self.config.on_error == "restore" and self.since >= self.config.max_log_entries:
            self.model = self.model.plus(snapshots_taken=1)
            self.since = 0

    @rule(origin=st.integers(1, 3), skip=st.integers(1, 3), value=st.integers(1, 9))
    def new(self, origin: int, skip: int, value: int) -> None:
        sequence = self.model.cursors.get(origin, 0) + skip
        outputs = self.kept.host.deliver(numbered(sequence, value, origin))

        self.snapshot_before()
        total = self.model.total + value
        assert [output.payload for output in outputs] == [struct.pack("<q", total)]
        self.kept.outputs.extend(outputs)
        self.since += 1
        self.model = self.model._replace(
            total=total,
            cursors={**self.model.cursors, origin: sequence},
            outputs=(*self.model.outputs, outputs[0].payload),
        ).plus(events_processed=1, events_emitted=1)
        if self.config.auto_snapshot_interval and self.since >= self.config.auto_snapshot_interval:
            self.model = self.model.plus(snapshots_taken=1)
            self.since = 0

    @rule(origin=st.integers(1, 3), back=st.integers(0, 3), value=st.integers(0, 9))
    def duplicate(self, origin: int, back: int, value: int) -> None:
        sequence = self.model.cursors.get(origin, 0) - back
        if sequence >= 1:
            assert self.kept.host.deliver(numbered(sequence, value, origin)) == []
            self.model = self.model.plus(duplicates=1)

    @rule(origin=st.integers(1, 3))
    def fails(self, origin: int) -> None:
        with pytest.raises(ProcessFailed):
            self.kept.host.deliver(numbered(self.model.cursors.get(origin, 0) + 1, 0, origin))

        self.snapshot_before()
        self.model = self.model.plus(errors=1)
        if self.config.on_error == "restore":
            self.model = self.model.plus(restarts=1)
        else:
            self.model = self.model._replace(total=self.model.total + 1_000_000)

    @rule(target=snapshots)
    def snapshot(self) -> tuple[StateSnapshot, Model, list[CausalEvent]]:
        self.model = self.model.plus(snapshots_taken=1)
        self.since = 0
        return taken(self.kept.host), self.model, list(self.kept.outputs)

    @rule(chosen=snapshots)
    def restore_elsewhere(self, chosen: tuple[StateSnapshot, Model, list[CausalEvent]]) -> None:
        snapshot, model, outputs = chosen
        daemon = Counter()
        data = StateSnapshot.from_bytes(snapshot.to_bytes())
        host = DaemonHost.from_snapshot(daemon, self.identity, data, self.config)
        self.kept = Kept(host, daemon, list(outputs))
        self.since = 0
        self.model = model
        if self.config.on_error == "restore":
            self.model = self.model.plus(snapshots_taken=1)

    @rule(target=snapshots, chosen=snapshots)
    def restore_into_another(self, chosen: tuple[StateSnapshot, Model, list[CausalEvent]]) -> object:
        snapshot, model, _ = chosen
        host, daemon = counting()
        own = host.deliver(numbered(1, 5, origin=9))

        host.restore_from_snapshot(snapshot)

        assert daemon.total == model.total
        assert dict(taken(host).cursors) == model.cursors
        own += host.deliver(numbered(10_000, 1, origin=9))
        assert chained(own, host.entity_id) == host.head_digest
        return multiple()

    @rule(at=st.floats(0, 1))
    def altered(self, at: float) -> None:
        outputs = list(self.kept.outputs)
        if outputs:
            place = min(int(at * len(outputs)), len(outputs) - 1)
            outputs[place] = CausalEvent(outputs[place].link, outputs[place].payload + b"!")
            altered = CausalChainBuilder(self.identity.entity_id)
            for output in outputs:
                altered.append(output.payload, output.link.horizon_encoded)
            assert altered.head_digest != self.kept.host.head_digest

    @invariant()
    def is_as_the_model(self) -> None:
        host, daemon, outputs = self.kept
        assert daemon.total == self.model.total
        assert host.sequence == len(self.model.outputs)
        assert [output.payload for output in outputs] == list(self.model.outputs)
        assert host.stats == DaemonStats(**self.model.counters)
        assert chained(outputs, self.identity.entity_id) == host.head_digest


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
