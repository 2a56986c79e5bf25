"""What reaches a daemon while it moves: callers that wait, outputs that are due, channels, readers; who signs."""

import asyncio
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from daemons import PATIENCE, eventually
from meshos import (
    CausalEvent,
    ChannelName,
    ChannelPolicy,
    DaemonHostConfig,
    DaemonRuntime,
    Identity,
    Mesh,
    MeshDaemon,
    Output,
    Right,
    Store,
)
from meshos.chain import verify_chain
from meshos.errors import DaemonNotFound, MeshOsError, MigrationError, NotOwner
from meshos.migration import MigrationHandle, MigrationOpts, MigrationPhase
from meshos.stream import RolledBack

SECOND = timedelta(seconds=1)
TIMEOUT = timedelta(seconds=3 * PATIENCE)
NEWS = ChannelName("news")
TO = Identity.from_seed(b"\x0e" * 32)


class Seen(MeshDaemon):
    """Keeps every number that it is given, and emits it."""

    name = "seen"

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def process(self, event: CausalEvent) -> Iterable[bytes | Output]:
        self.numbers.append(struct.unpack("<Q", event.payload)[0])
        return [event.payload]

    def snapshot(self) -> bytes:
        return struct.pack(f"<{len(self.numbers)}Q", *self.numbers)

    def restore(self, state: bytes) -> None:
        self.numbers = list(struct.unpack(f"<{len(state) // 8}Q", state))


class Sends(Seen):
    """Sends every number on."""

    name = "sends"

    def process(self, event: CausalEvent) -> Iterable[bytes | Output]:
        super().process(event)
        return [Output(event.payload, to=TO.origin_hash)]


class Gated(Seen):
    """Stays inside `process` of a zero until `leave` is set, at the node where it was spawned."""

    name = "gated"
    entered: threading.Event
    leave: threading.Event

    def process(self, event: CausalEvent) -> Iterable[bytes | Output]:
        if event.payload == number(0):
            type(self).entered.set()
            assert type(self).leave.wait(PATIENCE)
        return super().process(event)


class Held(Seen):
    """Has its `restore` wait for `leave`."""

    name = "held"
    entered: threading.Event
    leave: threading.Event

    def restore(self, state: bytes) -> None:
        type(self).entered.set()
        assert type(self).leave.wait(PATIENCE)
        super().restore(state)


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


class Place:
    """Three nodes of one process, whose runtimes know the same kinds."""

    def __init__(self, stack: ExitStack, stores: list[Store] | None = None) -> None:
        self.meshes = Mesh.local_cluster(3, stores=stores)
        for mesh in self.meshes:
            stack.callback(mesh.close)
        self.runtimes = [DaemonRuntime(mesh) for mesh in self.meshes]

        class OwnGated(Gated):
            entered = threading.Event()
            leave = threading.Event()

        class OwnHeld(Held):
            entered = threading.Event()
            leave = threading.Event()

        self.gated, self.held = OwnGated, OwnHeld
        for runtime in self.runtimes:
            for kind in (Seen, Sends, OwnGated, OwnHeld):
                runtime.register_factory(kind.name, kind)
            runtime.start()
            runtime.permit_managers([mesh.entity_id for mesh in self.meshes])
        self.home, self.away, self.third = self.runtimes
        self.ids = [mesh.node_id for mesh in self.meshes]

    def start(
        self, origin: int, source: int = 0, target: int = 1, opts: MigrationOpts | None = None
    ) -> MigrationHandle:
        opts = opts or MigrationOpts(freeze_max=TIMEOUT)
        return self.home.start_migration_with(origin, self.ids[source], self.ids[target], opts)

    def move(self, origin: int, source: int = 0, target: int = 1, opts: MigrationOpts | None = None) -> int:
        return self.start(origin, source, target, opts).wait(TIMEOUT).epoch

    def numbers(self, index: int, origin: int) -> list[int]:
        return self.runtimes[index].with_daemon(origin, Seen, lambda daemon: list(daemon.numbers))


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        made = Place(stack)
        try:
            yield made
        finally:
            made.gated.leave.set()
            made.held.leave.set()


