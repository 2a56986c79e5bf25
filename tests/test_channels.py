"""Channels: publishing, reading with and without a daemon, tokens, groups, and what goes wrong."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

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
    PermissionToken,
    Right,
    Store,
    SubscribeRejected,
    WaitTimeout,
)
from meshos.errors import ChannelNameError, DaemonNotFound, InvalidArgument, LoopClosed, Unavailable
from meshos.mesh import ChannelMessage
from meshos.stream import Gap, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEWS, ALARMS = ChannelName("plant/news"), ChannelName("plant/alarms")
SOON, PATIENCE = timedelta(milliseconds=100), timedelta(seconds=20)
GATED = ChannelPolicy(requires_token=True)


class Reader(MeshDaemon):
    """Keeps what it is given."""

    name = "reader"

    def __init__(self) -> None:
        self.got: list[tuple[int, bytes]] = []
        self.events: list[CausalEvent] = []

    def process(self, event: CausalEvent) -> None:
        self.got.append((event.sequence, event.payload))
        self.events.append(event)


class Keeper(MeshDaemon):
    """Keeps what it is given, and can be brought back."""

    name = "keeper"

    def __init__(self) -> None:
        self.text = b""
        self.seen: list[tuple[str | None, int | None]] = []

    def process(self, event: CausalEvent) -> None:
        self.text += event.payload
        self.seen.append((event.channel, event.publisher))

    def snapshot(self) -> bytes:
        return self.text

    def restore(self, state: bytes, /) -> None:
        self.text = state


@pytest.fixture
def nodes() -> Iterator[tuple[Mesh, Mesh, Mesh]]:
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(mesh) for mesh in Mesh.local_cluster(3))
        yield first, second, third


def started(mesh: Mesh, *kinds: type[MeshDaemon]) -> DaemonRuntime:
    runtime = DaemonRuntime(mesh)
    for kind in kinds or (Reader,):
        runtime.register_factory(kind.name, kind)
    runtime.start()
    return runtime


def texts(stream: Stream[ChannelMessage | Gap], count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        item = stream.receive(timeout=PATIENCE)
        assert isinstance(item, ChannelMessage)
        found.append(item.payload)
    return found


def got(runtime: DaemonRuntime, origin: int, count: int) -> list[bytes]:
    runtime.wait_for(origin, Reader, lambda reader: len(reader.got) >= count, timeout=PATIENCE)
    return runtime.with_daemon(origin, Reader, lambda reader: [payload for _, payload in reader.got])


# ---------------------------------------------------------------- without a daemon


def test_what_is_published_arrives_in_order_with_its_number(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    with office.subscribe(plant.node_id, NEWS) as stream:
        assert [plant.publish(NEWS, b"%d" % number) for number in range(1, 6)] == [1, 2, 3, 4, 5]
        items = [stream.receive(timeout=PATIENCE) for _ in range(5)]

    assert items == [ChannelMessage(NEWS, plant.node_id, number, b"%d" % number, None) for number in range(1, 6)]


def test_who_waits_has_a_payload_when_publish_returns(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    first, second, _ = nodes
    stream = second.subscribe(first.node_id, NEWS)
    at_once = 0
    for number in range(400):
        first.publish(NEWS, b"%d" % number)
        try:
            message = stream.receive(timeout=timedelta(0))
            at_once += 1
        except WaitTimeout:
            # The thread of all meshes was about to take a turn anyway.
            message = stream.receive(timeout=PATIENCE)
        assert isinstance(message, ChannelMessage)
        assert message.payload == b"%d" % number
    assert at_once >= 200


def test_a_stream_begins_now_and_ends_when_it_is_closed(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    plant.publish(NEWS, b"before")
    stream = office.subscribe(plant.node_id, NEWS)
    plant.publish(NEWS, b"after")
    assert texts(stream, 1) == [b"after"]
    with pytest.raises(WaitTimeout):
        stream.receive(timeout=SOON)
    threading.Timer(0.05, stream.close).start()
    assert list(stream) == []


def test_a_node_that_is_alone_reads_itself() -> None:
    mesh = Mesh.local()
    with mesh.subscribe(mesh.node_id, NEWS) as stream:
        mesh.publish(NEWS, b"one")
        assert texts(stream, 1) == [b"one"]


def test_async_twins(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes

    async def main() -> list[bytes]:
        async with await office.subscribe_async(plant.node_id, NEWS) as stream:
            with pytest.raises(WaitTimeout):
                await stream.receive_async(timeout=SOON)
            for number in range(100):
                await plant.publish_async(NEWS, b"%d" % number)
            items = [await stream.receive_async(timeout=PATIENCE) for _ in range(100)]
            return [item.payload for item in items if isinstance(item, ChannelMessage)]

    assert asyncio.run(main()) == [b"%d" % number for number in range(100)]


def test_who_does_not_read_is_bounded_and_gets_a_counted_gap(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    plant.open_channel(NEWS, ChannelPolicy(retain_bytes_max=50_000))
    stream = office.subscribe(plant.node_id, NEWS, buffer_max=16)
    last = 3_000
    for number in range(1, last + 1):
        plant.publish(NEWS, b"%d" % number)
    seen, missing, following = 0, 0, 1
    while following <= last:
        item = stream.receive(timeout=PATIENCE)
        if isinstance(item, Gap):
            assert item.first == following
            missing += item.last - item.first + 1
            following = item.last + 1
        else:
            assert (item.sequence, item.payload) == (following, b"%d" % following)
            seen += 1
            following += 1
    assert seen + missing == last


def test_bad_input(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    for bad in ("", "A", "a//b", "../a", "x" * 256):
        with pytest.raises(ChannelNameError):
            plant.publish(bad, b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        plant.publish(NEWS, "text")  # type: ignore[arg-type]
    plant.open_channel(NEWS, ChannelPolicy(payload_bytes_max=4))
    with pytest.raises(InvalidArgument) as error:
        plant.publish(NEWS, b"12345")
    assert "payload" in str(error.value)
    for size in (0, -1, (1 << 20) + 1):
        with pytest.raises(InvalidArgument):
            office.subscribe(plant.node_id, NEWS, buffer_max=size)
    with pytest.raises(InvalidArgument):
        office.subscribe(-1, NEWS)
    assert plant.publish(NEWS, b"1234") == 1


def test_a_publisher_that_is_not_there_is_unavailable(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    alone = Mesh.local()
    with pytest.raises(Unavailable) as error:
        alone.subscribe(plant.node_id, NEWS)
    assert (error.value.target, error.value.kind) == (plant.node_id, "unavailable")
    stream = office.subscribe(plant.node_id, NEWS)
    plant.close()
    with pytest.raises(LoopClosed):
        plant.publish(NEWS, b"")
    office.close()
    with pytest.raises(LoopClosed):
        stream.receive(timeout=PATIENCE)


def test_a_channel_that_is_closed_ends_its_streams(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    stream = office.subscribe(plant.node_id, NEWS)
    plant.publish(NEWS, b"last")
    assert texts(stream, 1) == [b"last"]
    plant.close_channel(NEWS)
    with pytest.raises(LoopClosed):
        stream.receive(timeout=PATIENCE)


# ---------------------------------------------------------------- tokens


def test_a_gated_channel_refuses_what_does_not_permit(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, other = nodes
    plant.open_channel(ALARMS, GATED)
    reader, stranger = office.entity_id, Identity.generate().entity_id
    minute, subscribe = timedelta(minutes=1), [Right.SUBSCRIBE]

    def issue(subject: object, channel: ChannelName, right: Right) -> PermissionToken:
        return plant.issue_token(subject, channel, rights=[right], ttl=minute)  # type: ignore[arg-type]

    outsider = Identity.generate()
    root = plant.issue_token(
        outsider.entity_id, ALARMS, rights=[Right.SUBSCRIBE, Right.DELEGATE], ttl=minute, delegations=1
    )
    passed_on = root.delegate(outsider, subject=reader, rights=subscribe)
    broken = bytearray(passed_on.to_bytes())
    broken[-1] ^= 1
    expired = plant.issue_token(reader, ALARMS, rights=subscribe, ttl=timedelta(seconds=1))
    bad: list[PermissionToken | None] = [
        None,
        issue(stranger, ALARMS, Right.SUBSCRIBE),
        issue(reader, NEWS, Right.SUBSCRIBE),
        issue(reader, ALARMS, Right.PUBLISH),
        other.issue_token(reader, ALARMS, rights=subscribe, ttl=minute),
        PermissionToken.from_bytes(bytes(broken)),
        root,
    ]
    for token in bad:
        with pytest.raises(SubscribeRejected) as error:
            office.subscribe(plant.node_id, ALARMS, token)
        assert (error.value.kind, error.value.publisher) == ("unauthorized", plant.node_id)
        assert error.value.channel == ALARMS
    with office.subscribe(plant.node_id, ALARMS, passed_on) as stream:
        plant.publish(ALARMS, b"hot")
        assert texts(stream, 1) == [b"hot"]
    stream = office.subscribe(plant.node_id, ALARMS, expired)
    with pytest.raises(SubscribeRejected):
        # Its time is over after a second.
        stream.receive(timeout=PATIENCE)
    with pytest.raises(SubscribeRejected):
        office.subscribe(plant.node_id, ALARMS, expired)


def test_who_is_refused_too_often_is_not_listened_to(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    plant.open_channel(ALARMS, GATED)
    kinds = set()
    for _ in range(70):
        with pytest.raises(SubscribeRejected) as error:
            office.subscribe(plant.node_id, ALARMS)
        kinds.add(error.value.kind)
    assert kinds == {"unauthorized", "rate_limited"}


def test_who_is_revoked_gets_nothing_more_and_the_others_go_on(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, other = nodes
    plant.open_channel(ALARMS, GATED)
    tokens = [
        plant.issue_token(mesh.entity_id, ALARMS, rights=[Right.SUBSCRIBE], ttl=timedelta(minutes=1))
        for mesh in (office, other)
    ]
    first, second = (
        mesh.subscribe(plant.node_id, ALARMS, token) for mesh, token in zip(nodes[1:], tokens, strict=True)
    )
    plant.publish(ALARMS, b"one")
    assert (texts(first, 1), texts(second, 1)) == ([b"one"], [b"one"])
    plant.revoke_tokens(office.entity_id)
    plant.publish(ALARMS, b"two")
    assert texts(second, 1) == [b"two"]
    with pytest.raises(SubscribeRejected):
        first.receive(timeout=PATIENCE)
    with pytest.raises(SubscribeRejected):
        office.subscribe(plant.node_id, ALARMS, tokens[0])
    anew = plant.issue_token(office.entity_id, ALARMS, rights=[Right.SUBSCRIBE], ttl=timedelta(minutes=1))
    with office.subscribe(plant.node_id, ALARMS, anew) as stream:
        plant.publish(ALARMS, b"three")
        assert texts(stream, 1) == [b"three"]


def test_a_revocation_outlives_its_node(tmp_path: Path) -> None:
    subject, minute = Identity.generate(), timedelta(minutes=1)
    with Store.open(tmp_path / "node") as store:
        mesh = Mesh.local(store=store)
        token = mesh.issue_token(subject.entity_id, ALARMS, rights=[Right.SUBSCRIBE], ttl=minute)
        mesh.revoke_tokens(subject.entity_id)
        mesh.close()
    with Store.open(tmp_path / "node") as store:
        mesh = Mesh.local(store=store)
        mesh.open_channel(ALARMS, GATED)
        with started(mesh) as runtime:
            origin = runtime.spawn("reader", subject).origin_hash
            with pytest.raises(SubscribeRejected):
                runtime.subscribe_channel(origin, mesh.node_id, ALARMS, token)
            anew = mesh.issue_token(subject.entity_id, ALARMS, rights=[Right.SUBSCRIBE], ttl=minute)
            runtime.subscribe_channel(origin, mesh.node_id, ALARMS, anew)


# ---------------------------------------------------------------- daemons


def test_a_daemon_reads_a_channel_and_sees_where_it_comes_from(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    with started(office) as runtime:
        origin = runtime.spawn("reader", Identity.generate()).origin_hash
        runtime.subscribe_channel(origin, plant.node_id, NEWS)
        for number in range(300):
            plant.publish(NEWS, b"%d" % number)
        assert got(runtime, origin, 300) == [b"%d" % number for number in range(300)]
        event = runtime.with_daemon(origin, Reader, lambda reader: reader.events[0])
        assert (event.channel, event.publisher, event.sequence) == (NEWS, plant.node_id, 1)
        direct = CausalEvent.external(1, 1, b"")
        assert (direct.channel, direct.publisher) == (None, None)
        (binding,) = runtime.subscriptions(origin)
        assert (binding.publisher, binding.channel, binding.token) == (plant.node_id, NEWS, None)
        runtime.unsubscribe_channel(origin, plant.node_id, NEWS)
        runtime.unsubscribe_channel(origin, plant.node_id, NEWS)
        assert runtime.subscriptions(origin) == ()
        with pytest.raises(DaemonNotFound):
            runtime.subscriptions(7)


def test_siblings_do_not_disturb_each_other(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    with started(office) as runtime:
        first, second = (runtime.spawn("reader", Identity.generate()).origin_hash for _ in range(2))
        for origin in (first, second):
            runtime.subscribe_channel(origin, plant.node_id, NEWS)
        plant.publish(NEWS, b"one")
        assert got(runtime, first, 1) == got(runtime, second, 1) == [b"one"]
        runtime.unsubscribe_channel(first, plant.node_id, NEWS)
        runtime.stop(first)
        plant.publish(NEWS, b"two")
        assert got(runtime, second, 2) == [b"one", b"two"]


def test_a_refused_subscription_is_not_recorded(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    plant.open_channel(ALARMS, GATED)
    identity = Identity.generate()
    with started(office) as runtime:
        origin = runtime.spawn("reader", identity).origin_hash
        with pytest.raises(SubscribeRejected):
            runtime.subscribe_channel(origin, plant.node_id, ALARMS)
        assert runtime.subscriptions(origin) == ()
        token = plant.issue_token(identity.entity_id, ALARMS, rights=[Right.SUBSCRIBE], ttl=timedelta(minutes=1))
        runtime.subscribe_channel(origin, plant.node_id, ALARMS, token)
        plant.publish(ALARMS, b"hot")
        assert got(runtime, origin, 1) == [b"hot"]
        plant.revoke_tokens(identity.entity_id)
        plant.publish(ALARMS, b"secret")
        deadline = threading.Event()
        for _ in range(400):
            if runtime.subscriptions(origin) == ():
                break
            deadline.wait(0.05)
        assert runtime.subscriptions(origin) == ()
        assert got(runtime, origin, 1) == [b"hot"]


def test_members_of_a_group_share_the_events(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, other = nodes
    with started(office) as one, started(other) as two:
        first, second = (runtime.spawn("reader", Identity.generate()).origin_hash for runtime in (one, two))
        one.subscribe_channel(first, plant.node_id, NEWS, queue_group="workers")
        two.subscribe_channel(second, plant.node_id, NEWS, queue_group="workers")
        assert one.subscriptions(first)[0].queue_group == "workers"
        for number in range(1000):
            plant.publish(NEWS, b"%d" % number)
        for _ in range(400):
            shares = [got(one, first, 0), got(two, second, 0)]
            if sum(map(len, shares)) == 1000:
                break
            threading.Event().wait(0.05)
        assert sorted(int(item) for share in shares for item in share) == list(range(1000))
        assert min(map(len, shares)) > 100


def test_a_renewed_token_loses_nothing(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    plant.open_channel(ALARMS, GATED)
    identity = Identity.generate()

    def token() -> PermissionToken:
        return plant.issue_token(identity.entity_id, ALARMS, rights=[Right.SUBSCRIBE], ttl=timedelta(minutes=1))

    with started(office) as runtime:
        origin = runtime.spawn("reader", identity).origin_hash
        runtime.subscribe_channel(origin, plant.node_id, ALARMS, token())
        stop = threading.Event()

        def publish() -> None:
            for number in range(500):
                plant.publish(ALARMS, b"%d" % number)
            stop.set()

        thread = threading.Thread(target=publish)
        thread.start()
        while not stop.is_set():
            runtime.subscribe_channel(origin, plant.node_id, ALARMS, token())
        thread.join()
        assert got(runtime, origin, 500) == [b"%d" % number for number in range(500)]


def test_a_daemon_that_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    identity, config = Identity.generate(), DaemonHostConfig(durability="journal")
    with Store.open(tmp_path / "node") as store:
        mesh = Mesh.local(store=store)
        with started(mesh, Keeper) as runtime:
            origin = runtime.spawn("keeper", identity, config).origin_hash
            runtime.subscribe_channel(origin, mesh.node_id, NEWS)
            for letter in (b"a", b"b", b"c"):
                mesh.publish(NEWS, letter)
            runtime.wait_for(origin, Keeper, lambda keeper: keeper.text == b"abc", timeout=PATIENCE)
        mesh.close()
    with Store.open(tmp_path / "node") as store:
        mesh = Mesh.local(store=store)
        with started(mesh, Keeper) as runtime:
            report = runtime.recover()
            assert report.daemons[origin].error is None
            (binding,) = runtime.subscriptions(origin)
            assert binding.channel == NEWS
            seen = runtime.with_daemon(origin, Keeper, lambda keeper: keeper.seen)
            assert seen in ([], [(NEWS, mesh.node_id)] * 3)
            deadline = threading.Event()
            for _ in range(400):
                if mesh.publish(NEWS, b"d") > 3:
                    break
                deadline.wait(0.01)
            runtime.wait_for(origin, Keeper, lambda keeper: keeper.text.startswith(b"abcd"), timeout=PATIENCE)
        mesh.close()


def test_what_was_published_while_a_daemon_was_away_arrives(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    config = DaemonHostConfig(durability="journal")
    with started(office, Keeper) as runtime:
        origin = runtime.spawn("keeper", Identity.generate(), config).origin_hash
        runtime.subscribe_channel(origin, plant.node_id, NEWS)
        plant.publish(NEWS, b"a")
        runtime.wait_for(origin, Keeper, lambda keeper: keeper.text == b"a", timeout=PATIENCE)
    for letter in (b"b", b"c"):
        plant.publish(NEWS, letter)
    with started(office, Keeper) as runtime:
        assert runtime.recover().daemons[origin].error is None
        plant.publish(NEWS, b"d")
        runtime.wait_for(origin, Keeper, lambda keeper: len(keeper.text) >= 4, timeout=PATIENCE)
        assert runtime.with_daemon(origin, Keeper, lambda keeper: keeper.text) == b"abcd"
        seen = runtime.with_daemon(origin, Keeper, lambda keeper: keeper.seen[-1])
        assert seen == (NEWS, plant.node_id)


def test_a_daemon_that_stands_still_gets_everything_later(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes
    gate = threading.Event()

    class Slow(Reader):
        name = "slow"

        def process(self, event: CausalEvent) -> None:
            gate.wait(20)
            super().process(event)

    with started(office, Slow, Reader) as runtime:
        slow = runtime.spawn("slow", Identity.generate()).origin_hash
        quick = runtime.spawn("reader", Identity.generate()).origin_hash
        for origin in (slow, quick):
            runtime.subscribe_channel(origin, plant.node_id, NEWS)
        last = 12_000
        for number in range(1, last + 1):
            plant.publish(NEWS, b"%d" % number)
        runtime.wait_for(quick, Reader, lambda reader: len(reader.got) == last, timeout=PATIENCE)
        gate.set()
        runtime.wait_for(slow, Slow, lambda reader: len(reader.got) == last, timeout=PATIENCE)
        numbers = runtime.with_daemon(slow, Slow, lambda reader: [number for number, _ in reader.got])
        assert numbers == list(range(1, last + 1))


def test_what_a_daemon_emits_for_a_channel_names_it(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    plant, office, _ = nodes

    class Watch(MeshDaemon):
        name = "watch"

        def process(self, event: CausalEvent) -> Output:
            return Output(b"seen " + event.payload, channel=ALARMS)

    with started(plant, Watch) as runtime, office.subscribe(plant.node_id, ALARMS) as stream:
        watch = runtime.spawn("watch", Identity.generate()).origin_hash
        runtime.subscribe_channel(watch, plant.node_id, NEWS)
        for number in range(50):
            plant.publish(NEWS, b"%d" % number)
        items = [stream.receive(timeout=PATIENCE) for _ in range(50)]
    assert items == [
        ChannelMessage(ALARMS, plant.node_id, number + 1, b"seen %d" % number, watch) for number in range(50)
    ]


def test_wait_for(nodes: tuple[Mesh, Mesh, Mesh]) -> None:
    with started(nodes[0]) as runtime:
        origin = runtime.spawn("reader", Identity.generate()).origin_hash
        runtime.wait_for(origin, Reader, lambda reader: not reader.got, timeout=timedelta(0))
        with pytest.raises(WaitTimeout):
            runtime.wait_for(origin, Reader, lambda reader: bool(reader.got), timeout=SOON)
        threading.Timer(0.05, runtime.send, (origin, b"one")).start()
        runtime.wait_for(origin, Reader, lambda reader: len(reader.got) == 1, timeout=None)
        with pytest.raises(TypeError):
            runtime.wait_for(origin, Keeper, lambda _: True, timeout=SOON)
        with pytest.raises(ZeroDivisionError):
            runtime.wait_for(origin, Reader, lambda _: bool(1 // 0), timeout=SOON)
        with pytest.raises(DaemonNotFound):
            runtime.wait_for(7, Reader, lambda _: True, timeout=SOON)

        async def main() -> None:
            waiting = asyncio.create_task(
                runtime.wait_for_async(origin, Reader, lambda reader: len(reader.got) == 2, timeout=PATIENCE)
            )
            await runtime.send_async(origin, b"two")
            await waiting
            await runtime.subscribe_channel_async(origin, nodes[1].node_id, NEWS)
            assert len(runtime.subscriptions(origin)) == 1
            await runtime.unsubscribe_channel_async(origin, nodes[1].node_id, NEWS)

        asyncio.run(main())
