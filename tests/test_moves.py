"""Moves between the nodes of a cluster: there and back, under load, refused, ended, and seen from outside."""

import asyncio
import gc
import os
import signal
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from daemons import PATIENCE, Counter, Echo, eventually, numbered
from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, MeshOsConfig, Node, Store
from meshos.chain import verify_chain
from meshos.compute import FactoryEntry
from meshos.errors import (
    AlreadyRegistered,
    DaemonNotFound,
    FactoryNotFound,
    InvalidArgument,
    LoopClosed,
    Migrating,
    MigrationError,
    NotOwner,
    NotReady,
    ProcessFailed,
    ReentrantCallError,
    ShuttingDown,
    Unavailable,
    WaitTimeout,
)
from meshos.migration import (
    MigrationFailureReason,
    MigrationHandle,
    MigrationOpts,
    MigrationPhase,
    MigrationSnapshot,
    OrchestratorMigrationAborter,
    OrchestratorMigrationSnapshotSource,
)
from meshos.operator import KillMigration
from signing import Deck, verifier

SECOND = timedelta(seconds=1)
SOON = timedelta(milliseconds=50)
TIMEOUT = timedelta(seconds=PATIENCE)


class Journey(MeshDaemon):
    """Keeps every number that it is given, and emits how many they are."""

    name = "journey"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def process(self, event: CausalEvent) -> Iterable[bytes]:
        self.seen.append(struct.unpack("<Q", event.payload)[0])
        return [struct.pack("<Q", len(self.seen))]

    def snapshot(self) -> bytes:
        return struct.pack(f"<{len(self.seen)}Q", *self.seen)

    def restore(self, state: bytes) -> None:
        self.seen = list(struct.unpack(f"<{len(state) // 8}Q", state))


class AsyncJourney(Journey):
    """The same, with coroutines."""

    name = "async-journey"

    async def process(self, event: CausalEvent) -> Iterable[bytes]:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().process(event)


class Slow(Journey):
    """Has its `restore` wait for `go`, or raise where `fails` is set."""

    name = "slow"

    entered: threading.Event
    go: threading.Event
    fails: bool = False

    def restore(self, state: bytes) -> None:
        type(self).entered.set()
        if type(self).fails:
            raise ValueError("cannot be read here")
        assert type(self).go.wait(PATIENCE)
        super().restore(state)


def slow_kind() -> type[Slow]:
    """Make a class of its own, with events of its own."""

    class Own(Slow):
        entered = threading.Event()
        go = threading.Event()

    return Own


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


class Trio:
    """Three nodes of one process, whose runtimes know the same kinds."""

    def __init__(self, stack: ExitStack, *, stores: list[Store] | None = None) -> None:
        self.stack = stack
        self.meshes = Mesh.local_cluster(3, stores=stores)
        for mesh in self.meshes:
            stack.callback(mesh.close)
        self.runtimes = [self.runtime(mesh) for mesh in self.meshes]
        self.slow = slow_kind()
        for runtime in self.runtimes:
            runtime.register_factory("slow", self.slow)

    def runtime(self, mesh: Mesh, accept: Literal["kinds", "expected"] = "kinds") -> DaemonRuntime:
        """Give a node a runtime that has started."""
        runtime = DaemonRuntime(mesh, accept_migrations=accept)
        for kind in (Journey, AsyncJourney, Counter, Echo):
            runtime.register_factory(kind.name, kind)
        runtime.start()
        return runtime

    @property
    def home(self) -> DaemonRuntime:
        return self.runtimes[0]

    @property
    def away(self) -> DaemonRuntime:
        return self.runtimes[1]

    @property
    def third(self) -> DaemonRuntime:
        return self.runtimes[2]

    def id(self, index: int) -> int:
        return self.meshes[index].node_id

    def spawn(self, kind: str = "journey", config: DaemonHostConfig | None = None) -> int:
        return self.home.spawn(kind, Identity.generate(), config).origin_hash

    def start(
        self, origin: int, source: int = 0, target: int = 1, opts: MigrationOpts | None = None, *, by: int = 0
    ) -> MigrationHandle:
        """Order a move between two nodes."""
        ordering = self.runtimes[by]
        if opts is None:
            return ordering.start_migration(origin, self.id(source), self.id(target))
        return ordering.start_migration_with(origin, self.id(source), self.id(target), opts)

    def seen(self, index: int, origin: int) -> list[int]:
        """Return what a daemon at a node was given."""
        return self.runtimes[index].with_daemon(origin, Journey, lambda daemon: list(daemon.seen))

    def ends(self, move: MigrationHandle) -> MigrationError:
        """Wait for a move that comes to nothing."""
        with pytest.raises(MigrationError) as caught:
            move.wait(TIMEOUT)
        assert caught.value.origin_hash == move.origin_hash
        return caught.value

    def goes_on(self, origin: int) -> None:
        """Check that a daemon is at home, and works."""
        before = len(self.seen(0, origin))
        assert self.home.send(origin, number(before + 1)).epoch == 1
        assert self.seen(0, origin) == list(range(1, before + 2))


