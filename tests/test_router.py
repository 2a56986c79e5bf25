"""Events to daemons on other nodes of a cluster, and outputs that daemons send to each other."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from meshos.chain import CausalEvent
from meshos.compute import DaemonRuntime, Receipt
from meshos.daemon import DaemonHostConfig, MeshDaemon, Output
from meshos.errors import (
    Backpressure,
    DaemonNotFound,
    InvalidArgument,
    ProcessFailed,
    ReentrantCallError,
    SendTimeout,
    ShuttingDown,
    Unavailable,
)
from meshos.identity import Identity
from meshos.mesh import Mesh
from meshos.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 30.0
NOBODY = Identity.generate().origin_hash


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never held"
        time.sleep(0.002)


class Notes(MeshDaemon):
    """Notes what it is given, and raises at what ends in "!"."""

    name = "notes"

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()

    def process(self, event: CausalEvent) -> list[bytes]:
        self.gate.wait(PATIENCE)
        if event.payload.endswith(b"!"):
            raise ValueError(event.payload.decode())
        self.seen.append(event.payload)
        return [event.payload]


class Pair:
    """Two nodes, and a daemon on the second one."""

    def __init__(self, first: DaemonRuntime, second: DaemonRuntime) -> None:
        self.first = first
        self.second = second
        self.daemon = Notes()
        self.to = spawn(second, self.daemon)


def spawn(runtime: DaemonRuntime, daemon: MeshDaemon, config: DaemonHostConfig | None = None) -> int:
    handle = runtime.spawn_with_daemon(
        Identity.generate(), config or DaemonHostConfig(), daemon, type(daemon), kind=type(daemon).__name__
    )
    return handle.origin_hash


def runtimes(*stores: Store) -> list[DaemonRuntime]:
    made = [DaemonRuntime(mesh) for mesh in Mesh.local_cluster(len(stores) or 2, stores=stores or None)]
    for runtime in made:
        runtime.start()
    return made


@pytest.fixture
def pair() -> Iterator[Pair]:
    first, second = runtimes()
    made = Pair(first, second)
    yield made
    made.daemon.gate.set()
    for runtime in (first, second):
        runtime.shutdown()
        runtime.mesh().close()


def test_an_event_is_sent_to_a_daemon_on_another_node(pair: Pair) -> None:
    receipt = pair.first.send(pair.to, b"one")
    assert isinstance(receipt, Receipt)
    assert (receipt.origin_hash, receipt.processed, receipt.sequence, receipt.duplicate) == (pair.to, 1, 1, False)
    # The node of the daemon gives the same kind of receipt.
    assert pair.second.send(pair.to, b"two").processed == 2
    assert pair.daemon.seen == [b"one", b"two"]


def test_many_events_arrive_in_order_with_a_receipt_each(pair: Pair) -> None:
    payloads = [b"%d" % number for number in range(1000)]
    receipts = pair.first.send_many(pair.to, payloads)
    assert [receipt.processed for receipt in receipts] == list(range(1, 1001))
    assert pair.daemon.seen == payloads
    assert pair.first.send_many(pair.to, []) == []


def test_coroutines_send(pair: Pair) -> None:
    async def main() -> None:
        receipts = await asyncio.gather(*(pair.first.send_async(pair.to, b"%d" % number) for number in range(300)))
        assert [receipt.processed for receipt in receipts] == list(range(1, 301))
        many = await pair.first.send_many_async(pair.to, [b"a", bytearray(b"b"), memoryview(b"c")])
        assert [receipt.processed for receipt in many] == [301, 302, 303]
        with pytest.raises(DaemonNotFound):
            await pair.first.send_async(NOBODY, b"")

    asyncio.run(main())
    assert pair.daemon.seen[:300] == [b"%d" % number for number in range(300)]


def test_posted_events_arrive_in_order(pair: Pair) -> None:
    numbers = [pair.first.post(pair.to, b"%d" % number) for number in range(200)]
    assert numbers == list(range(1, 201))
    eventually(lambda: len(pair.daemon.seen) == 200)
    assert pair.daemon.seen == [b"%d" % number for number in range(200)]
    # Nobody waits for one that has no receiver.
    assert pair.first.post(NOBODY, b"lost") == 201


def test_what_has_its_number_is_sent_once_under_it(pair: Pair) -> None:
    event = CausalEvent.external(7, 5, b"five")
    first = pair.first.send(pair.to, event)
    assert (first.event_origin, first.event_sequence, first.duplicate) == (7, 5, False)
    again = pair.first.send(pair.to, event)
    assert again.duplicate
    assert (again.processed, again.sequence) == (first.processed, first.sequence)
    assert pair.daemon.seen == [b"five"]


def test_nobody_has_the_daemon(pair: Pair) -> None:
    for send in (lambda: pair.first.send(NOBODY, b""), lambda: pair.first.send_many(NOBODY, [b"", b""])):
        with pytest.raises(DaemonNotFound) as caught:
            send()
        assert caught.value.origin_hash == NOBODY
    # It may come later, to the node that was asked too.
    later = Notes()
    origin = spawn(pair.first, later)
    assert pair.second.send(origin, b"here").processed == 1


def test_a_node_without_a_runtime_has_no_daemons() -> None:
    meshes = Mesh.local_cluster(2)
    with DaemonRuntime(meshes[0]) as runtime:
        runtime.start()
        runtime.mesh().wait_for_peer(meshes[1].node_id, timeout=timedelta(seconds=20))
        with pytest.raises(DaemonNotFound):
            runtime.send(NOBODY, b"")
    for mesh in meshes:
        mesh.close()


def test_an_event_that_fails_too_often_is_passed_over(pair: Pair) -> None:
    to = spawn(pair.second, daemon := Notes(), DaemonHostConfig(attempts_max=1))
    with pytest.raises(ProcessFailed) as caught:
        pair.first.send_many(to, [b"good", b"bad!", b"next"])
    error = caught.value
    assert (error.kind, error.origin_hash, error.event_sequence) == ("passed_over", to, 2)
    assert daemon.seen[0] == b"good"
    (letter,) = pair.second.dead_letters(to)
    assert letter.event.payload == b"bad!"
    assert pair.first.send(to, b"goes on").duplicate is False


def test_a_send_that_times_out_is_continued_with_its_event(pair: Pair) -> None:
    pair.first.send(pair.to, b"one")
    pair.daemon.gate.clear()
    with pytest.raises(SendTimeout) as caught:
        pair.first.send(pair.to, b"two", timeout=timedelta(milliseconds=50))
    event = caught.value.event
    assert (event.payload, event.sequence) == (b"two", 2)

    async def slow() -> CausalEvent:
        with pytest.raises(SendTimeout) as late:
            await pair.first.send_async(pair.to, b"three", timeout=timedelta(milliseconds=50))
        return late.value.event

    third = asyncio.run(slow())
    pair.daemon.gate.set()
    assert pair.first.send(pair.to, event).processed == 2
    assert pair.first.send(pair.to, third).processed == 3
    assert pair.daemon.seen == [b"one", b"two", b"three"]


def test_while_a_node_is_silent_a_daemon_that_is_not_found_is_unavailable() -> None:
    first, second = runtimes()
    first.mesh().wait_for_peer(second.mesh().node_id, timeout=timedelta(seconds=20))
    second.mesh().close()
    try:
        with pytest.raises(Unavailable) as caught:
            first.send(NOBODY, b"", timeout=timedelta(milliseconds=200))
        assert caught.value.retryable

        async def main() -> None:
            with pytest.raises(Unavailable):
                await first.send_async(NOBODY, b"", timeout=timedelta(milliseconds=100))

        asyncio.run(main())
    finally:
        first.shutdown()
        second.shutdown()
        first.mesh().close()


def test_ctrl_c_ends_a_wait(pair: Pair) -> None:
    pair.daemon.gate.clear()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pair.first.send(pair.to, b"one", timeout=None)


def test_a_shutdown_ends_a_wait(pair: Pair) -> None:
    pair.daemon.gate.clear()
    threading.Timer(0.1, pair.first.shutdown).start()
    with pytest.raises(ShuttingDown):
        pair.first.send(pair.to, b"one", timeout=None)


def test_a_wait_is_refused_inside_of_process(pair: Pair) -> None:
    class Waits(MeshDaemon):
        def process(self, event: CausalEvent) -> None:
            pair.first.send(pair.to, event.payload)

    origin = spawn(pair.first, Waits())
    with pytest.raises(ProcessFailed) as caught:
        pair.first.send(origin, b"")
    assert isinstance(caught.value.__cause__, ReentrantCallError)


def test_wrong_values_are_refused(pair: Pair) -> None:
    with pytest.raises(TypeError):
        pair.first.send(pair.to, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pair.first.send("text", b"")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        pair.first.send(pair.to, CausalEvent.external(7, 1, bytes(64 << 20)))
    with pytest.raises(TypeError):
        pair.first.send_many(pair.to, 7)  # type: ignore[arg-type]
    assert pair.daemon.seen == []


# ---------------------------------------------------------------- outputs


class Sends(MeshDaemon):
    """Sends what it is given to the daemon whose handle stands before it."""

    name = "sends"

    def process(self, event: CausalEvent) -> Output:
        to, payload = event.payload[:8], event.payload[8:]
        return Output(payload, to=int.from_bytes(to))

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


def order(to: int, payload: bytes) -> bytes:
    return to.to_bytes(8) + payload


def test_an_output_has_a_route() -> None:
    plain, to, channel = Output(b"x"), Output(b"x", to=7), Output(b"x", channel="a/b")  # type: ignore[arg-type]
    assert [(one.channel, one.to) for one in (plain, to, channel)] == [(None, None), (None, 7), ("a/b", None)]
    assert len({plain, to, channel, Output(b"x", to=7)}) == 3
    assert repr(to) == "Output(b'x', to=0x0000000000000007)"
    assert repr(channel) == "Output(b'x', channel=\"a/b\")"
    for one in (plain, to, channel):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(one, protocol)) == one


def test_an_output_with_a_wrong_route_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Output(b"", to=7, channel="a")  # type: ignore[arg-type]
    for wrong in (-1, 1 << 64):
        with pytest.raises((InvalidArgument, OverflowError)):
            Output(b"", to=wrong)
    with pytest.raises(TypeError):
        Output(b"", to="7")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Output(b"", channel=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        Output(bytes(64 << 20), to=7)


def test_an_output_is_sent_to_another_node_and_stays_in_the_chain(pair: Pair) -> None:
    origin = spawn(pair.first, Sends())
    for number in range(100):
        receipt = pair.first.send(origin, order(pair.to, b"%d" % number))
        assert receipt.sequence == number + 1
    eventually(lambda: len(pair.daemon.seen) == 100)
    assert pair.daemon.seen == [b"%d" % number for number in range(100)]


def test_an_output_is_sent_to_a_daemon_of_a_node_that_is_alone() -> None:
    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.start()
        to = spawn(runtime, daemon := Notes())
        origin = spawn(runtime, Sends())
        (output,) = runtime.deliver(origin, CausalEvent.external(7, 1, order(to, b"one")))
        assert output.payload == b"one"
        eventually(lambda: daemon.seen == [b"one"])


class Ping(MeshDaemon):
    """Sends a number that it is given back, one less, until it is 0."""

    name = "ping"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def process(self, event: CausalEvent) -> list[Output]:
        to, number = event.payload[:8], int.from_bytes(event.payload[8:])
        self.seen.append(number)
        if number == 0:
            return []
        return [Output(IDENTITY[to].origin_hash.to_bytes(8) + (number - 1).to_bytes(4), to=int.from_bytes(to))]

    def snapshot(self) -> bytes:
        return b"".join(number.to_bytes(4) for number in self.seen)

    def restore(self, state: bytes) -> None:
        self.seen = [int.from_bytes(state[at : at + 4]) for at in range(0, len(state), 4)]


IDENTITY: dict[bytes, Identity] = {}
"""Who answers whom: by the handle of the receiver."""


def test_two_daemons_play_on_across_a_restart_of_their_nodes(tmp_path: Path) -> None:
    identities = [Identity.generate(), Identity.generate()]
    handles = [identity.origin_hash.to_bytes(8) for identity in identities]
    IDENTITY.update(zip(handles, reversed(identities), strict=True))
    config = DaemonHostConfig(durability="journal")
    rounds = 40

    def nodes() -> list[DaemonRuntime]:
        made = [
            DaemonRuntime(mesh)
            for mesh in Mesh.local_cluster(2, stores=[Store.open(tmp_path / "0"), Store.open(tmp_path / "1")])
        ]
        for runtime in made:
            runtime.register_factory("ping", Ping)
            runtime.start()
        return made

    def close(made: list[DaemonRuntime]) -> None:
        for runtime in made:
            runtime.shutdown()
            mesh = runtime.mesh()
            mesh.close()
            mesh.store.close()

    made = nodes()
    for runtime, identity in zip(made, identities, strict=True):
        runtime.spawn("ping", identity, config)
    made[0].send(identities[0].origin_hash, handles[1] + rounds.to_bytes(4))
    close(made)
    made = nodes()
    for runtime in made:
        report = runtime.recover()
        assert len(report.daemons) == 1
        assert all(daemon.error is None for daemon in report.daemons.values())

    def seen() -> list[list[int]]:
        games = zip(made, identities, strict=True)
        return [runtime.with_daemon(one.origin_hash, Ping, lambda ping: list(ping.seen)) for runtime, one in games]

    eventually(lambda: sum(len(numbers) for numbers in seen()) == rounds + 1)
    assert seen() == [list(range(rounds, -1, -2)), list(range(rounds - 1, 0, -2))]
    close(made)


def test_a_full_way_asks_for_a_pause(pair: Pair) -> None:
    pair.first.send(pair.to, b"one")
    pair.daemon.gate.clear()
    big = bytes(8 << 20)

    async def main() -> None:
        async def send() -> Receipt:
            return await pair.first.send_async(pair.to, big, timeout=None)

        done, _ = await asyncio.wait([asyncio.create_task(send()) for _ in range(12)], timeout=2)
        assert {type(one.exception()) for one in done} == {Backpressure}

    asyncio.run(main())
