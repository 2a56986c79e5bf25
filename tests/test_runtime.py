"""One node: its lifecycle, four ways to spawn, sends with receipts, and an end within its time."""

import struct
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import pytest

from daemons import PATIENCE, SOON, Counter, Echo, Gated, Running, event, in_thread, node, numbered, spawned
from meshos import (
    CausalEvent,
    DaemonHandle,
    DaemonHostConfig,
    DaemonRuntime,
    Identity,
    Mesh,
    MeshDaemon,
    Receipt,
    StateSnapshot,
    verify_chain,
)
from meshos.compute import FactoryEntry
from meshos.control import Resume
from meshos.daemon import DaemonHost
from meshos.errors import (
    AlreadyRegistered,
    AlreadyStored,
    Backpressure,
    BrokenLink,
    DaemonNotFound,
    DeliveryUnknown,
    FactoryAlreadyRegistered,
    FactoryNotFound,
    IdentityError,
    InvalidArgument,
    InvalidDaemon,
    LoopClosed,
    NotReady,
    ProcessFailed,
    RestoreFailed,
    SendTimeout,
    ShuttingDown,
    SnapshotIdentityMismatch,
    StaleDaemon,
    StaleSnapshot,
    WaitTimeout,
)

CONFIG = DaemonHostConfig()


def one(value: int = 1) -> bytes:
    return struct.pack("<q", value)


def taken(runtime: DaemonRuntime, origin: int) -> StateSnapshot:
    snapshot = runtime.snapshot(origin)
    assert snapshot is not None
    return snapshot


def state_of(runtime: DaemonRuntime, origin: int) -> int:
    return runtime.with_daemon(origin, Counter, lambda daemon: daemon.total)


def foreign(identity: Identity) -> StateSnapshot:
    """Give a snapshot of a counter that this node knows nothing of."""
    with node(counter=Counter) as elsewhere:
        handle = elsewhere.spawn("counter", identity)
        elsewhere.send(handle.origin_hash, one(5))
        return taken(elsewhere, handle.origin_hash)


# ---------------------------------------------------------------- lifecycle

IDENTITY = Identity.generate()
SNAPSHOT = foreign(IDENTITY)


def working(runtime: DaemonRuntime) -> dict[str, Callable[[], object]]:
    """Every call that works with a daemon, or begins one."""
    return {
        "spawn": lambda: runtime.spawn("counter", IDENTITY),
        "spawn_with_daemon": lambda: runtime.spawn_with_daemon(IDENTITY, CONFIG, Counter(), Counter),
        "spawn_from_snapshot": lambda: runtime.spawn_from_snapshot("counter", IDENTITY, SNAPSHOT),
        "spawn_from_snapshot_with_daemon": lambda: runtime.spawn_from_snapshot_with_daemon(
            IDENTITY, SNAPSHOT, CONFIG, Counter(), Counter
        ),
        "snapshot": lambda: runtime.snapshot(7),
        "newest_snapshot": lambda: runtime.newest_snapshot(7),
        "export_chain": lambda: runtime.export_chain(7, "never-written"),
        "with_daemon": lambda: runtime.with_daemon(7, Counter, repr),
        "control": lambda: runtime.control(7, Resume()),
        "deliver": lambda: runtime.deliver(7, event(1)),
        "deliver_many": lambda: runtime.deliver_many(7, [event(1)]),
        "send": lambda: runtime.send(7, b""),
        "send_many": lambda: runtime.send_many(7, [b""]),
    }


def refusals(runtime: DaemonRuntime) -> dict[str, type[BaseException] | None]:
    outcomes: dict[str, type[BaseException] | None] = {}
    for name, call in working(runtime).items():
        try:
            call()
            outcomes[name] = None
        except Exception as error:
            outcomes[name] = type(error)
    return outcomes


def test_nothing_works_before_the_start() -> None:
    runtime = DaemonRuntime(Mesh.local())
    runtime.register_factory("counter", Counter)

    assert set(refusals(runtime).values()) == {NotReady}
    with pytest.raises(NotReady):
        runtime.stop(7)
    assert (runtime.is_ready(), runtime.daemon_count(), runtime.find(7)) == (False, 0, None)
    runtime.shutdown()


def test_a_started_runtime_is_ready_and_may_be_started_again() -> None:
    with node(counter=Counter) as runtime:
        runtime.start()
        runtime.register_factory("echo", Echo)

        assert runtime.is_ready()
        assert runtime.factory_registry().kinds() == {"counter", "echo"}


def test_an_unknown_daemon_is_not_found() -> None:
    with node() as runtime:
        outcomes = refusals(runtime)

        assert {name for name, error in outcomes.items() if error is DaemonNotFound} == {
            name for name in working(runtime) if not name.startswith("spawn")
        }
        runtime.stop(IDENTITY.origin_hash)
        with pytest.raises(DaemonNotFound):
            runtime.stop(7)