@pytest.fixture
def trio() -> Iterator[Trio]:
    with ExitStack() as stack:
        made = Trio(stack)
        try:
            yield made
        finally:
            made.slow.go.set()


# ---------------------------------------------------------------- there and back


def test_a_daemon_moves_there_and_back(trio: Trio) -> None:
    origin = trio.spawn()
    trio.home.send(origin, number(1))

    there = trio.start(origin).wait(TIMEOUT)
    receipt = trio.home.send(origin, number(2))
    back = trio.start(origin, 1, 0).wait(TIMEOUT)

    assert (there.origin_hash, there.source_node, there.target_node) == (origin, trio.id(0), trio.id(1))
    assert (there.epoch, receipt.epoch, back.epoch) == (2, 2, 3)
    assert there.mode == "stop"
    assert timedelta(0) < there.blackout <= there.took < TIMEOUT
    assert there.bytes_moved > 0
    assert trio.seen(0, origin) == [1, 2]
    directory = trio.meshes[0].directory()
    assert directory is not None
    assert [(record.epoch, record.node_id, record.reason) for record in directory.lineage(origin)] == [
        (1, trio.id(0), "spawn"),
        (2, trio.id(1), "move"),
        (3, trio.id(0), "move"),
    ]


def test_a_chain_that_moved_is_one_chain(trio: Trio, tmp_path: Path) -> None:
    identity = Identity.generate()
    origin = trio.home.spawn("journey", identity).origin_hash
    for index in range(4):
        trio.home.send(origin, number(index + 1))
        trio.start(origin, index % 2, 1 - index % 2).wait(TIMEOUT)
    trio.home.send(origin, number(5))

    trio.home.export_chain(origin, tmp_path / "chain")
    report = verify_chain(tmp_path / "chain", identity.entity_id)

    assert report.last_sequence == 5


def test_after_a_move_it_is_there_and_nowhere_else(trio: Trio) -> None:
    origin = trio.spawn()
    trio.start(origin).wait(TIMEOUT)

    assert trio.home.find(origin) is None
    assert trio.away.find(origin) is not None
    for call in (
        lambda: trio.home.deliver(origin, numbered(1)),
        lambda: trio.home.stop(origin),
        lambda: trio.home.snapshot(origin),
        lambda: trio.home.with_daemon(origin, Journey, lambda _: None),
    ):
        with pytest.raises(NotOwner) as caught:
            call()
        assert (caught.value.owner, caught.value.epoch) == (trio.id(1), 2)


@pytest.mark.parametrize("mode", ["stop", "live"])
def test_nothing_is_lost_under_load_of_threads(trio: Trio, mode: Literal["stop", "live"]) -> None:
    origin = trio.spawn()
    halt, sent = threading.Event(), [0]

    def feed() -> None:
        while not halt.is_set():
            sent[0] += 1
            trio.home.send(origin, number(sent[0]))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for leg in range(6):
            outcome = trio.start(origin, leg % 2, 1 - leg % 2, MigrationOpts(mode=mode)).wait(TIMEOUT)
            assert outcome.epoch == leg + 2
    finally:
        halt.set()
        feeder.join()

    assert trio.seen(0, origin) == list(range(1, sent[0] + 1))


def test_nothing_is_lost_under_load_of_asyncio(trio: Trio) -> None:
    origin = trio.spawn()

    async def main() -> int:
        halt, sent = asyncio.Event(), 0

        async def feed() -> None:
            nonlocal sent
            while not halt.is_set():
                calls = []
                for _ in range(20):
                    sent += 1
                    calls.append(trio.third.send_async(origin, number(sent)))
                await asyncio.gather(*calls)

        feeder = asyncio.create_task(feed())
        for leg in range(4):
            source, target = trio.id(leg % 2), trio.id(1 - leg % 2)
            move = await trio.home.start_migration_async(origin, source, target)
            outcome = await move.wait_async(TIMEOUT)
            assert outcome.epoch == leg + 2
        halt.set()
        await feeder
        return sent

    sent = asyncio.run(main())

    assert trio.seen(0, origin) == list(range(1, sent + 1))


