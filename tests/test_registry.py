"""A registry: who is there, who observes it, and what races come to."""

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest

import daemons
from daemons import (
    PATIENCE,
    Counter,
    Echo,
    Gated,
    Running,
    Witness,
    event,
    eventually,
    in_thread,
    node,
    numbered,
    spawned,
    witnessed,
)
from meshos import CausalEvent, DaemonHostConfig, DaemonRef, Identity, MeshDaemon
from meshos.daemon import DaemonHost, DaemonLifecycleEvent, DaemonLifecycleObserver, DaemonRegistry
from meshos.errors import (
    AlreadyRegistered,
    DaemonNotFound,
    InvalidArgument,
    ProcessFailed,
    ReentrantCallError,
    SnapshotFailed,
    StaleDaemon,
)
from meshos.events import Crashed, Registered, Unregistered


def echo(identity: Identity | None = None) -> DaemonHost:
    return DaemonHost(Echo(), identity or Identity.generate())


# ---------------------------------------------------------------- who is there


def test_a_registered_host_is_found_by_its_handle() -> None:
    registry, host = DaemonRegistry(), echo()

    registry.register(host)

    assert (registry.count(), registry.contains(host.origin_hash)) == (1, True)
    assert registry.daemons() == (DaemonRef(host.origin_hash, "echo"),)
    assert registry.daemons()[0].name == "echo"
    assert [output.payload for output in registry.deliver(host.origin_hash, event(1, b"one"))] == [b"one"]
    assert registry.stats(host.origin_hash).events_processed == 1
    assert host.sequence == 1


def test_a_second_daemon_of_an_identity_leaves_the_first_alone() -> None:
    identity = Identity.generate()
    registry, first, second = DaemonRegistry(), echo(identity), echo(identity)
    registry.register(first)

    with pytest.raises(AlreadyRegistered) as refused:
        registry.register(second)

    assert refused.value.what == identity.origin_hash
    registry.deliver(identity.origin_hash, event(1, b"one"))
    assert (first.sequence, second.sequence) == (1, 0)


def test_one_host_is_in_one_registry() -> None:
    host = echo()
    DaemonRegistry().register(host)

    with pytest.raises(AlreadyRegistered):
        DaemonRegistry().register(host)
    with pytest.raises(AlreadyRegistered):
        DaemonRegistry().replace(host)


def test_a_replacement_takes_the_place_and_the_old_one_is_stale() -> None:
    identity = Identity.generate()
    registry, old, new = DaemonRegistry(), echo(identity), echo(identity)
    registry.register(old)

    registry.replace(new)

    registry.deliver(identity.origin_hash, event(1))
    assert (registry.count(), old.sequence, new.sequence) == (1, 0, 1)
    with pytest.raises(StaleDaemon) as refused:
        old.deliver(event(1))
    assert refused.value.origin_hash == identity.origin_hash


def test_replace_adds_where_nobody_was() -> None:
    registry, host = DaemonRegistry(), echo()

    registry.replace(host)

    assert registry.contains(host.origin_hash)


def test_an_unregistered_daemon_is_not_found_and_its_host_is_stale() -> None:
    registry, host = DaemonRegistry(), echo()
    registry.register(host)

    registry.unregister(host.origin_hash)

    assert registry.count() == 0
    with pytest.raises(StaleDaemon):
        host.deliver(event(1))
    unknown: list[Callable[[], object]] = [
        lambda: registry.unregister(host.origin_hash),
        lambda: registry.deliver(host.origin_hash, event(1)),
        lambda: registry.snapshot(host.origin_hash),
        lambda: registry.stats(host.origin_hash),
        lambda: registry.with_host(host.origin_hash, repr),
    ]
    for call in unknown:
        with pytest.raises(DaemonNotFound) as missing:
            call()
        assert missing.value.origin_hash == host.origin_hash


@pytest.mark.parametrize("handle", [-1, 2**64])
def test_a_handle_out_of_range_is_an_error_of_its_own(handle: int) -> None:
    with pytest.raises(InvalidArgument):
        DaemonRegistry().contains(handle)


def test_snapshot_and_restore_go_through_the_registry() -> None:
    registry, daemon, other = DaemonRegistry(), Counter(), DaemonHost(Counter(), Identity.generate())
    host = DaemonHost(daemon, Identity.generate())
    registry.register(host)
    other.deliver(numbered(1, 5))
    snapshot = other.take_snapshot()
    assert snapshot is not None

    registry.restore_from_snapshot(host.origin_hash, snapshot)

    assert daemon.total == 5
    taken = registry.snapshot(host.origin_hash)
    assert taken is not None
    assert taken.state == snapshot.state
    assert taken.entity_id == host.entity_id