def test_nothing_works_after_the_shutdown() -> None:
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", Identity.generate())
    runtime.shutdown()

    assert set(refusals(runtime).values()) == {ShuttingDown}
    fenced: list[Callable[[], object]] = [
        runtime.start,
        lambda: runtime.register_factory("x", Echo),
        handle.snapshot,
    ]
    for call in fenced:
        with pytest.raises(ShuttingDown):
            call()
    runtime.stop(7)
    assert (runtime.is_ready(), runtime.daemon_count()) == (False, 0)
    assert handle.stats.events_processed == 0


def test_a_runtime_may_be_shut_down_before_it_was_started() -> None:
    runtime = DaemonRuntime(Mesh.local())

    runtime.shutdown()

    with pytest.raises(ShuttingDown):
        runtime.start()


def test_leaving_the_block_shuts_down_even_after_an_error() -> None:
    with pytest.raises(ValueError, match="on purpose"), node() as runtime:
        raise ValueError("on purpose")

    assert not runtime.is_ready()


def test_a_clone_is_the_same_runtime() -> None:
    with node(echo=Echo) as runtime:
        clone = runtime.clone()
        handle = clone.spawn("echo", Identity.generate())

        assert clone is runtime
        assert runtime.find(handle.origin_hash) == handle


def test_a_node_has_one_runtime_at_a_time() -> None:
    mesh = Mesh.local()
    first = DaemonRuntime(mesh)

    with pytest.raises(AlreadyRegistered) as refused:
        DaemonRuntime(mesh)

    assert refused.value.what == mesh.node_id
    first.shutdown()
    with DaemonRuntime(mesh) as second:
        assert second.mesh() is mesh


def test_a_closed_mesh_shuts_its_runtime_down_and_takes_no_other() -> None:
    mesh = Mesh.local()
    runtime = DaemonRuntime(mesh)
    runtime.start()
    spawned(runtime, Echo())

    with mesh:
        pass
    mesh.close()

    assert (runtime.is_ready(), runtime.daemon_count()) == (False, 0)
    with pytest.raises(LoopClosed):
        DaemonRuntime(mesh)


def test_a_node_has_the_identity_it_was_given() -> None:
    identity = Identity.generate()

    mesh = Mesh.local(identity=identity)
    identity.erase()

    assert (mesh.entity_id, mesh.node_id) == (identity.entity_id, identity.entity_id.node_id)
    with DaemonRuntime(mesh) as runtime:
        runtime.start()
        assert runtime.is_ready()


def test_a_public_key_is_no_node() -> None:
    with pytest.raises(IdentityError) as refused:
        Mesh.local(identity=Identity.public_only(Identity.generate().entity_id))

    assert refused.value.kind == "read_only"


# ---------------------------------------------------------------- factories and handles


def test_a_kind_has_one_factory() -> None:
    with node(counter=Counter) as runtime:
        with pytest.raises(FactoryAlreadyRegistered) as refused:
            runtime.register_factory("counter", Echo)

        assert refused.value.daemon_kind == "counter"
        assert isinstance(runtime.factory_registry().construct("counter"), Counter)


def test_a_class_is_checked_when_it_is_registered() -> None:
    class Half(Echo):
        def snapshot(self) -> bytes:
            return b""

    with node() as runtime:
        with pytest.raises(InvalidDaemon):
            runtime.register_factory("half", Half)

        assert runtime.factory_registry().kinds() == frozenset()


@pytest.mark.parametrize("kind", ["", "x" * 256, "\ud800"])
def test_a_bad_kind_is_refused(kind: str) -> None:
    with node() as runtime, pytest.raises(InvalidArgument):
        runtime.register_factory(kind, Echo)


def test_an_unknown_kind_is_refused() -> None:
    with node() as runtime:
        with pytest.raises(FactoryNotFound) as refused:
            runtime.spawn("nobody", Identity.generate())
        with pytest.raises(FactoryNotFound):
            runtime.spawn_from_snapshot("nobody", IDENTITY, SNAPSHOT)
        with pytest.raises(FactoryNotFound):
            runtime.factory_registry().construct("nobody")

        assert refused.value.daemon_kind == "nobody"


def test_a_handle_tells_whom_it_names() -> None:
    identity = Identity.generate()
    with node(bean=Counter) as runtime:
        handle = runtime.spawn("bean", identity)
        runtime.send(handle.origin_hash, one())

        assert (handle.origin_hash, handle.entity_id, handle.kind) == (
            identity.origin_hash,
            identity.entity_id,
            "bean",
        )
        assert (handle.ref.id, handle.ref.name) == (identity.origin_hash, "counter")
        assert handle.stats.events_processed == 1
        assert handle == runtime.find(identity.origin_hash)
        snapshot = handle.snapshot()
        assert snapshot is not None
        assert (snapshot.kind, snapshot.processed) == ("bean", 1)
        entry = runtime.factory_registry().entry(identity.origin_hash)
        assert entry == FactoryEntry("bean", CONFIG, True)