def test_a_daemon_without_state_moves(trio: Trio) -> None:
    origin = trio.spawn("echo")
    trio.home.send(origin, b"here")

    outcome = trio.start(origin).wait(TIMEOUT)

    receipt = trio.home.send(origin, b"there")
    assert (outcome.epoch, receipt.epoch, receipt.sequence) == (2, 2, 2)


def test_an_asynchronous_daemon_moves(trio: Trio) -> None:
    origin = trio.spawn("async-journey")
    trio.home.send(origin, number(1))
    for leg in range(4):
        trio.start(origin, leg % 2, 1 - leg % 2).wait(TIMEOUT)
        trio.home.send(origin, number(leg + 2))

    assert trio.seen(0, origin) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("durability", ["none", "snapshot", "journal"])
def test_what_is_kept_moves_along(tmp_path: Path, durability: Literal["none", "snapshot", "journal"]) -> None:
    config = DaemonHostConfig(durability=durability)
    paths = [tmp_path / str(index) for index in range(3)]
    with ExitStack() as stack:
        trio = Trio(stack, stores=[stack.enter_context(Store.open(path)) for path in paths])
        origin = trio.spawn("journey", config)
        trio.home.send(origin, number(1))
        trio.start(origin).wait(TIMEOUT)
        trio.home.send(origin, number(2))
        entry = trio.away.factory_registry().entry(origin)
        assert entry is not None
        assert entry.config == config
    with ExitStack() as stack:
        trio = Trio(stack, stores=[stack.enter_context(Store.open(path)) for path in paths])
        reports = [runtime.recover() for runtime in trio.runtimes]

        assert origin not in reports[0].daemons
        if durability == "none":
            return
        recovered = reports[1].daemons[origin]
        assert recovered.error is None
        assert trio.seen(1, origin) == [1, 2]
        assert trio.home.send(origin, number(3)).processed >= 2


def test_fifty_daemons_move_at_once(trio: Trio) -> None:
    origins = [trio.spawn() for _ in range(50)]
    for origin in origins:
        trio.home.send(origin, number(1))

    moves = [trio.start(origin) for origin in origins]
    outcomes = [move.wait(TIMEOUT) for move in moves]

    assert {outcome.epoch for outcome in outcomes} == {2}
    assert len({move.attempt for move in moves}) == 50
    assert trio.home.daemon_count() == 0
    assert trio.away.daemon_count() == 50
    assert all(trio.seen(1, origin) == [1] for origin in origins)


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("travels", [True, False])
def test_a_key_travels_or_stays(trio: Trio, travels: bool, tmp_path: Path) -> None:
    identity = Identity.generate()
    origin = trio.home.spawn("journey", identity).origin_hash
    trio.home.send(origin, number(1))

    trio.start(origin, opts=MigrationOpts(transport_identity=travels)).wait(TIMEOUT)
    trio.home.send(origin, number(2))

    entry = trio.away.factory_registry().entry(origin)
    assert entry is not None
    assert entry.has_key is travels
    trio.away.export_chain(origin, tmp_path / "chain")
    assert verify_chain(tmp_path / "chain", identity.entity_id).last_sequence == 2


def test_a_key_that_is_there_need_not_travel(trio: Trio) -> None:
    identity = Identity.generate()
    origin = trio.home.spawn("journey", identity).origin_hash
    trio.away.register_migration_target_identity("journey", identity)

    trio.start(origin, opts=MigrationOpts(transport_identity=False)).wait(TIMEOUT)

    entry = trio.away.factory_registry().entry(origin)
    assert entry is not None
    assert entry.has_key


# ---------------------------------------------------------------- who may order, and who takes on


def test_a_third_node_orders_if_it_may(trio: Trio) -> None:
    origin = trio.spawn()
    refused = trio.ends(trio.start(origin, by=2))
    assert (refused.kind, refused.phase) == ("rejected", None)
    assert refused.reason is MigrationFailureReason.NOT_EXPECTED
    trio.goes_on(origin)

    trio.home.permit_managers([trio.meshes[2].entity_id])
    outcome = trio.start(origin, by=2).wait(TIMEOUT)

    assert outcome.epoch == 2
    assert trio.seen(1, origin) == [1]