def test_a_snapshot_that_raises_is_an_error_of_the_registry_too() -> None:
    class Broken(Counter):
        def snapshot(self) -> bytes:
            raise OSError("disk full")

    registry, host = DaemonRegistry(), DaemonHost(Broken(), Identity.generate())
    registry.register(host)

    with pytest.raises(SnapshotFailed):
        registry.snapshot(host.origin_hash)


# ---------------------------------------------------------------- with_host


def test_with_host_reads_between_two_events() -> None:
    registry, host = DaemonRegistry(), echo()
    registry.register(host)
    registry.deliver(host.origin_hash, event(1))

    seen = registry.with_host(
        host.origin_hash, lambda found: (found.sequence, found.stats.events_processed, found.name)
    )

    assert seen == (1, 1, "echo")


def test_with_host_does_not_deliver() -> None:
    registry, host = DaemonRegistry(), echo()
    registry.register(host)

    with pytest.raises(ReentrantCallError):
        registry.with_host(host.origin_hash, lambda found: found.deliver(event(1)))

    assert host.sequence == 0


def test_with_host_hands_on_what_its_function_raises() -> None:
    registry, host = DaemonRegistry(), echo()
    registry.register(host)
    error = ValueError("on purpose")

    def fail(found: DaemonHost) -> None:
        raise error

    with pytest.raises(ValueError, match="on purpose") as raised:
        registry.with_host(host.origin_hash, fail)

    assert raised.value is error
    assert len(registry.deliver(host.origin_hash, event(1))) == 1


def test_with_host_may_unregister_its_own_daemon() -> None:
    registry, host = DaemonRegistry(), echo()
    registry.register(host)

    registry.with_host(host.origin_hash, lambda found: registry.unregister(found.origin_hash))

    assert registry.count() == 0
    with pytest.raises(StaleDaemon):
        host.deliver(event(1))


def test_a_host_kept_from_with_host_is_still_the_daemon() -> None:
    registry, host = DaemonRegistry(), echo()
    registry.register(host)

    kept = registry.with_host(host.origin_hash, lambda found: found)
    kept.deliver(event(1))

    assert host.sequence == 1


# ---------------------------------------------------------------- one daemon waits for nobody else


def test_a_wedged_daemon_holds_up_nobody_else() -> None:
    registry, daemon = DaemonRegistry(), Gated()
    busy, free = DaemonHost(daemon, Identity.generate()), echo()
    registry.register(busy)
    registry.register(free)

    with in_thread(lambda: registry.deliver(busy.origin_hash, event(1, b"block"))):
        assert daemon.entered.wait(PATIENCE)

        assert len(registry.deliver(free.origin_hash, event(1))) == 1
        assert registry.stats(busy.origin_hash).events_processed == 0
        assert len(registry.daemons()) == 2
        registry.poll()
        registry.unregister(busy.origin_hash)
        assert registry.count() == 1
        daemon.leave.set()


def test_who_waited_for_a_replaced_daemon_is_told_so() -> None:
    identity = Identity.generate()
    registry, daemon = DaemonRegistry(), Gated()
    registry.register(DaemonHost(daemon, identity))

    with in_thread(lambda: registry.deliver(identity.origin_hash, event(1, b"block"))) as inside:
        assert daemon.entered.wait(PATIENCE)
        waiting = threading.Event()

        def wait() -> object:
            waiting.set()
            return registry.deliver(identity.origin_hash, event(2, b"late"))

        with in_thread(wait) as late:
            assert waiting.wait(PATIENCE)
            registry.replace(echo(identity))
            daemon.leave.set()
            # Either it already waited for the old one, or it came late enough to find the new one.
            late.thread.join(PATIENCE)
            if late.error is not None:
                assert isinstance(late.error, StaleDaemon)
        inside.outcome()

    assert b"late" not in daemon.seen
    assert registry.contains(identity.origin_hash)


# ---------------------------------------------------------------- observers