def verified(runtime: DaemonRuntime, identity: Identity, file: Path) -> int:
    runtime.export_chain(identity.origin_hash, file)
    return verify_chain(file, identity.entity_id).last_sequence


# ---------------------------------------------------------------- keys and durability


def test_without_its_key_the_nodes_sign_there_and_back(place: Place, tmp_path: Path) -> None:
    identity = Identity.generate()
    origin = place.home.spawn("seen", identity).origin_hash
    opts = MigrationOpts(transport_identity=False)
    for leg, (source, target) in enumerate([(0, 1), (1, 2), (2, 0), (0, 1)]):
        place.home.send(origin, number(leg))
        assert place.move(origin, source, target, opts) == leg + 2
    place.home.send(origin, number(4))

    assert verified(place.away, identity, tmp_path / "chain") == 5
    assert place.numbers(1, origin) == [0, 1, 2, 3, 4]
    entry = place.away.factory_registry().entry(origin)
    assert entry is not None
    assert not entry.has_key


def test_a_key_that_is_at_the_target_signs_there(place: Place, tmp_path: Path) -> None:
    identity = Identity.generate()
    origin = place.home.spawn("seen", identity).origin_hash
    place.away.register_migration_target_identity("seen", identity, DaemonHostConfig(outputs_max=77))
    place.home.send(origin, number(1))

    place.move(origin, opts=MigrationOpts(transport_identity=False))
    place.home.send(origin, number(2))

    entry = place.away.factory_registry().entry(origin)
    assert entry is not None
    assert entry.has_key
    assert entry.config.outputs_max == 77
    assert verified(place.away, identity, tmp_path / "chain") == 2
    # And from there it may travel again.
    assert place.move(origin, 1, 2) == 3
    place.home.send(origin, number(3))
    assert verified(place.third, identity, tmp_path / "again") == 3
    entry = place.third.factory_registry().entry(origin)
    assert entry is not None
    assert entry.has_key


@pytest.mark.parametrize("durability", ["none", "snapshot", "journal"])
def test_every_durability_moves_there_and_back_and_starts_again(
    tmp_path: Path, durability: Literal["none", "snapshot", "journal"]
) -> None:
    identity, paths = Identity.generate(), [tmp_path / str(index) for index in range(3)]
    origin = identity.origin_hash
    with ExitStack() as stack:
        place = Place(stack, [stack.enter_context(Store.open(path)) for path in paths])
        place.home.spawn("seen", identity, DaemonHostConfig(durability=durability))
        for leg in range(6):
            place.third.send(origin, number(leg))
            assert place.move(origin, leg % 2, 1 - leg % 2) == leg + 2
        place.third.send(origin, number(6))
        place.home.snapshot(origin)
    with ExitStack() as stack:
        place = Place(stack, [stack.enter_context(Store.open(path)) for path in paths])
        reports = [runtime.recover() for runtime in place.runtimes]
        assert origin not in reports[1].daemons
        if durability == "none":
            # What is not durable begins with what its move kept.
            return
        assert reports[0].daemons[origin].error is None
        assert place.numbers(0, origin) == list(range(7))
        assert place.move(origin) >= 8
        place.third.send(origin, number(7))
        assert place.numbers(1, origin) == list(range(8))
        place.away.export_chain(origin, tmp_path / "chain")
        verify_chain(tmp_path / "chain", identity.entity_id)


# ---------------------------------------------------------------- senders