def test_the_target_may_not_order_unless_it_is_a_manager(trio: Trio) -> None:
    origin = trio.spawn()

    assert trio.ends(trio.start(origin, by=1)).kind == "rejected"
    trio.home.permit_managers([trio.meshes[1].entity_id])
    assert trio.start(origin, by=1).wait(TIMEOUT).epoch == 2
    # Where it was spawned may always have it back.
    assert trio.start(origin, 1, 0, by=0).wait(TIMEOUT).epoch == 3


def test_a_kind_that_is_not_there_is_refused(trio: Trio) -> None:
    trio.home.register_factory("only-here", Journey)
    origin = trio.home.spawn("only-here", Identity.generate()).origin_hash

    error = trio.ends(trio.start(origin))

    assert (error.kind, error.phase, error.reason) == ("rejected", None, MigrationFailureReason.FACTORY_NOT_FOUND)
    assert "only-here" in str(error)
    trio.goes_on(origin)


def test_a_target_that_is_not_ready_is_not_asked_again_unless_that_is_wanted(trio: Trio) -> None:
    origin = trio.spawn()
    trio.away.simulate_not_ready(True)

    error = trio.ends(trio.start(origin, opts=MigrationOpts(retry_not_ready=None)))
    assert (error.kind, error.reason) == ("rejected", MigrationFailureReason.NOT_READY)
    trio.goes_on(origin)

    error = trio.ends(trio.start(origin, opts=MigrationOpts(retry_not_ready=4 * SOON)))
    assert error.reason is MigrationFailureReason.NOT_READY_TIMEOUT
    trio.goes_on(origin)


def test_a_target_that_becomes_ready_is_asked_again(trio: Trio) -> None:
    origin = trio.spawn()
    trio.away.simulate_not_ready(True)
    move = trio.start(origin)
    first = move.attempt
    # Each retry has an attempt of its own; the first may be over before it was looked at.
    eventually(lambda: move.attempt != first)
    assert move.progress().retries > 0

    trio.away.simulate_not_ready(False)

    assert move.wait(TIMEOUT).epoch == 2


def test_expected_daemons_only(trio: Trio) -> None:
    trio.away.shutdown()
    trio.runtimes[1] = strict = trio.runtime(trio.meshes[1], "expected")
    origin, other = trio.spawn(), trio.spawn()

    error = trio.ends(trio.start(origin))
    assert (error.kind, error.reason) == ("rejected", MigrationFailureReason.NOT_EXPECTED)

    config = DaemonHostConfig(outputs_max=77)
    strict.expect_migration("journey", origin, config)
    assert trio.start(origin).wait(TIMEOUT).epoch == 2
    entry = strict.factory_registry().entry(origin)
    assert entry is not None
    assert entry.config == config
    assert trio.ends(trio.start(other)).kind == "rejected"


def test_only_the_node_that_is_bound_orders_a_move_here(trio: Trio) -> None:
    origin, registry = trio.spawn(), trio.away.factory_registry()
    assert not registry.bind_expected_orchestrator(origin, trio.id(2))
    config = DaemonHostConfig(outputs_max=77)
    trio.away.expect_migration("journey", origin, config)
    assert registry.entry(origin) == FactoryEntry("journey", config, False)

    assert registry.bind_expected_orchestrator(origin, trio.id(2))
    assert registry.bind_expected_orchestrator(origin, trio.id(2))
    assert not registry.bind_expected_orchestrator(origin, trio.id(0))
    # What is expected anew is bound as before.
    trio.away.expect_migration("journey", origin, config)
    assert registry.entry(origin) == FactoryEntry("journey", config, False, trio.id(2))

    error = trio.ends(trio.start(origin))
    assert (error.kind, error.reason) == ("rejected", MigrationFailureReason.NOT_EXPECTED)
    assert f"only node {trio.id(2):016x}" in str(error)
    trio.goes_on(origin)

    trio.home.permit_managers([trio.meshes[2].entity_id])
    assert trio.start(origin, by=2).wait(TIMEOUT).epoch == 2
    # What came is not expected any more.
    assert registry.entry(origin) == FactoryEntry("journey", config, True)