def test_events_are_numbered_named_and_dated() -> None:
    registry = DaemonRegistry()
    witness = witnessed(registry)
    host = echo()

    registry.register(host)
    registry.unregister(host.origin_hash)

    assert witness.signals(2) == [Registered(), Unregistered()]
    assert [seen.number for seen in witness.events] == [1, 2]
    assert [seen.daemon for seen in witness.events] == [DaemonRef(host.origin_hash, "echo")] * 2
    assert witness.events[0].daemon.name == "echo"
    assert witness.events[0].at <= witness.events[1].at
    assert witness.events[0].at.tzinfo is not None


def test_a_late_observer_first_sees_who_is_there() -> None:
    registry = DaemonRegistry()
    hosts = [echo() for _ in range(5)]
    for host in hosts:
        registry.register(host)
    registry.unregister(hosts[2].origin_hash)

    witness = witnessed(registry)
    registry.register(echo())

    assert witness.signals(5) == [Registered()] * 5
    assert [seen.number for seen in witness.events] == [1, 2, 4, 5, 7]


def test_a_replacement_is_told_as_leaving_and_coming() -> None:
    identity = Identity.generate()
    registry = DaemonRegistry()
    witness = witnessed(registry)

    registry.register(echo(identity))
    registry.replace(echo(identity))

    assert witness.signals(3) == [Registered(), Unregistered(), Registered()]


def test_an_observer_that_raises_is_counted_logged_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(Witness):
        def observe(self, event: DaemonLifecycleEvent) -> None:
            super().observe(event)
            raise ValueError("on purpose")

    registry, witness = DaemonRegistry(), Raises()
    registry.add_observer(witness)
    other = witnessed(registry)

    with caplog.at_level(logging.WARNING, "meshos"):
        for _ in range(3):
            registry.register(echo())
        witness.signals(3)
        other.signals(3)
        eventually(lambda: registry.observer_errors == 3)
        registry.remove_observer(witness)
        registry.register(echo())
        other.signals(4)

    assert len(witness.events) == 3
    assert registry.observer_errors == 3
    assert registry.dropped_events == 0
    assert "on purpose" in caplog.text


def test_a_removed_observer_sees_nothing_more() -> None:
    registry = DaemonRegistry()
    gone, stays = witnessed(registry), witnessed(registry)
    registry.register(echo())
    gone.signals(1)

    registry.remove_observer(gone)
    registry.remove_observer(gone)
    registry.register(echo())

    stays.signals(2)
    assert len(gone.events) == 1


def test_a_slow_observer_delays_neither_daemons_nor_other_observers() -> None:
    leave = threading.Event()

    class Slow(Witness):
        def observe(self, event: DaemonLifecycleEvent) -> None:
            assert leave.wait(PATIENCE)
            super().observe(event)

    registry, slow = DaemonRegistry(), Slow()
    registry.add_observer(slow)
    fast = witnessed(registry)

    for _ in range(50):
        registry.register(echo())
    fast.signals(50)

    assert slow.events == []
    leave.set()
    assert len(slow.signals(50)) == 50
    assert [seen.number for seen in slow.events] == list(range(1, 51))