def test_callers_that_wait_in_the_mailbox_are_answered_from_the_target(place: Place) -> None:
    origin = place.home.spawn("gated", Identity.generate()).origin_hash
    epochs: list[int] = []

    def send(value: int) -> None:
        epochs.append(place.home.send(origin, number(value), timeout=TIMEOUT).epoch)

    def send_many() -> None:
        receipts = place.home.send_many(origin, [number(value) for value in range(100, 300)], timeout=TIMEOUT)
        epochs.extend(receipt.epoch for receipt in receipts)

    threads = [threading.Thread(target=send, args=(value,)) for value in range(20)]
    threads.append(threading.Thread(target=send_many))

    async def main() -> None:
        # These are mailed by the call itself, behind what is inside.
        calls = [place.home.send_async(origin, number(value), timeout=TIMEOUT) for value in range(300, 400)]
        for thread in threads[1:]:
            thread.start()
        for value in range(400, 450):
            place.home.post(origin, number(value))
        move = await place.home.start_migration_with_async(
            origin, place.ids[0], place.ids[1], MigrationOpts(freeze_max=TIMEOUT)
        )
        place.gated.leave.set()
        receipts = await asyncio.gather(*calls)
        epochs.extend(receipt.epoch for receipt in receipts)
        assert (await move.wait_async(TIMEOUT)).epoch == 2

    threads[0].start()
    assert place.gated.entered.wait(PATIENCE)
    asyncio.run(main())
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    eventually(lambda: len(place.numbers(1, origin)) == 370)

    seen = place.numbers(1, origin)
    assert sorted(seen) == [*range(20), *range(100, 450)]
    for first, last in ((100, 300), (300, 400), (400, 450)):
        assert [value for value in seen if first <= value < last] == list(range(first, last))
    assert len(epochs) == 320
    assert set(epochs) <= {1, 2}


def test_what_is_sent_in_every_way_while_it_stands_still_takes_effect_once(place: Place) -> None:
    origin = place.home.spawn("held", Identity.generate()).origin_hash
    place.home.send(origin, number(0))
    move = place.start(origin)
    assert place.held.entered.wait(PATIENCE)
    epochs: list[int] = []

    def send(index: int, value: int) -> None:
        epochs.append(place.runtimes[index].send(origin, number(value), timeout=TIMEOUT).epoch)

    def send_many(index: int, first: int) -> None:
        values = range(first, first + 200)
        receipts = place.runtimes[index].send_many(origin, [number(value) for value in values], timeout=TIMEOUT)
        epochs.extend(receipt.epoch for receipt in receipts)

    threads = [threading.Thread(target=send, args=(index, 1 + index)) for index in range(3)]
    threads += [threading.Thread(target=send_many, args=(index, 1_000 * (1 + index))) for index in range(3)]
    for thread in threads:
        thread.start()
    for value in range(10, 40):
        place.runtimes[value % 3].post(origin, number(value))
    eventually(lambda: bool(move.progress().buffered_events))
    place.held.leave.set()

    assert move.wait(TIMEOUT).epoch == 2
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    expected = [0, 1, 2, 3, *range(10, 40), *(1_000 * node + at for node in (1, 2, 3) for at in range(200))]
    eventually(lambda: len(place.numbers(1, origin)) >= len(expected))
    seen = place.numbers(1, origin)
    assert sorted(seen) == expected
    for node in range(3):
        posted = [value for value in range(10, 40) if value % 3 == node]
        assert [value for value in seen if value in posted] == posted
        first = 1_000 * (1 + node)
        assert [value for value in seen if first <= value < first + 200] == list(range(first, first + 200))
    assert set(epochs) == {2}


def test_callers_that_wait_go_on_at_home_when_the_move_is_given_up(place: Place) -> None:
    origin = place.home.spawn("held", Identity.generate()).origin_hash
    place.home.send(origin, number(0))
    move = place.start(origin)
    assert place.held.entered.wait(PATIENCE)
    receipts: list[int] = []
    threads = [
        threading.Thread(
            target=lambda index=index: receipts.append(
                place.runtimes[index].send(origin, number(1 + index), timeout=TIMEOUT).epoch
            )
        )
        for index in range(3)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: bool(move.progress().buffered_events))

    move.cancel()
    with pytest.raises(MigrationError):
        move.wait(TIMEOUT)

    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert receipts == [1, 1, 1]
    assert sorted(place.numbers(0, origin)) == [0, 1, 2, 3]
    place.held.leave.set()
    # Nothing of the first try is in the way of another one.
    assert place.move(origin) == 2
    assert sorted(place.numbers(1, origin)) == [0, 1, 2, 3]