def test_what_is_removed_is_not_expected(trio: Trio) -> None:
    trio.away.shutdown()
    trio.runtimes[1] = strict = trio.runtime(trio.meshes[1], "expected")
    origin, registry = trio.spawn(), strict.factory_registry()
    strict.expect_migration("journey", origin)
    assert registry.bind_expected_orchestrator(origin, trio.id(2))

    registry.remove(origin)
    registry.remove(origin)

    assert registry.entry(origin) is None
    assert trio.ends(trio.start(origin)).reason is MigrationFailureReason.NOT_EXPECTED
    strict.expect_migration("journey", origin)
    assert trio.start(origin).wait(TIMEOUT).epoch == 2


def test_what_is_expected_is_checked(trio: Trio) -> None:
    origin = trio.spawn()

    with pytest.raises(FactoryNotFound):
        trio.away.expect_migration("unknown", origin)
    with pytest.raises(AlreadyRegistered):
        trio.home.expect_migration("journey", origin)
    with pytest.raises(InvalidArgument, match="accept_migrations"):
        DaemonRuntime(Mesh.local(), accept_migrations="all")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config"):
        trio.away.expect_migration("journey", origin, 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="flag"):
        trio.away.simulate_not_ready(1)  # type: ignore[arg-type]
    registry = trio.away.factory_registry()
    with pytest.raises(TypeError, match="node"):
        registry.bind_expected_orchestrator(origin, "third")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="origin_hash"):
        registry.remove("it")  # type: ignore[arg-type]
    assert registry.entry(origin) is None


def test_a_restore_that_raises_leaves_the_daemon_where_it_was(trio: Trio) -> None:
    origin = trio.spawn("slow")
    trio.home.send(origin, number(1))
    trio.slow.fails = True

    error = trio.ends(trio.start(origin))

    assert (error.kind, error.reason) == ("aborted", MigrationFailureReason.STATE_FAILED)
    assert error.phase is not None
    assert "ValueError: cannot be read here" in str(error)
    assert trio.away.daemon_count() == 0
    trio.goes_on(origin)


def test_a_factory_that_raises_or_is_slow_costs_no_standstill(trio: Trio) -> None:
    entered, go, fails = threading.Event(), threading.Event(), True
    made: list[Journey] = []

    def factory() -> Journey:
        if fails:
            raise ValueError("no model here")
        entered.set()
        assert go.wait(PATIENCE)
        made.append(Journey())
        return made[-1]

    trio.away.register_factory("model", factory)
    trio.home.register_factory("model", Journey)
    origin = trio.spawn("model")
    trio.home.send(origin, number(1))

    error = trio.ends(trio.start(origin))

    assert (error.kind, error.reason) == ("rejected", MigrationFailureReason.STATE_FAILED)
    assert "ValueError: no model here" in str(error)
    trio.goes_on(origin)

    fails = False
    move = trio.start(origin)
    assert entered.wait(PATIENCE)
    # It does not stand still: who looks at it would have to wait for the end of the move.
    trio.goes_on(origin)
    assert trio.away.daemon_count() == 0
    go.set()

    assert move.wait(TIMEOUT).epoch == 2
    assert [daemon.seen for daemon in made] == [[1, 2, 3]]


def test_a_daemon_does_not_stand_still_for_longer_than_it_may(trio: Trio) -> None:
    origin = trio.spawn("slow")
    trio.home.send(origin, number(1))

    error = trio.ends(trio.start(origin, opts=MigrationOpts(freeze_max=6 * SOON)))

    assert (error.kind, error.reason) == ("aborted", MigrationFailureReason.FREEZE_DEADLINE)
    trio.goes_on(origin)
    trio.slow.go.set()


def test_a_move_has_a_deadline(trio: Trio) -> None:
    origin = trio.spawn("slow")
    trio.home.send(origin, number(1))

    error = trio.ends(trio.start(origin, opts=MigrationOpts(deadline=6 * SOON, freeze_max=TIMEOUT)))

    assert (error.kind, error.reason) == ("aborted", MigrationFailureReason.DEADLINE)
    trio.goes_on(origin)


# ---------------------------------------------------------------- ends


def held(trio: Trio, opts: MigrationOpts | None = None) -> tuple[int, MigrationHandle]:
    """Begin a move whose target does not come to an end with its `restore`."""
    origin = trio.spawn("slow")
    trio.home.send(origin, number(1))
    move = trio.start(origin, opts=opts or MigrationOpts(freeze_max=TIMEOUT))
    assert trio.slow.entered.wait(PATIENCE)
    return origin, move