def test_an_observer_too_far_behind_misses_events_and_they_are_counted() -> None:
    leave = threading.Event()

    class Slow(Witness):
        def observe(self, event: DaemonLifecycleEvent) -> None:
            assert leave.wait(PATIENCE)
            super().observe(event)

    identity, extra = Identity.generate(), 100
    registry, slow = DaemonRegistry(), Slow()
    registry.add_observer(slow)
    registry.register(echo(identity))
    for _ in range((16_384 + extra) // 2):
        registry.replace(echo(identity))

    leave.set()

    dropped = registry.dropped_events
    assert extra <= dropped + 1 <= extra + 3
    assert len(slow.signals(16_384 + extra + 1 - dropped)) == 16_384 + extra + 1 - dropped
    assert [seen.number for seen in slow.events] == list(range(1, len(slow.events) + 1))


def test_an_observer_may_call_the_registry() -> None:
    class Reads(DaemonLifecycleObserver):
        def __init__(self) -> None:
            self.counts: list[int] = []
            self.done = threading.Event()

        def observe(self, event: DaemonLifecycleEvent) -> None:
            self.counts.append(len(registry.deliver(event.daemon.id, daemons.event(1, b"hello"))))
            self.done.set()

    registry, observer = DaemonRegistry(), Reads()
    registry.add_observer(observer)

    registry.register(echo())

    assert observer.done.wait(PATIENCE)
    assert observer.counts == [1]


@pytest.mark.parametrize("observer", [None, 7, object(), "text"])
def test_something_else_is_no_observer(observer: object) -> None:
    with pytest.raises(TypeError):
        DaemonRegistry().add_observer(observer)  # type: ignore[arg-type]


# ---------------------------------------------------------------- races

THREADS = 8
ROUNDS = 60


def together(work: Callable[[int], object]) -> list[Running]:
    """Run work on eight threads that begin at once."""
    barrier = threading.Barrier(THREADS)

    def begin(number: int) -> object:
        barrier.wait(PATIENCE)
        return work(number)

    running = [Running(lambda number=number: begin(number)) for number in range(THREADS)]  # type: ignore[misc]
    for one in running:
        one.thread.start()
    for one in running:
        one.outcome()
    return running


def test_races_of_register_replace_unregister_and_deliver_tell_a_well_formed_story() -> None:
    identities = [Identity.generate() for _ in range(3)]
    registry = DaemonRegistry()
    witness = witnessed(registry)
    allowed = (AlreadyRegistered, DaemonNotFound, StaleDaemon)

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            identity = identities[(number + turn) % 3]
            steps: list[Callable[[], object]] = [
                lambda identity=identity: registry.register(echo(identity)),  # type: ignore[misc]
                lambda identity=identity: registry.replace(echo(identity)),  # type: ignore[misc]
                lambda identity=identity: registry.unregister(identity.origin_hash),  # type: ignore[misc]
                lambda identity=identity, turn=turn: registry.deliver(identity.origin_hash, event(turn + 1)),  # type: ignore[misc]
            ]
            with suppress(*allowed):
                steps[(number + turn) % 4]()

    together(work)
    for identity in identities:
        registry.replace(echo(identity))
        registry.unregister(identity.origin_hash)
    last = echo()
    registry.register(last)

    with witness.changed:
        assert witness.changed.wait_for(
            lambda: any(seen.daemon.id == last.origin_hash for seen in witness.events), PATIENCE
        )
    assert [seen.number for seen in witness.events] == list(range(1, len(witness.events) + 1))
    for identity in identities:
        here = False
        for seen in witness.events:
            if seen.daemon.id == identity.origin_hash:
                assert seen.signal == (Unregistered() if here else Registered())
                here = not here
        assert not here


def test_events_from_many_threads_take_effect_once_each() -> None:
    registry, daemon = DaemonRegistry(), Counter()
    host = DaemonHost(daemon, Identity.generate())
    registry.register(host)

    def work(number: int) -> None:
        for turn in range(1, ROUNDS + 1):
            registry.deliver(host.origin_hash, numbered(turn, 1, origin=number % 4))

    together(work)

    assert daemon.total == 4 * ROUNDS
    assert (host.stats.events_processed, host.stats.duplicates, host.sequence) == (4 * ROUNDS, 4 * ROUNDS, 4 * ROUNDS)


def test_calls_of_one_daemon_never_overlap() -> None:
    class Alone(MeshDaemon):
        def __init__(self) -> None:
            self.inside = 0
            self.most = 0

        def process(self, event: CausalEvent) -> Iterable[bytes]:
            self.enter()
            return []

        def snapshot(self) -> bytes:
            self.enter()
            return b""

        def restore(self, state: bytes) -> None:
            self.enter()

        def enter(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            for _ in range(200):
                pass
            self.inside -= 1

    daemon = Alone()
    with node() as runtime:
        origin = spawned(runtime, daemon)

        def work(number: int) -> None:
            for turn in range(1, ROUNDS + 1):
                runtime.deliver(origin, event(turn, origin=number))
                runtime.snapshot(origin)
                runtime.send(origin, b"")

        together(work)
        handle = runtime.find(origin)
        assert handle is not None

        assert daemon.most == 1
        assert handle.stats.events_processed == 2 * THREADS * ROUNDS
        assert handle.stats.snapshots_taken == THREADS * ROUNDS


def test_a_crash_on_a_registry_is_told_with_its_reason() -> None:
    registry, host = DaemonRegistry(), DaemonHost(Counter(), Identity.generate(), DaemonHostConfig())
    witness = witnessed(registry)
    registry.register(host)

    with pytest.raises(ProcessFailed):
        registry.deliver(host.origin_hash, numbered(1, 0))

    assert witness.signals(2)[1] == Crashed("process raised ZeroDivisionError: on purpose")