def test_a_handle_keeps_its_last_counters_after_the_stop() -> None:
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", Identity.generate())
        runtime.send(handle.origin_hash, one())
        runtime.stop(handle.origin_hash)

        assert handle.stats.events_processed == 1
        with pytest.raises(DaemonNotFound):
            handle.snapshot()
        assert runtime.find(handle.origin_hash) is None
        assert runtime.factory_registry().entry(handle.origin_hash) is None


def test_dropping_a_handle_does_not_stop_the_daemon() -> None:
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", Identity.generate()).origin_hash

        assert runtime.daemon_count() == 1
        assert runtime.send(origin, b"").processed == 1


def test_with_daemon_shows_the_live_object_to_who_names_its_class() -> None:
    daemon = Counter()
    with node() as runtime:
        origin = spawned(runtime, daemon)

        assert runtime.with_daemon(origin, Counter, lambda live: live is daemon)
        assert runtime.with_daemon(origin, MeshDaemon, lambda live: live is daemon)  # type: ignore[type-abstract]
        with pytest.raises(TypeError, match="Echo"):
            runtime.with_daemon(origin, Echo, repr)


# ---------------------------------------------------------------- spawn


def test_a_second_spawn_leaves_the_incumbent_alone() -> None:
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", IDENTITY)
        runtime.send(handle.origin_hash, one(5))
        attempts: list[Callable[[], object]] = [
            lambda: runtime.spawn("counter", IDENTITY),
            lambda: runtime.spawn_with_daemon(IDENTITY, CONFIG, Counter(), Counter),
            lambda: runtime.spawn_from_snapshot("counter", IDENTITY, SNAPSHOT),
            lambda: runtime.spawn_from_snapshot_with_daemon(IDENTITY, SNAPSHOT, CONFIG, Counter(), Counter),
        ]

        for attempt in attempts:
            with pytest.raises(AlreadyRegistered) as refused:
                attempt()
            assert refused.value.what == IDENTITY.origin_hash

        assert (state_of(runtime, handle.origin_hash), runtime.daemon_count()) == (5, 1)
        assert runtime.send(handle.origin_hash, one(1)).processed == 2


def test_a_daemon_with_a_past_is_not_begun_anew() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", identity)
        runtime.send(handle.origin_hash, one(5))
        runtime.stop(handle.origin_hash)

        with pytest.raises(AlreadyStored) as refused:
            runtime.spawn("counter", identity)
        with pytest.raises(AlreadyStored):
            runtime.spawn_with_daemon(identity, CONFIG, Counter(), Counter)

        assert refused.value.origin_hash == identity.origin_hash
        assert runtime.daemon_count() == 0


def test_a_daemon_that_did_nothing_has_no_past() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        runtime.stop(runtime.spawn("counter", identity).origin_hash)

        assert runtime.spawn("counter", identity).stats.events_processed == 0


def test_a_daemon_without_state_continues_its_chain() -> None:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        handle = runtime.spawn("echo", identity)
        runtime.deliver(handle.origin_hash, event(1, b"one"))
        runtime.stop(handle.origin_hash)

        again = runtime.spawn("echo", identity)

        assert runtime.deliver(again.origin_hash, event(1, b"one")) == []
        assert runtime.deliver(again.origin_hash, event(2, b"two"))[0].sequence == 2