def test_a_move_that_is_cancelled_in_time_has_no_effect(trio: Trio) -> None:
    origin, move = held(trio)

    move.cancel()

    error = trio.ends(move)
    assert (error.kind, error.reason) == ("aborted", MigrationFailureReason.CANCELLED)
    assert trio.home.migration_phase(origin) is None
    trio.goes_on(origin)
    trio.slow.go.set()
    assert trio.start(origin).wait(TIMEOUT).epoch == 2


def test_a_move_that_is_over_is_not_cancelled(trio: Trio) -> None:
    origin = trio.spawn()
    move = trio.start(origin)
    outcome = move.wait(TIMEOUT)

    move.cancel()

    assert move.wait(TIMEOUT) == outcome
    assert trio.away.find(origin) is not None


def test_one_move_of_a_daemon_at_a_time(trio: Trio) -> None:
    origin, move = held(trio)

    with pytest.raises(MigrationError) as caught:
        trio.start(origin, 0, 2)
    assert (caught.value.kind, caught.value.phase) == ("already_migrating", None)
    trio.home.permit_managers([trio.meshes[2].entity_id])
    assert trio.ends(trio.start(origin, by=2)).kind == "already_migrating"

    trio.slow.go.set()
    assert move.wait(TIMEOUT).epoch == 2


def test_a_target_that_shuts_down_in_the_middle_leaves_the_daemon_where_it_was(trio: Trio) -> None:
    origin, move = held(trio, MigrationOpts(freeze_max=SECOND))

    trio.away.shutdown()
    trio.slow.go.set()

    assert trio.ends(move).kind in ("aborted", "rejected")
    trio.goes_on(origin)


def test_direct_deliveries_are_told_that_a_daemon_is_being_moved(trio: Trio) -> None:
    origin, move = held(trio)

    with pytest.raises(Migrating) as caught:
        trio.home.deliver(origin, numbered(1))
    assert caught.value.origin_hash == origin
    assert caught.value.retryable
    with pytest.raises(Migrating):
        trio.home.stop(origin)

    trio.slow.go.set()
    move.wait(TIMEOUT)
    with pytest.raises(NotOwner):
        trio.home.deliver(origin, numbered(1))


def test_what_is_sent_while_it_stands_still_is_processed_at_the_target(trio: Trio) -> None:
    origin, move = held(trio)
    senders = [threading.Thread(target=trio.third.send, args=(origin, number(index))) for index in (2,)]
    for sender in senders:
        sender.start()
    eventually(lambda: bool(move.progress().buffered_events))

    trio.slow.go.set()
    move.wait(TIMEOUT)
    for sender in senders:
        sender.join()

    assert trio.seen(1, origin) == [1, 2]


def test_a_runtime_that_was_replaced_takes_on_daemons(trio: Trio) -> None:
    trio.away.shutdown()
    trio.runtimes[1] = trio.runtime(trio.meshes[1])
    origin = trio.spawn()

    assert trio.start(origin).wait(TIMEOUT).epoch == 2
    assert trio.away.find(origin) is not None


# ---------------------------------------------------------------- waiting


def test_a_wait_that_takes_too_long_leaves_the_move_alone(trio: Trio) -> None:
    _, move = held(trio)

    with pytest.raises(WaitTimeout):
        move.wait(SOON)
    with pytest.raises(WaitTimeout):
        asyncio.run(move.wait_async(SOON))

    trio.slow.go.set()
    assert move.wait(TIMEOUT).epoch == 2
    assert asyncio.run(move.wait_async()).epoch == 2


def test_ctrl_c_ends_a_wait(trio: Trio) -> None:
    _, move = held(trio)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        move.wait()


def test_a_node_that_closes_ends_a_wait(trio: Trio) -> None:
    _, move = held(trio)
    threading.Timer(0.1, trio.meshes[0].close).start()

    with pytest.raises((LoopClosed, MigrationError)):
        move.wait(TIMEOUT)
    with pytest.raises((LoopClosed, MigrationError)):
        asyncio.run(move.wait_async(TIMEOUT))
    trio.slow.go.set()


def test_many_wait_on_one_loop(trio: Trio) -> None:
    """However many wait, they hold no lane."""
    _, move = held(trio)

    async def main() -> set[int]:
        waits = [asyncio.create_task(move.wait_async(TIMEOUT)) for _ in range(500)]
        await asyncio.sleep(0)
        trio.slow.go.set()
        return {outcome.epoch for outcome in await asyncio.gather(*waits)}

    assert asyncio.run(main()) == {2}


