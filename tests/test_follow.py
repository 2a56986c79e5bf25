"""Following the chain of a daemon of another node."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, WaitTimeout
from meshos.errors import ChainContradiction, DaemonNotFound, InvalidArgument, LoopClosed, RemoteRefused
from meshos.stream import RolledBack

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND = timedelta(seconds=1)
KEY = Identity.from_seed(b"\x31" * 32)


class Echo(MeshDaemon):
    name = "echo"

    def process(self, event: CausalEvent) -> bytes:
        return event.payload


class Count(MeshDaemon):
    name = "count"

    def __init__(self) -> None:
        self.count = 0

    def process(self, event: CausalEvent) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def snapshot(self) -> bytes:
        return b"%d" % self.count

    def restore(self, state: bytes) -> None:
        self.count = int(state)


class Pair:
    def __init__(self) -> None:
        self.meshes = Mesh.local_cluster(2)
        self.here, self.there = (DaemonRuntime(mesh) for mesh in self.meshes)
        for runtime in (self.here, self.there):
            for kind in (Echo, Count):
                runtime.register_factory(kind.name, kind)
            runtime.start()
        self.meshes[0].wait_for_peer(self.meshes[1].node_id, timeout=10 * SECOND)
        self.there.permit_managers([self.meshes[0].entity_id])
        self.remote = self.here.remote(self.meshes[1].node_id)

    def send(self, first: int, last: int) -> None:
        events = [CausalEvent.external(9, number, b"%d" % number) for number in range(first, last + 1)]
        self.there.deliver_many(KEY.origin_hash, events)

    def close(self) -> None:
        for mesh in self.meshes:
            mesh.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_outputs_come_in_order_and_once_while_they_are_emitted(pair: Pair) -> None:
    pair.there.spawn("echo", KEY)
    pair.send(1, 10)
    with pair.remote.follow(KEY.entity_id) as stream:
        found = [stream.receive(timeout=10 * SECOND) for _ in range(10)]
        writer = threading.Thread(target=pair.send, args=(11, 3_000))
        writer.start()
        found += [stream.receive(timeout=10 * SECOND) for _ in range(2_990)]
        writer.join()
        with pytest.raises(WaitTimeout):
            stream.receive(timeout=timedelta(milliseconds=50))
    assert all(isinstance(event, CausalEvent) for event in found)
    events = [event for event in found if isinstance(event, CausalEvent)]
    assert [event.payload for event in events] == [b"%d" % number for number in range(1, 3_001)]
    assert [event.sequence for event in events] == list(range(1, 3_001))
    assert {event.origin_hash for event in events} == {KEY.origin_hash}


def test_a_reader_goes_on_where_it_was(pair: Pair) -> None:
    pair.there.spawn("echo", KEY)
    pair.send(1, 4)
    receipt = pair.there.send(KEY.origin_hash, b"5")
    pair.send(5, 6)
    with pair.remote.follow(KEY.entity_id, after=(receipt.sequence, receipt.head)) as stream:
        first = stream.receive(timeout=10 * SECOND)
        assert isinstance(first, CausalEvent)
        assert (first.sequence, first.payload) == (6, b"5")


def test_another_digest_than_the_chain_has_is_a_contradiction(pair: Pair) -> None:
    pair.there.spawn("echo", KEY)
    pair.send(1, 4)
    with pair.remote.follow(KEY.entity_id, after=(2, b"\x01" * 32)) as stream:
        with pytest.raises(ChainContradiction) as caught:
            stream.receive(timeout=10 * SECOND)
        assert (caught.value.kind, caught.value.number) == ("parent", 3)
        assert caught.value.node_id == pair.meshes[1].node_id
        with pytest.raises(LoopClosed):
            stream.receive(timeout=10 * SECOND)


def test_a_restart_that_rolls_back_is_told_and_what_comes_instead_is_read(pair: Pair) -> None:
    pair.there.spawn("count", KEY)
    pair.send(1, 3)
    snapshot = pair.there.snapshot(KEY.origin_hash)
    assert snapshot is not None
    pair.send(4, 7)
    stream = pair.remote.follow(KEY.entity_id)
    taken = [stream.receive(timeout=10 * SECOND) for _ in range(7)]
    assert [event.sequence for event in taken if isinstance(event, CausalEvent)] == list(range(1, 8))
    # What it emitted after the snapshot is declared to be rolled back.
    pair.there.stop(KEY.origin_hash)
    pair.there.spawn_from_snapshot("count", KEY, snapshot, rewind=True)
    pair.send(8, 9)
    told = stream.receive(timeout=10 * SECOND)
    assert isinstance(told, RolledBack)
    assert (told.after, told.through) == (3, 7)
    again = [stream.receive(timeout=10 * SECOND) for _ in range(2)]
    found = [(event.sequence, event.payload) for event in again if isinstance(event, CausalEvent)]
    assert found == [(4, b"4"), (5, b"5")]
    stream.close()


def test_who_follows_goes_on_when_the_owner_comes_back(pair: Pair) -> None:
    pair.there.spawn("count", KEY)
    pair.send(1, 5)
    stream = pair.remote.follow(KEY.entity_id)
    taken = [stream.receive(timeout=10 * SECOND) for _ in range(5)]
    snapshot = pair.there.snapshot(KEY.origin_hash)
    assert snapshot is not None
    pair.there.stop(KEY.origin_hash)
    with pytest.raises(WaitTimeout):
        stream.receive(timeout=timedelta(milliseconds=100))
    pair.there.spawn_from_snapshot("count", KEY, snapshot)
    pair.send(6, 9)
    taken += [stream.receive(timeout=10 * SECOND) for _ in range(4)]
    assert [event.sequence for event in taken if isinstance(event, CausalEvent)] == list(range(1, 10))
    stream.close()


def test_an_owner_that_comes_back_says_anew_who_may(pair: Pair) -> None:
    pair.there.spawn("count", KEY)
    pair.send(1, 3)
    with pair.remote.follow(KEY.entity_id) as stream:
        for number in range(1, 4):
            event = stream.receive(timeout=10 * SECOND)
            assert isinstance(event, CausalEvent)
            assert event.sequence == number
        pair.there.permit_managers([])
        snapshot = pair.there.snapshot(KEY.origin_hash)
        assert snapshot is not None
        pair.there.stop(KEY.origin_hash)
        pair.there.spawn_from_snapshot("count", KEY, snapshot)
        with pytest.raises(RemoteRefused) as caught:
            stream.receive(timeout=10 * SECOND)
        assert caught.value.kind == "not_permitted"


def test_a_stream_that_is_closed_ends_and_its_owner_goes_on(pair: Pair) -> None:
    pair.there.spawn("echo", KEY)
    streams = [pair.remote.follow(KEY.entity_id) for _ in range(3)]
    pair.send(1, 2)
    for stream in streams:
        assert isinstance(stream.receive(timeout=10 * SECOND), CausalEvent)
    for stream in streams:
        stream.close()
        with pytest.raises(LoopClosed):
            stream.receive(timeout=SECOND)
    pair.send(3, 500)
    with pair.remote.follow(KEY.entity_id) as stream:
        found = [stream.receive(timeout=10 * SECOND) for _ in range(500)]
    assert [event.payload for event in found if isinstance(event, CausalEvent)] == [b"%d" % n for n in range(1, 501)]


def test_outputs_that_are_not_kept_any_more_are_told(pair: Pair) -> None:
    pair.there.spawn("echo", KEY, DaemonHostConfig(outputs_max=5))
    pair.send(1, 20)
    with pair.remote.follow(KEY.entity_id) as stream, pytest.raises(RemoteRefused, match="up to 15"):
        stream.receive(timeout=10 * SECOND)


def test_who_is_not_permitted_and_who_asks_for_nobody_is_told(pair: Pair) -> None:
    with pair.remote.follow(KEY.entity_id) as stream, pytest.raises(DaemonNotFound):
        stream.receive(timeout=10 * SECOND)
    pair.there.spawn("echo", KEY)
    pair.there.permit_managers([])
    with pair.remote.follow(KEY.entity_id) as stream, pytest.raises(RemoteRefused) as caught:
        stream.receive(timeout=10 * SECOND)
    assert caught.value.kind == "not_permitted"


def test_it_is_read_with_async_for_and_a_cancelled_wait_loses_nothing(pair: Pair) -> None:
    pair.there.spawn("echo", KEY)

    async def story() -> list[bytes]:
        found: list[bytes] = []
        async with pair.remote.follow(KEY.entity_id) as stream:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
            await asyncio.to_thread(pair.send, 1, 50)
            async for event in stream:
                assert isinstance(event, CausalEvent)
                found.append(event.payload)
                if len(found) == 50:
                    break
        return found

    assert asyncio.run(story()) == [b"%d" % number for number in range(1, 51)]


@pytest.mark.parametrize("bad", [None, 1, "x", b"\x00" * 32])
def test_rubbish_is_refused(pair: Pair, bad: object) -> None:
    with pytest.raises(TypeError):
        pair.remote.follow(bad)  # type: ignore[arg-type]
    for after in (1, (1,), ("x", b"\x00" * 32)):
        with pytest.raises(TypeError):
            pair.remote.follow(KEY.entity_id, after=after)  # type: ignore[arg-type]
    for short in ((1, b""), (-1, b"\x00" * 32)):
        with pytest.raises(InvalidArgument):
            pair.remote.follow(KEY.entity_id, after=short)