# ---------------------------------------------------------------- outputs, channels, readers


@pytest.mark.parametrize("durability", ["none", "journal"])
def test_outputs_that_are_due_travel_and_arrive_once(place: Place, durability: Literal["none", "journal"]) -> None:
    """Whom they are for is nowhere yet when the daemon is frozen."""
    sender = place.home.spawn("sends", Identity.generate(), DaemonHostConfig(durability=durability)).origin_hash
    for value in range(50):
        place.home.send(sender, number(value))
    assert place.move(sender) == 2
    for value in range(50, 60):
        place.home.send(sender, number(value))
    assert place.move(sender, 1, 2) == 3

    place.home.spawn("seen", TO, DaemonHostConfig(durability="journal"))

    place.home.wait_for(TO.origin_hash, Seen, lambda daemon: len(daemon.numbers) >= 60, timeout=TIMEOUT)
    # Whom they are for moves too.
    assert place.move(TO.origin_hash, 0, 1) == 2
    for value in range(60, 70):
        place.home.send(sender, number(value))
    place.away.wait_for(TO.origin_hash, Seen, lambda daemon: len(daemon.numbers) >= 70, timeout=TIMEOUT)
    assert place.numbers(1, TO.origin_hash) == list(range(70))


@pytest.mark.parametrize("is_gated", [False, True])
def test_a_daemon_reads_a_channel_while_it_moves_and_another_one_goes_on(place: Place, is_gated: bool) -> None:
    publisher = place.meshes[2]
    if is_gated:
        publisher.open_channel(NEWS, ChannelPolicy(requires_token=True))
    readers = []
    for identity in (Identity.generate(), Identity.generate()):
        token = None
        if is_gated:
            token = publisher.issue_token(identity.entity_id, NEWS, rights=[Right.SUBSCRIBE], ttl=timedelta(minutes=5))
        readers.append(place.home.spawn("seen", identity).origin_hash)
        place.home.subscribe_channel(readers[-1], publisher.node_id, NEWS, token)
    origin, sibling = readers
    halt, more, published = threading.Event(), threading.Event(), [0]

    def publish() -> None:
        while not halt.is_set():
            publisher.publish(NEWS, number(published[0]))
            published[0] += 1
            if published[0] % 20 == 0:
                more.set()
            halt.wait(0.001)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for leg in range(5):
            here, there = leg % 2, 1 - leg % 2
            more.clear()
            assert more.wait(PATIENCE)
            assert place.move(origin, here, there) == leg + 2
    finally:
        halt.set()
        thread.join()
    for index, reader in ((1, origin), (0, sibling)):
        runtime = place.runtimes[index]
        runtime.wait_for(reader, Seen, lambda daemon: len(daemon.numbers) >= published[0], timeout=TIMEOUT)
        assert place.numbers(index, reader) == list(range(published[0]))
        assert [binding.channel for binding in runtime.subscriptions(reader)] == [NEWS]


def test_a_daemon_that_moves_is_read_without_a_gap(place: Place) -> None:
    identity = Identity.generate()
    origin = place.home.spawn("seen", identity).origin_hash
    count, found = 300, list[CausalEvent | RolledBack]()

    def send() -> None:
        for value in range(count):
            place.third.send(origin, number(value), timeout=TIMEOUT)

    thread = threading.Thread(target=send)
    thread.start()
    with place.third.remote(place.ids[0]).follow(identity.entity_id) as stream:
        found.append(stream.receive(timeout=TIMEOUT))
        assert place.move(origin) == 2
        assert place.move(origin, 1, 2) == 3
        while len(found) < count:
            found.append(stream.receive(timeout=TIMEOUT))
    thread.join()
    events = [event for event in found if isinstance(event, CausalEvent)]
    assert [event.sequence for event in events] == list(range(1, count + 1))
    assert [event.payload for event in events] == [number(value) for value in range(count)]