def test_a_wait_is_refused_where_it_would_wait_for_itself(trio: Trio) -> None:
    _, move = held(trio)

    class Waits(MeshDaemon):
        name = "waits"

        def process(self, event: CausalEvent) -> None:
            move.wait(SECOND)

    trio.home.register_factory("waits", Waits)
    origin = trio.spawn("waits")
    with pytest.raises(ProcessFailed) as caught:
        trio.home.send(origin, b"")
    assert isinstance(caught.value.__cause__, ReentrantCallError)


# ---------------------------------------------------------------- progress


def test_phases_come_in_order_and_end_with_the_move(trio: Trio) -> None:
    _, move = held(trio)
    phases = move.phases()
    trio.slow.go.set()

    seen = list(phases)

    order = list(MigrationPhase)
    assert seen == sorted(seen, key=order.index)
    assert len(seen) == len(set(seen))
    assert seen[-1] is MigrationPhase.COMPLETE
    assert list(move.phases()) == [MigrationPhase.COMPLETE]


def test_phases_are_read_on_a_loop(trio: Trio) -> None:
    _, move = held(trio)

    async def main() -> list[MigrationPhase]:
        seen = []
        async with move.phases() as phases:
            async for phase in phases:
                trio.slow.go.set()
                seen.append(phase)
        return seen

    assert asyncio.run(main())[-1] is MigrationPhase.COMPLETE


def test_phases_of_a_move_that_came_to_nothing_end_without_completion(trio: Trio) -> None:
    _, move = held(trio)
    phases = move.phases()

    move.cancel()

    assert MigrationPhase.COMPLETE not in list(phases)


def test_a_stream_of_phases_is_closed(trio: Trio) -> None:
    _, move = held(trio)
    phases = move.phases()
    phases.receive(timeout=TIMEOUT)

    phases.close()

    with pytest.raises(LoopClosed):
        phases.receive(timeout=None)


def test_progress_is_shown(trio: Trio) -> None:
    origin, move = held(trio)

    eventually(lambda: move.progress().snapshot_bytes is not None)
    shown = move.progress()
    assert (shown.daemon_origin, shown.source_node, shown.target_node) == (origin, trio.id(0), trio.id(1))
    assert shown.phase is move.phase() is trio.home.migration_phase(origin)
    assert shown.started_at <= shown.phase_entered_at
    assert shown.bytes_moved > 0
    assert (move.origin_hash, move.source_node, move.target_node) == (origin, trio.id(0), trio.id(1))
    assert len(move.attempt) == 16
    assert f"{origin:016x}" in repr(move)


# ---------------------------------------------------------------- refused before anything happens