def test_a_snapshot_at_the_head_continues_in_the_same_epoch(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        receipts = [runtime.send(origin, one(number)) for number in (1, 2, 3)]
        snapshot = taken(runtime, origin)
        runtime.stop(origin)

        handle = runtime.spawn_from_snapshot("counter", identity, snapshot)
        receipts += runtime.send_many(origin, [one(4), one(5)])

        assert handle.stats.restarts == 0
        report = runtime.export_chain(origin, tmp_path / "chain")
        assert verify_chain(tmp_path / "chain", identity.entity_id, receipts=receipts) == report
        assert [(span.epoch, span.first_sequence, span.last_sequence) for span in report.owners] == [(1, 1, 5)]
        assert [receipt.processed for receipt in receipts] == [1, 2, 3, 4, 5]


def test_a_snapshot_of_another_identity_is_refused() -> None:
    other = Identity.generate()
    with node(counter=Counter) as runtime:
        with pytest.raises(SnapshotIdentityMismatch) as refused:
            runtime.spawn_from_snapshot("counter", other, SNAPSHOT)

        assert (refused.value.snapshot, refused.value.identity) == (IDENTITY.entity_id, other.entity_id)
        assert runtime.daemon_count() == 0


def test_a_snapshot_of_another_kind_is_refused() -> None:
    with node(other=Counter, echo=Echo) as runtime:
        for kind in ("other", "echo"):
            with pytest.raises(RestoreFailed) as refused:
                runtime.spawn_from_snapshot(kind, IDENTITY, SNAPSHOT)
            assert refused.value.kind == "wrong_kind"

        assert runtime.daemon_count() == 0


def test_a_kind_names_an_instance_of_the_caller() -> None:
    with node() as runtime:
        origin = runtime.spawn_with_daemon(Identity.generate(), CONFIG, Counter(), Counter, kind="bean").origin_hash

        snapshot = taken(runtime, origin)

        assert snapshot.kind == "bean"


def test_a_public_key_spawns_nothing() -> None:
    public = Identity.public_only(Identity.generate().entity_id)
    with node(counter=Counter) as runtime:
        with pytest.raises(IdentityError) as refused:
            runtime.spawn("counter", public)

        assert refused.value.kind == "read_only"
        assert runtime.daemon_count() == 0


def test_an_unknown_past_begins_a_new_epoch(tmp_path: Path) -> None:
    identity = Identity.generate()
    snapshot = foreign(identity)
    with node(counter=Counter) as runtime:
        handle = runtime.spawn_from_snapshot("counter", identity, snapshot)
        receipt = runtime.send(handle.origin_hash, one(1))

        assert (receipt.epoch, receipt.sequence) == (2, 2)
        assert state_of(runtime, handle.origin_hash) == 6
        report = runtime.export_chain(handle.origin_hash, tmp_path / "chain")
        assert report.first_sequence == 2
        assert verify_chain(tmp_path / "chain", identity.entity_id, receipts=[receipt]) == report


def test_an_older_snapshot_is_refused_unless_the_rest_is_rolled_back(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        runtime.send_many(origin, [one(1), one(2)])
        old = taken(runtime, origin)
        runtime.send(origin, one(3))
        runtime.stop(origin)

        with pytest.raises(StaleSnapshot) as refused:
            runtime.spawn_from_snapshot("counter", identity, old)
        assert (refused.value.snapshot, refused.value.known, refused.value.counted) == (2, 3, "outputs")
        assert runtime.daemon_count() == 0

        handle = runtime.spawn_from_snapshot("counter", identity, old, rewind=True)
        receipt = runtime.send(origin, one(10))

        assert (receipt.epoch, receipt.sequence, receipt.processed) == (2, 3, 3)
        assert (state_of(runtime, origin), handle.stats.restarts) == (13, 1)
        report = runtime.export_chain(origin, tmp_path / "chain")
        assert verify_chain(tmp_path / "chain", identity.entity_id, receipts=[receipt]) == report
        assert report.owners[-1].epoch == 2
        assert report.last_sequence == 3


def test_a_rolled_back_receipt_does_not_verify(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        runtime.send(origin, one(1))
        old = taken(runtime, origin)
        lost = runtime.send(origin, one(2))
        runtime.stop(origin)
        runtime.spawn_from_snapshot("counter", identity, old, rewind=True)
        kept = runtime.send(origin, one(3))
        runtime.export_chain(origin, tmp_path / "chain")

        assert verify_chain(tmp_path / "chain", identity.entity_id, receipts=[kept]).last_sequence == 2
        with pytest.raises(BrokenLink) as refused:
            verify_chain(tmp_path / "chain", identity.entity_id, receipts=[lost])
        assert (refused.value.kind, refused.value.sequence) == ("receipt", 2)


def test_inputs_without_outputs_are_counted_too() -> None:
    class Silent(Counter):
        def process(self, event: CausalEvent) -> Iterable[bytes]:
            super().process(event)
            return []

    identity = Identity.generate()
    with node(silent=Silent) as runtime:
        origin = runtime.spawn("silent", identity).origin_hash
        runtime.send(origin, one())
        old = taken(runtime, origin)
        runtime.send(origin, one())
        runtime.stop(origin)

        with pytest.raises(StaleSnapshot) as refused:
            runtime.spawn_from_snapshot("silent", identity, old)

        assert (refused.value.snapshot, refused.value.known, refused.value.counted) == (1, 2, "inputs")


@pytest.mark.parametrize("how", ["unregister", "replace"])
def test_a_daemon_taken_out_of_the_registry_is_not_begun_anew(how: str) -> None:
    identity = Identity.generate()
    with node(counter=Counter, echo=Echo) as runtime:
        registry = runtime.daemon_registry()
        origin = runtime.spawn("counter", identity).origin_hash
        runtime.send_many(origin, [one(), one()])
        if how == "replace":
            registry.replace(DaemonHost(Counter(), identity))
        registry.unregister(origin)

        with pytest.raises(AlreadyStored):
            runtime.spawn("counter", identity)

        assert runtime.daemon_count() == 0


def test_a_daemon_taken_out_of_the_registry_continues_its_chain() -> None:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", identity).origin_hash
        runtime.send_many(origin, [b"one", b"two"])
        runtime.daemon_registry().unregister(origin)

        assert runtime.spawn("echo", identity).stats.events_processed == 2
        assert runtime.send(origin, b"three").sequence == 3


def test_a_refused_spawn_does_not_forget_the_past() -> None:
    identity = Identity.generate()

    class Broken(Counter):
        def restore(self, state: bytes) -> None:
            raise ValueError("on purpose")

    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        runtime.send(origin, one())
        head = taken(runtime, origin)
        runtime.stop(origin)

        with pytest.raises(RestoreFailed):
            runtime.spawn_from_snapshot_with_daemon(identity, head, CONFIG, Broken(), Broken, kind="counter")
        with pytest.raises(AlreadyStored):
            runtime.spawn("counter", identity)

        assert runtime.spawn_from_snapshot("counter", identity, head).stats.restarts == 0


def test_an_identity_that_is_being_restored_is_not_spawned_by_another_call() -> None:
    identity = Identity.generate()
    slow, entered, leave = [True], threading.Event(), threading.Event()

    class Slow(Counter):
        def restore(self, state: bytes) -> None:
            if slow and slow.pop():
                entered.set()
                assert leave.wait(PATIENCE)
            super().restore(state)

    with node(counter=Slow) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        runtime.send(origin, one(1))
        old = taken(runtime, origin)
        runtime.stop(origin)
        with in_thread(lambda: runtime.spawn_from_snapshot("counter", identity, old)) as restoring:
            assert entered.wait(PATIENCE)
            with pytest.raises(AlreadyRegistered):
                runtime.spawn_from_snapshot("counter", identity, old)
            with pytest.raises(AlreadyRegistered):
                runtime.spawn("counter", identity)
            assert runtime.daemon_count() == 0
            leave.set()
        restoring.outcome()

        assert runtime.send(origin, one(2)).sequence == 2
        assert state_of(runtime, origin) == 3


# ---------------------------------------------------------------- stop


def test_stop_lets_a_daemon_finish_its_event() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        with in_thread(lambda: runtime.deliver(origin, event(1, b"block"))) as delivering:
            assert daemon.entered.wait(PATIENCE)
            with in_thread(lambda: runtime.stop(origin)) as stopping:
                daemon.leave.set()
            stopping.outcome()

        assert [output.payload for output in delivering.outcome()] == [b"block"]  # type: ignore[attr-defined]
        assert runtime.daemon_count() == 0


def test_what_waits_in_the_mailbox_of_a_stopped_daemon_is_refused() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        with in_thread(lambda: runtime.send(origin, b"block")) as first:
            assert daemon.entered.wait(PATIENCE)
            with pytest.raises(SendTimeout):
                runtime.send(origin, b"late", timeout=SOON)
            runtime.daemon_registry().unregister(origin)
            daemon.leave.set()
        first.thread.join(PATIENCE)

    assert daemon.seen == [b"block"]
    assert first.error is None or isinstance(first.error, StaleDaemon)


# ---------------------------------------------------------------- deliver


def test_deliver_many_gives_the_outputs_of_each_event() -> None:
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", Identity.generate()).origin_hash

        outputs = runtime.deliver_many(origin, (numbered(number, number) for number in (1, 2, 2, 3)))

        assert [[output.payload for output in each] for each in outputs] == [[one(1)], [one(3)], [], [one(6)]]
        assert runtime.deliver_many(origin, []) == []


def test_deliver_many_stops_at_the_first_that_fails() -> None:
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", Identity.generate()).origin_hash
        events = [numbered(1, 1), numbered(1, 1), numbered(2, 2), numbered(3, 0), numbered(4, 4)]

        with pytest.raises(ProcessFailed) as failed:
            runtime.deliver_many(origin, events)

        assert [[output.payload for output in each] for each in failed.value.outputs] == [[one(1)], [], [one(3)]]
        assert (failed.value.event_origin, failed.value.event_sequence) == (7, 3)
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        assert len(runtime.deliver(origin, numbered(4, 4))) == 1


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", "text"])
def test_deliver_many_checks_every_event_before_the_first(wrong: object) -> None:
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", Identity.generate())

        with pytest.raises(TypeError):
            runtime.deliver_many(handle.origin_hash, [numbered(1), wrong])  # type: ignore[list-item]

        assert handle.stats.events_processed == 0


def test_events_that_raise_on_the_way_change_nothing() -> None:
    def broken() -> Iterable[CausalEvent]:
        yield numbered(1)
        raise LookupError("on purpose")

    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", Identity.generate())

        with pytest.raises(LookupError):
            runtime.deliver_many(handle.origin_hash, broken())
        with pytest.raises(LookupError):
            runtime.send_many(handle.origin_hash, broken())

        assert handle.stats.events_processed == 0


# ---------------------------------------------------------------- send


def test_a_receipt_tells_what_the_event_came_to(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash

        first, second = runtime.send(origin, one(4)), runtime.send(origin, one(5))
        named = runtime.send(origin, numbered(10, 6, origin=99))

        assert (first.origin_hash, first.epoch, first.processed, first.sequence) == (origin, 1, 1, 1)
        assert (second.processed, second.sequence) == (2, 2)
        assert first.event_origin == second.event_origin != 99
        assert second.event_sequence == first.event_sequence + 1
        assert (named.event_origin, named.event_sequence) == (99, 10)
        assert not named.duplicate
        report = runtime.export_chain(origin, tmp_path / "chain")
        assert named.head == report.digest
        verify_chain(tmp_path / "chain", identity.entity_id, receipts=[first, second, named])


def test_a_duplicate_gets_the_receipt_of_its_first_try() -> None:
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", Identity.generate())
        first = runtime.send(handle.origin_hash, numbered(1, 5))
        runtime.send(handle.origin_hash, numbered(2, 5))

        again = runtime.send(handle.origin_hash, numbered(1, 5))

        assert again == first
        assert (first.duplicate, again.duplicate) == (False, True)
        assert state_of(runtime, handle.origin_hash) == 10
        assert handle.stats.duplicates == 1


def test_receipts_move_with_the_state() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        first = runtime.send(origin, numbered(1, 5))
        snapshot = StateSnapshot.from_bytes(taken(runtime, origin).to_bytes())
    with node(counter=Counter) as elsewhere:
        elsewhere.spawn_from_snapshot("counter", identity, snapshot)

        assert elsewhere.send(origin, numbered(1, 5)) == first


def test_an_event_older_than_the_receipts_is_unknown() -> None:
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", Identity.generate()).origin_hash
        receipts = runtime.send_many(origin, [numbered(number) for number in range(1, 67)])

        with pytest.raises(DeliveryUnknown) as unknown:
            runtime.send(origin, numbered(2))

        assert (unknown.value.origin_hash, unknown.value.event, unknown.value.cursor) == (origin, numbered(2), 66)
        assert runtime.send(origin, numbered(3)) == receipts[2]
        assert state_of(runtime, origin) == 66


def test_a_send_that_fails_has_its_cause_and_took_no_effect() -> None:
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", Identity.generate())

        with pytest.raises(ProcessFailed) as failed:
            runtime.send(handle.origin_hash, one(0))

        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        assert failed.value.outputs == ()
        assert (handle.stats.events_processed, handle.stats.errors) == (0, 1)
        assert runtime.send(handle.origin_hash, one(1)).sequence == 1


def test_send_many_gives_receipts_in_order() -> None:
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", Identity.generate()).origin_hash

        receipts = runtime.send_many(origin, (one() for _ in range(200)))

        assert [receipt.sequence for receipt in receipts] == list(range(1, 201))
        assert runtime.send_many(origin, []) == []


def test_send_many_stops_at_the_first_that_fails() -> None:
    with node(counter=Counter) as runtime:
        handle = runtime.spawn("counter", Identity.generate(), DaemonHostConfig(on_error="restore"))
        payloads = [one(1), one(2), one(0), one(4), one(0), *[one(8)] * 100]

        with pytest.raises(ProcessFailed) as failed:
            runtime.send_many(handle.origin_hash, payloads)

        assert failed.value.event_sequence == 3
        assert (state_of(runtime, handle.origin_hash), handle.stats.events_processed) == (3, 2)
        assert handle.stats.errors == 1


def test_a_timed_out_send_can_be_continued_as_the_same_event() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        with in_thread(lambda: runtime.deliver(origin, event(1, b"block"))):
            assert daemon.entered.wait(PATIENCE)
            with pytest.raises(SendTimeout) as late:
                runtime.send(origin, b"once", timeout=SOON)
            with pytest.raises(SendTimeout):
                runtime.send(origin, late.value.event, timeout=SOON)
            with pytest.raises(SendTimeout) as next_late:
                runtime.send(origin, b"next", timeout=SOON)
            daemon.leave.set()

        receipt = runtime.send(late.value.origin_hash, late.value.event)

        assert late.value.event.payload == b"once"
        assert (receipt.event_origin, receipt.event_sequence) == (
            late.value.event.origin_hash,
            late.value.event.sequence,
        )
        assert receipt.duplicate
        assert runtime.send(origin, next_late.value.event).sequence == 3
        assert daemon.seen == [b"block", b"once", b"next"]


def test_a_timed_out_send_many_names_the_event_to_continue_with() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        payloads = [b"one", b"block", b"two", b"three"]

        with pytest.raises(SendTimeout) as late:
            runtime.send_many(origin, payloads, timeout=timedelta(milliseconds=200))
        daemon.leave.set()

        assert late.value.event.payload in (b"one", b"block")
        receipt = runtime.send(origin, late.value.event)
        assert receipt.duplicate
        assert daemon.seen[:2] == [b"one", b"block"]
        assert len(set(daemon.seen)) == len(daemon.seen)


def test_a_send_that_raises_again_when_continued_is_still_the_same_event() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        with in_thread(lambda: runtime.send(origin, event(1, b"block"))) as first:
            assert daemon.entered.wait(PATIENCE)
            daemon.leave.set()
        receipt = first.outcome()

        assert isinstance(receipt, Receipt)
        assert runtime.send(origin, event(1, b"block")) == receipt


def test_a_number_is_not_given_twice_by_two_runtimes() -> None:
    identity = Identity.generate()
    origins = set()
    snapshot = None
    for _ in range(3):
        with node(counter=Counter) as runtime:
            if snapshot is None:
                origin = runtime.spawn("counter", identity).origin_hash
            else:
                origin = runtime.spawn_from_snapshot("counter", identity, snapshot).origin_hash
            origins.add(runtime.send(origin, one()).event_origin)
            snapshot = taken(runtime, origin)

    assert len(origins) == 3
    assert snapshot is not None
    assert snapshot.processed == 3


def retried(runtime: DaemonRuntime, origin: int, given: CausalEvent) -> Receipt:
    """Send again after as long as the receiver asks for."""
    while True:
        try:
            return runtime.send(origin, given)
        except Backpressure as full:
            threading.Event().wait(full.retry_after.total_seconds())


def test_a_full_mailbox_refuses_and_drops_nothing() -> None:
    daemon = Gated()
    with node() as runtime:
        origin = spawned(runtime, daemon)
        payload = bytes(8 << 20)
        with in_thread(lambda: runtime.deliver(origin, event(1, b"block"))):
            assert daemon.entered.wait(PATIENCE)
            late = []
            for _ in range(8):
                with pytest.raises(SendTimeout) as timed_out:
                    runtime.send(origin, payload, timeout=timedelta(milliseconds=1))
                late.append(timed_out.value.event)

            with pytest.raises(Backpressure) as refused:
                runtime.send(origin, b"x")
            with pytest.raises(Backpressure):
                runtime.send_many(origin, [b"x", b"y"])

            assert refused.value.retry_after > timedelta(0)
            assert refused.value.retryable
            daemon.leave.set()

        assert [retried(runtime, origin, each).sequence for each in late] == list(range(2, 10))
        assert runtime.send(origin, b"x").sequence == 10
        assert [len(seen) for seen in daemon.seen] == [5, *[len(payload)] * 8, 1]


def test_one_event_above_the_bound_is_taken_by_an_empty_mailbox() -> None:
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", Identity.generate()).origin_hash

        assert runtime.send(origin, bytes(65 << 20)).processed == 1


# ---------------------------------------------------------------- shutdown


def test_shutdown_gives_up_on_a_stuck_daemon_within_its_timeout() -> None:
    daemon = Gated()
    runtime = DaemonRuntime(Mesh.local())
    runtime.start()
    stuck, free = spawned(runtime, daemon), spawned(runtime, Echo())
    with in_thread(lambda: runtime.deliver(stuck, event(1, b"block"))) as inside:
        assert daemon.entered.wait(PATIENCE)

        with pytest.raises(WaitTimeout, match=f"{stuck:016x}") as late:
            runtime.shutdown(timeout=SOON)

        assert f"{free:016x}" not in str(late.value)
        assert late.value.timeout == SOON
        assert (runtime.is_ready(), runtime.daemon_count()) == (False, 0)
        with pytest.raises(ShuttingDown):
            runtime.deliver(stuck, event(2))
        runtime.shutdown()
        daemon.leave.set()

    assert inside.error is None or isinstance(inside.error, StaleDaemon)


def test_shutdown_waits_for_the_event_that_is_under_way() -> None:
    daemon = Gated()
    runtime = DaemonRuntime(Mesh.local())
    runtime.start()
    origin = spawned(runtime, daemon)
    with in_thread(lambda: runtime.deliver(origin, event(1, b"block"))) as inside:
        assert daemon.entered.wait(PATIENCE)
        with in_thread(runtime.shutdown) as ending:
            daemon.leave.set()
        ending.outcome()

    assert len(inside.outcome()) == 1  # type: ignore[arg-type]


def test_a_spawn_that_loses_against_a_shutdown_leaves_nothing() -> None:
    entered, leave = threading.Event(), threading.Event()

    def factory() -> MeshDaemon:
        entered.set()
        assert leave.wait(PATIENCE)
        return Echo()

    with node(echo=factory) as runtime:
        spawning = Running(lambda: runtime.spawn("echo", Identity.generate()))
        spawning.thread.start()
        assert entered.wait(PATIENCE)
        runtime.shutdown()
        leave.set()

        with pytest.raises(ShuttingDown):
            spawning.outcome()
        assert runtime.daemon_count() == 0


def test_many_calls_during_a_shutdown_get_a_result_or_a_typed_error() -> None:
    runtime = DaemonRuntime(Mesh.local())
    runtime.start()
    origins = [spawned(runtime, Counter()) for _ in range(4)]
    barrier = threading.Barrier(9)

    def work(number: int) -> None:
        barrier.wait(PATIENCE)
        for turn in range(1, 200):
            try:
                runtime.send(origins[number % 4], one())
                runtime.deliver(origins[number % 4], numbered(turn, origin=number))
            except (ShuttingDown, DaemonNotFound, StaleDaemon):
                return

    working = [Running(lambda number=number: work(number)) for number in range(8)]  # type: ignore[misc]
    for each in working:
        each.thread.start()
    barrier.wait(PATIENCE)
    runtime.shutdown()

    for each in working:
        each.outcome()
    assert runtime.daemon_count() == 0


# ---------------------------------------------------------------- snapshots and exports


def test_the_newest_snapshot_is_the_one_taken_last_or_started_from() -> None:
    identity = Identity.generate()
    with node(counter=Counter) as runtime:
        origin = runtime.spawn("counter", identity).origin_hash
        assert runtime.newest_snapshot(origin) is None
        runtime.send(origin, one(5))
        first = taken(runtime, origin)
        runtime.send(origin, one(5))

        assert runtime.newest_snapshot(origin) == first
        second = taken(runtime, origin)
        assert runtime.newest_snapshot(origin) == second != first
        runtime.stop(origin)
        runtime.spawn_from_snapshot("counter", identity, second)
        assert runtime.newest_snapshot(origin) == second


def test_automatic_snapshots_are_the_newest() -> None:
    with node(counter=Counter) as runtime:
        config = DaemonHostConfig(auto_snapshot_interval=3)
        origin = runtime.spawn("counter", Identity.generate(), config).origin_hash

        runtime.send_many(origin, [one()] * 8)

        newest = runtime.newest_snapshot(origin)
        assert newest is not None
        assert (newest.processed, newest.state) == (6, one(6))


def test_an_export_never_overwrites_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chain"
    file.write_bytes(b"precious")
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", Identity.generate()).origin_hash

        with pytest.raises(FileExistsError):
            runtime.export_chain(origin, file)
        with pytest.raises(FileNotFoundError):
            runtime.export_chain(origin, tmp_path / "no" / "folder")
        with pytest.raises(FileExistsError):
            runtime.export_chain(origin, str(tmp_path))

    assert file.read_bytes() == b"precious"
    assert [found.name for found in tmp_path.iterdir()] == ["chain"]


def test_an_export_of_nothing_verifies(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", identity).origin_hash

        report = runtime.export_chain(origin, str(tmp_path / "chain"))

    assert (report.events, report.last_sequence) == (0, 0)
    assert verify_chain(str(tmp_path / "chain"), identity.entity_id) == report


def test_an_export_may_be_repeated_and_grows(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", identity).origin_hash
        for number in (1, 2, 3):
            runtime.send(origin, b"word")
            report = runtime.export_chain(origin, tmp_path / str(number))

            assert verify_chain(tmp_path / str(number), identity.entity_id) == report
            assert (report.events, report.signed_through) == (number, number)


def test_an_export_begins_where_the_kept_outputs_begin(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", identity, DaemonHostConfig(outputs_max=3)).origin_hash
        receipts = runtime.send_many(origin, [b"word"] * 10)

        report = runtime.export_chain(origin, tmp_path / "chain")

        assert (report.events, report.first_sequence, report.last_sequence) == (3, 8, 10)
        assert verify_chain(tmp_path / "chain", identity.entity_id, receipts=receipts[-3:]) == report


def test_a_stopped_daemon_keeps_its_outputs_for_the_next_export(tmp_path: Path) -> None:
    identity = Identity.generate()
    with node(echo=Echo) as runtime:
        origin = runtime.spawn("echo", identity).origin_hash
        runtime.send(origin, b"one")
        runtime.stop(origin)
        runtime.spawn("echo", identity)
        runtime.send(origin, b"two")

        report = runtime.export_chain(origin, tmp_path / "chain")

    assert (report.events, len(report.owners)) == (2, 1)
    assert verify_chain(tmp_path / "chain", identity.entity_id) == report


def test_handles_compare_by_the_daemon_they_name() -> None:
    with node(echo=Echo) as runtime:
        first, second = (runtime.spawn("echo", Identity.generate()) for _ in range(2))
        found = runtime.find(first.origin_hash)

        assert isinstance(found, DaemonHandle)
        assert first == found
        assert hash(first) == hash(found)
        assert first != second
        assert len({first, found, second}) == 2