# ---------------------------------------------------------------- in the middle of a move


def test_spawn_stop_and_deliver_in_the_middle_are_refused_by_name(place: Place) -> None:
    identity = Identity.generate()
    origin = place.home.spawn("held", identity).origin_hash
    place.home.send(origin, number(0))
    move = place.start(origin)
    assert place.held.entered.wait(PATIENCE)

    for runtime in place.runtimes:
        with pytest.raises(MeshOsError):
            runtime.spawn("held", identity)
    for runtime in (place.away, place.third):
        with pytest.raises((NotOwner, DaemonNotFound)):
            runtime.deliver(origin, CausalEvent.external(7, 1, number(1)))
        with pytest.raises((NotOwner, DaemonNotFound)):
            runtime.stop(origin)
    place.held.leave.set()

    assert move.wait(TIMEOUT).epoch == 2
    assert move.phase() is MigrationPhase.COMPLETE
    assert place.numbers(1, origin) == [0]


def test_a_source_that_shuts_down_in_the_middle_keeps_its_daemon(place: Place) -> None:
    origin = place.home.spawn("held", Identity.generate()).origin_hash
    place.home.send(origin, number(0))
    move = place.start(origin)
    assert place.held.entered.wait(PATIENCE)

    place.home.shutdown(timeout=TIMEOUT)
    place.held.leave.set()

    try:
        moved = move.wait(TIMEOUT).epoch == 2
    except MeshOsError:
        moved = False
    assert (place.away.find(origin) is not None) == moved


# ---------------------------------------------------------------- longer ways


def test_ten_thousand_events_of_three_nodes_take_effect_once_and_make_one_chain(place: Place, tmp_path: Path) -> None:
    identity = Identity.generate()
    origin = place.home.spawn("seen", identity, DaemonHostConfig(outputs_max=20_000)).origin_hash
    each = 3_334

    def send(index: int) -> None:
        first = index * each
        for at in range(first, first + each, 50):
            values = range(at, min(at + 50, first + each))
            place.runtimes[index].send_many(origin, [number(value) for value in values], timeout=TIMEOUT)

    threads = [threading.Thread(target=send, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    here, legs = 0, 0
    while any(thread.is_alive() for thread in threads) or legs < 3:
        there = (here + 1) % 3
        assert place.move(origin, here, there) == legs + 2
        here, legs = there, legs + 1
    for thread in threads:
        thread.join()

    seen = place.numbers(here, origin)
    assert sorted(seen) == list(range(3 * each))
    for index in range(3):
        of_it = [value for value in seen if value // each == index]
        assert of_it == sorted(of_it)
    assert verified(place.runtimes[here], identity, tmp_path / "chain") == 3 * each


def test_there_and_back_over_three_nodes_on_the_orders_of_different_ones(place: Place, tmp_path: Path) -> None:
    identity = Identity.generate()
    origin = place.home.spawn("seen", identity).origin_hash
    way = [(0, 1, 2), (1, 2, 0), (2, 1, 1), (1, 0, 2)]
    for leg, (source, target, by) in enumerate(way):
        place.third.send(origin, number(leg))
        move = place.runtimes[by].start_migration(origin, place.ids[source], place.ids[target])
        assert move.wait(TIMEOUT).epoch == leg + 2
    place.third.send(origin, number(4))

    assert place.numbers(0, origin) == [0, 1, 2, 3, 4]
    assert verified(place.home, identity, tmp_path / "chain") == 5
    directory = place.meshes[0].directory()
    assert directory is not None
    lineage = directory.lineage(origin)
    assert [record.node_id for record in lineage] == [place.ids[index] for index in (0, 1, 2, 1, 0)]