def test_what_cannot_be_is_refused_by_name(trio: Trio) -> None:
    origin = trio.spawn()

    with pytest.raises(InvalidArgument, match="target_node"):
        trio.start(origin, 0, 0)
    with pytest.raises(Unavailable) as silent:
        trio.home.start_migration(origin, 7, trio.id(1))
    assert silent.value.args[0] == 7
    with pytest.raises(MigrationError) as nowhere:
        trio.home.start_migration(origin, trio.id(0), 7)
    assert nowhere.value.kind == "no_target"
    assert f"{7:016x}" in str(nowhere.value)
    with pytest.raises(NotOwner) as owned:
        trio.start(origin, 1, 0)
    assert (owned.value.owner, owned.value.epoch) == (trio.id(0), 1)
    with pytest.raises(DaemonNotFound):
        trio.start(12345)
    with pytest.raises(TypeError, match="origin_hash"):
        trio.home.start_migration("a", trio.id(0), trio.id(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="opts"):
        trio.home.start_migration_with(origin, trio.id(0), trio.id(1), None)  # type: ignore[arg-type]
    assert trio.home.migration_orchestrator().list_migrations() == ()
    trio.goes_on(origin)


def test_a_node_that_is_alone_moves_nothing() -> None:
    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.register_factory("journey", Journey)
        runtime.start()
        origin = runtime.spawn("journey", Identity.generate()).origin_hash
        here = runtime.mesh().node_id

        with pytest.raises(MigrationError) as caught:
            runtime.start_migration(origin, here, 7)
        assert caught.value.kind == "no_target"
        assert runtime.migration_phase(origin) is None
        assert runtime.migration_orchestrator().list_migrations() == ()
        assert not runtime.migration_orchestrator().abort(origin, reason="none")


def test_a_runtime_orders_only_while_it_is_ready() -> None:
    here, there = Mesh.local_cluster(2)
    runtime = DaemonRuntime(here)
    with pytest.raises(NotReady):
        runtime.start_migration(7, here.node_id, there.node_id)
    runtime.start()
    runtime.shutdown()
    with pytest.raises(ShuttingDown):
        runtime.start_migration(7, here.node_id, there.node_id)


# ---------------------------------------------------------------- the orchestrator and the behaviour loop


def test_the_orchestrator_lists_and_aborts(trio: Trio) -> None:
    origin, move = held(trio)
    orchestrator = trio.home.migration_orchestrator()

    (shown,) = orchestrator.list_migrations()
    assert isinstance(shown, MigrationSnapshot)
    assert shown.daemon_origin == origin
    assert orchestrator.phase(origin) is move.phase()
    assert orchestrator.phase(7) is None
    assert trio.away.migration_orchestrator().list_migrations() == ()
    assert OrchestratorMigrationSnapshotSource(orchestrator).list() == orchestrator.list_migrations()

    assert orchestrator.abort(origin, reason="the rack burns")
    error = trio.ends(move)
    assert (error.kind, error.reason) == ("aborted", MigrationFailureReason.KILLED)
    assert "the rack burns" in str(error)
    assert not orchestrator.abort(origin, reason="again")
    assert orchestrator.list_migrations() == ()
    trio.goes_on(origin)


def test_an_aborter_of_what_is_not_here_has_nothing_to_do(trio: Trio) -> None:
    aborter = OrchestratorMigrationAborter(trio.home.migration_orchestrator())

    aborter.abort(12345)

    assert not aborter.is_no_op()
    with pytest.raises(TypeError, match="orchestrator"):
        OrchestratorMigrationAborter(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="orchestrator"):
        OrchestratorMigrationSnapshotSource(7)  # type: ignore[arg-type]


def test_an_operator_sees_and_ends_a_move() -> None:
    slow = slow_kind()
    here, there = Mesh.local_cluster(2)
    config = MeshOsConfig(tick_interval=timedelta(milliseconds=10))
    kinds: dict[str, Callable[[], MeshDaemon]] = {"slow": slow}
    with (
        Node(here, kinds=kinds, config=config, admin_verifier=verifier()) as node,
        Node(there, kinds=kinds) as other,
    ):
        origin = node.daemons.spawn("slow", Identity.generate()).origin_hash
        node.daemons.send(origin, number(1))
        opts = MigrationOpts(freeze_max=TIMEOUT)
        move = node.daemons.start_migration_with(origin, here.node_id, there.node_id, opts)
        assert slow.entered.wait(PATIENCE)

        reader = node.runtime.snapshot_reader()
        shown = reader.wait_for(lambda s: bool(s.in_flight_migrations), timeout=TIMEOUT)
        assert shown.in_flight_migrations[0].daemon_origin == origin
        Deck(node.runtime).force(KillMigration(origin))

        with pytest.raises(MigrationError) as caught:
            move.wait(TIMEOUT)
        assert caught.value.reason is MigrationFailureReason.KILLED
        assert "ICE KillMigration" in str(caught.value)
        reader.wait_for(lambda s: not s.in_flight_migrations, timeout=TIMEOUT)
        assert node.daemons.send(origin, number(2)).epoch == 1
        slow.go.set()
        assert other.daemons.daemon_count() == 0


# ---------------------------------------------------------------- what is left over


def test_a_runtime_that_moved_daemons_goes_away() -> None:
    here, there = Mesh.local_cluster(2)
    runtimes = []
    for mesh in (here, there):
        runtime = DaemonRuntime(mesh)
        runtime.register_factory("journey", Journey)
        runtime.start()
        runtimes.append(runtime)
    origin = runtimes[0].spawn("journey", Identity.generate()).origin_hash
    runtimes[0].start_migration(origin, here.node_id, there.node_id).wait(TIMEOUT)
    gone = [weakref.ref(runtime) for runtime in runtimes]

    for runtime in runtimes:
        runtime.shutdown()
    del runtime, runtimes
    gc.collect()

    assert [found() for found in gone] == [None, None]
