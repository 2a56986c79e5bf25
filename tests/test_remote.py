"""Daemons of another node: spawned, stopped and looked at by a node that is permitted to, and by no other."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

import pytest

from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, verify_chain
from meshos.compute import RemoteRuntime
from meshos.errors import (
    AlreadyRegistered,
    DaemonNotFound,
    FactoryNotFound,
    IdentityError,
    LoopClosed,
    NotOwner,
    RemoteRefused,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Counter(MeshDaemon):
    name = "counter"

    def __init__(self) -> None:
        self.count = 0

    def process(self, event: CausalEvent) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def snapshot(self) -> bytes:
        return b"%d" % self.count

    def restore(self, state: bytes) -> None:
        self.count = int(state)


class Echo(MeshDaemon):
    name = "echo"

    def process(self, event: CausalEvent) -> bytes:
        return event.payload


class Large(Counter):
    name = "large"
    size: ClassVar[int] = 5 << 20

    def snapshot(self) -> bytes:
        return bytes(range(256)) * (self.size // 256)


class Broken(Counter):
    name = "broken"

    def __init__(self) -> None:
        raise RuntimeError("no such thing")


class Pair:
    def __init__(self) -> None:
        self.meshes = Mesh.local_cluster(2)
        self.here, self.there = (DaemonRuntime(mesh) for mesh in self.meshes)
        for runtime in (self.here, self.there):
            for kind in (Counter, Echo, Large, Broken):
                runtime.register_factory(kind.name, kind)
            runtime.start()
        for one, other in (self.meshes, reversed(self.meshes)):
            one.wait_for_peer(other.node_id, timeout=timedelta(seconds=10))
        self.there.permit_managers([self.meshes[0].entity_id])
        self.remote = self.here.remote(self.meshes[1].node_id)

    def close(self) -> None:
        for mesh in self.meshes:
            mesh.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_a_daemon_is_spawned_there_and_its_chain_is_its_own(pair: Pair, tmp_path: Path) -> None:
    identity = Identity.generate()
    named = pair.remote.spawn("counter", identity, DaemonHostConfig(auto_snapshot_interval=2))
    assert (named.id, named.name) == (identity.origin_hash, "counter")
    assert pair.here.find(named.id) is None
    handle = pair.there.find(named.id)
    assert handle is not None
    assert handle.kind == "counter"
    for sequence in (1, 2, 3):
        pair.there.deliver(named.id, CausalEvent.external(7, sequence, b""))
    file = tmp_path / "chain"
    pair.there.export_chain(named.id, file)
    report = verify_chain(file, identity.entity_id)
    assert (report.events, report.signed_through) == (3, 3)
    assert [span.node for span in report.owners] == [pair.meshes[1].entity_id]


def test_what_is_there_is_refused_a_second_time(pair: Pair) -> None:
    identity = Identity.generate()
    pair.remote.spawn("counter", identity)
    with pytest.raises((AlreadyRegistered, NotOwner)):
        pair.remote.spawn("counter", identity)
    with pytest.raises(NotOwner) as caught:
        pair.here.spawn("counter", identity)
    assert caught.value.owner == pair.meshes[1].node_id


def test_a_daemon_that_is_here_is_not_spawned_there(pair: Pair) -> None:
    identity = Identity.generate()
    pair.here.spawn("counter", identity)
    with pytest.raises(NotOwner) as caught:
        pair.remote.spawn("counter", identity)
    assert caught.value.owner == pair.meshes[0].node_id
    assert pair.there.find(identity.origin_hash) is None


def test_a_daemon_is_stopped_there(pair: Pair) -> None:
    named = pair.remote.spawn("counter", Identity.generate())
    pair.remote.stop(named.id)
    assert pair.there.find(named.id) is None
    with pytest.raises((DaemonNotFound, NotOwner)):
        pair.remote.stop(named.id)


@pytest.mark.parametrize("kind", ["counter", "large"])
def test_a_snapshot_comes_whole(pair: Pair, kind: str) -> None:
    identity = Identity.generate()
    named = pair.remote.spawn(kind, identity)
    pair.there.deliver(named.id, CausalEvent.external(7, 1, b""))
    taken = pair.remote.snapshot(named.id)
    own = pair.there.snapshot(named.id)
    assert taken is not None
    assert own is not None
    assert (taken.state, taken.entity_id, taken.sequence) == (own.state, identity.entity_id, 1)


def test_a_daemon_without_state_has_no_snapshot(pair: Pair) -> None:
    named = pair.remote.spawn("echo", Identity.generate())
    assert pair.remote.snapshot(named.id) is None


def test_a_node_that_is_not_permitted_is_refused_and_nothing_happens(pair: Pair) -> None:
    back = pair.there.remote(pair.meshes[0].node_id)
    identity = Identity.generate()
    handle = pair.here.spawn("counter", identity)
    for call in (
        lambda: back.spawn("counter", Identity.generate()),
        lambda: back.stop(handle.origin_hash),
        lambda: back.snapshot(handle.origin_hash),
    ):
        with pytest.raises(RemoteRefused) as caught:
            call()
        assert caught.value.kind == "not_permitted"
        assert caught.value.node_id == pair.meshes[0].node_id
    assert pair.here.daemon_count() == 1
    assert pair.here.find(handle.origin_hash) is not None


def test_a_permission_is_given_and_taken_back(pair: Pair) -> None:
    here = pair.meshes[0].entity_id
    assert pair.there.managers() == {here}
    assert pair.here.managers() == frozenset()
    named = pair.remote.spawn("echo", Identity.generate())
    pair.there.permit_managers([])
    with pytest.raises(RemoteRefused):
        pair.remote.stop(named.id)
    pair.there.permit_managers({here})
    pair.remote.stop(named.id)


def test_what_goes_wrong_there_is_told_here(pair: Pair) -> None:
    with pytest.raises(FactoryNotFound) as missing:
        pair.remote.spawn("nothing", Identity.generate())
    assert missing.value.daemon_kind == "nothing"
    with pytest.raises(RemoteRefused, match="no such thing") as broken:
        pair.remote.spawn("broken", Identity.generate())
    assert broken.value.kind == "failed"
    for call in (pair.remote.stop, pair.remote.snapshot):
        with pytest.raises(DaemonNotFound):
            call(12345)
    with pytest.raises(IdentityError):
        pair.remote.spawn("counter", Identity.public_only(Identity.generate().entity_id))


def test_a_runtime_that_was_not_started_is_not_ready() -> None:
    one, other = Mesh.local_cluster(2)
    with one, other:
        here, there = DaemonRuntime(one), DaemonRuntime(other)
        here.start()
        one.wait_for_peer(other.node_id, timeout=timedelta(seconds=10))
        there.permit_managers([one.entity_id])
        with pytest.raises(Unavailable, match="not ready") as caught:
            here.remote(other.node_id).stop(7)
        assert caught.value.target == other.node_id


def test_a_node_may_ask_itself() -> None:
    mesh = Mesh.local()
    with DaemonRuntime(mesh) as runtime:
        runtime.register_factory("counter", Counter)
        runtime.start()
        own = runtime.remote(mesh.node_id)
        with pytest.raises(RemoteRefused):
            own.spawn("counter", Identity.generate())
        runtime.permit_managers([mesh.entity_id])
        named = own.spawn("counter", Identity.generate())
        assert runtime.find(named.id) is not None
        own.stop(named.id)


def test_a_node_that_vanished_is_unavailable(pair: Pair) -> None:
    named = pair.remote.spawn("counter", Identity.generate())
    pair.meshes[1].close()
    with pytest.raises(Unavailable) as caught:
        pair.remote.stop(named.id, timeout=timedelta(milliseconds=200))
    assert caught.value.target == pair.meshes[1].node_id


def test_a_node_that_was_never_heard_of_is_unavailable(pair: Pair) -> None:
    with pytest.raises(Unavailable) as caught:
        pair.here.remote(12345)
    assert caught.value.target == 12345


def test_a_closed_node_asks_nothing(pair: Pair) -> None:
    pair.here.shutdown()
    with pytest.raises(LoopClosed):
        pair.remote.stop(7)


def test_the_async_twins_do_the_same(pair: Pair) -> None:
    async def story() -> None:
        named = await pair.remote.spawn_async("counter", Identity.generate())
        pair.there.deliver(named.id, CausalEvent.external(7, 1, b""))
        taken = await pair.remote.snapshot_async(named.id)
        assert taken is not None
        assert taken.state == b"1"
        await pair.remote.stop_async(named.id)
        assert pair.there.find(named.id) is None

    asyncio.run(story())


def test_a_call_that_waits_long_is_done_once(pair: Pair) -> None:
    """The other side asks again while user code runs; it is called once."""
    entered, go = threading.Event(), threading.Event()
    calls: list[int] = []

    class Slow(Counter):
        name = "slow"

        def snapshot(self) -> bytes:
            calls.append(1)
            entered.set()
            assert go.wait(20)
            return b"slow"

    pair.there.register_factory("slow", Slow)
    named = pair.remote.spawn("slow", Identity.generate())
    calls.clear()
    entered.clear()
    with pytest.raises(Unavailable):
        pair.remote.snapshot(named.id, timeout=timedelta(milliseconds=400))
    assert entered.wait(20)
    assert calls == [1]
    go.set()
    taken = pair.remote.snapshot(named.id)
    assert taken is not None
    assert taken.state == b"slow"
    assert calls == [1, 1]


@pytest.mark.parametrize("bad", [None, 1.5, object()])
def test_rubbish_is_refused(pair: Pair, bad: object) -> None:
    for call in (
        lambda: RemoteRuntime(bad, 7),  # type: ignore[arg-type]
        lambda: RemoteRuntime(pair.here, bad),  # type: ignore[arg-type]
        lambda: pair.remote.spawn(bad, Identity.generate()),  # type: ignore[arg-type]
        lambda: pair.remote.spawn("counter", bad),  # type: ignore[arg-type]
        lambda: pair.remote.stop(bad),  # type: ignore[arg-type]
        lambda: pair.remote.snapshot(bad),  # type: ignore[arg-type]
        lambda: pair.there.permit_managers([bad]),  # type: ignore[list-item]
        lambda: pair.there.permit_managers(bad),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
