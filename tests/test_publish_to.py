"""Publishing on channels of other nodes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from meshos import CausalEvent, ChannelName, ChannelPolicy, DaemonRuntime, Identity, Mesh, MeshDaemon, Right
from meshos.errors import ChannelNameError, LoopClosed, PublishRejected, Unavailable
from meshos.mesh import ChannelMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDERS = ChannelName("plant/orders")
SECOND = timedelta(seconds=1)


@pytest.fixture
def pair() -> Iterator[tuple[Mesh, Mesh]]:
    plant, office = Mesh.local_cluster(2)
    office.wait_for_peer(plant.node_id, timeout=10 * SECOND)
    yield plant, office
    plant.close()
    office.close()


class Keeper(MeshDaemon):
    name = "keeper"

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, int]] = []

    def process(self, event: CausalEvent) -> None:
        self.kept.append((event.payload, event.sequence))


def test_a_reader_gets_what_another_node_publishes_with_its_number(pair: tuple[Mesh, Mesh]) -> None:
    plant, office = pair
    with DaemonRuntime(plant) as runtime, plant.subscribe(plant.node_id, ORDERS) as stream:
        runtime.register_factory("keeper", Keeper)
        runtime.start()
        keeper = runtime.spawn("keeper", Identity.generate()).origin_hash
        runtime.subscribe_channel(keeper, plant.node_id, ORDERS)
        assert plant.publish(ORDERS, b"one") == 1
        assert office.publish_to(plant.node_id, ORDERS, bytearray(b"two")) == 2
        assert plant.publish_to(plant.node_id, ORDERS, memoryview(b"three")) == 3
        runtime.wait_for(keeper, Keeper, lambda daemon: len(daemon.kept) == 3, timeout=10 * SECOND)
        kept = runtime.with_daemon(keeper, Keeper, lambda daemon: daemon.kept)
        assert kept == [(b"one", 1), (b"two", 2), (b"three", 3)]
        emitted = [stream.receive(timeout=10 * SECOND) for _ in range(3)]
        origins = [message.origin_hash for message in emitted if isinstance(message, ChannelMessage)]
        assert origins == [None, office.entity_id.origin_hash, plant.entity_id.origin_hash]


def test_a_gated_channel_wants_a_token_that_permits_to_publish(pair: tuple[Mesh, Mesh]) -> None:
    plant, office = pair
    plant.open_channel(ORDERS, ChannelPolicy(requires_token=True))
    subject = office.entity_id
    read = plant.issue_token(subject, ORDERS, rights=[Right.SUBSCRIBE], ttl=timedelta(minutes=1))
    other = plant.issue_token(Identity.generate().entity_id, ORDERS, rights=[Right.PUBLISH], ttl=timedelta(minutes=1))
    below = plant.issue_token(subject, ChannelName("plant"), rights=[Right.PUBLISH], ttl=timedelta(minutes=1))
    for token in (None, read, other, below):
        with pytest.raises(PublishRejected) as caught:
            office.publish_to(plant.node_id, ORDERS, b"no", token)
        assert (caught.value.kind, caught.value.publisher, caught.value.channel) == (
            "unauthorized",
            plant.node_id,
            ORDERS,
        )
    good = plant.issue_token(subject, ORDERS, rights=[Right.PUBLISH], ttl=timedelta(minutes=1))
    assert office.publish_to(plant.node_id, ORDERS, b"yes", good) == 1
    plant.revoke_tokens(subject)
    with pytest.raises(PublishRejected):
        office.publish_to(plant.node_id, ORDERS, b"no", good)
    assert plant.publish(ORDERS, b"own") == 2


def test_too_large_a_payload_is_refused(pair: tuple[Mesh, Mesh]) -> None:
    plant, office = pair
    plant.open_channel(ORDERS, ChannelPolicy(payload_bytes_max=3))
    assert office.publish_to(plant.node_id, ORDERS, b"123") == 1
    with pytest.raises(PublishRejected) as caught:
        office.publish_to(plant.node_id, ORDERS, b"1234")
    assert caught.value.kind == "too_large"


def test_a_node_that_is_not_there_is_unavailable(pair: tuple[Mesh, Mesh]) -> None:
    plant, office = pair
    with pytest.raises(Unavailable, match="nothing was published"):
        office.publish_to(12345, ORDERS, b"", timeout=timedelta(milliseconds=50))
    plant.close()
    with pytest.raises(Unavailable) as caught:
        office.publish_to(plant.node_id, ORDERS, b"", timeout=timedelta(milliseconds=100))
    assert caught.value.target == plant.node_id
    office.close()
    with pytest.raises(LoopClosed):
        office.publish_to(plant.node_id, ORDERS, b"")


def test_the_twin_does_the_same(pair: tuple[Mesh, Mesh]) -> None:
    plant, office = pair

    async def story() -> list[int]:
        calls = [office.publish_to_async(plant.node_id, ORDERS, b"%d" % number) for number in range(20)]
        return list(await asyncio.gather(*calls))

    assert sorted(asyncio.run(story())) == list(range(1, 21))


def test_rubbish_is_refused(pair: tuple[Mesh, Mesh]) -> None:
    plant, office = pair
    for bad in (None, 1.5, object()):
        with pytest.raises(TypeError):
            office.publish_to(bad, ORDERS, b"")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            office.publish_to(plant.node_id, bad, b"")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            office.publish_to(plant.node_id, ORDERS, bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        office.publish_to(plant.node_id, ORDERS, b"", b"token")  # type: ignore[arg-type]
    with pytest.raises(ChannelNameError):
        office.publish_to(plant.node_id, ChannelName("Plant"), b"")
