"""`Mesh`: nodes of one process see each other come, stand still and go, and what is forged is refused and counted."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nacl.signing import SigningKey

import meshes
from daemons import Counter, eventually, in_thread
from loops import TICK, seen
from meshos import DaemonRuntime, Identity, Mesh, MeshOsConfig, Node, Store
from meshos._core import _mesh_inject, _mesh_probes
from meshos.capability import CapabilitySet
from meshos.errors import (
    AlreadyRegistered,
    ConfigError,
    ForkedProcessError,
    InvalidArgument,
    LoopClosed,
    StoreError,
    WaitTimeout,
)
from meshos.mesh import MeshStats, Peer
from meshos.probes import NodeHealth, ProbeRegistry

SECONDS = timedelta(seconds=20)
SOON = timedelta(milliseconds=50)


def state(node: Mesh, other: Mesh) -> str | None:
    peer = node.peers().get(other.node_id)
    return None if peer is None else peer.state


def refusals(stats: MeshStats) -> dict[str, int]:
    return {name.removeprefix("refused_"): getattr(stats, name) for name in dir(stats) if name.startswith("refused_")}


def test_nodes_of_a_cluster_see_each_other() -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    one, two, three = cluster = Mesh.local_cluster(3)
    assert len({mesh.node_id for mesh in cluster}) == len({mesh.store.node_id for mesh in cluster}) == 3
    for node in cluster:
        for other in cluster:
            if other is not node:
                peer = node.wait_for_peer(other.node_id, timeout=SECONDS)
                assert (peer.node_id, peer.entity_id, peer.state) == (other.node_id, other.entity_id, "alive")
                assert peer.entity_id.node_id == peer.node_id
                assert before < peer.last_heard_at < datetime.now(UTC) + timedelta(seconds=1)
                assert peer.capabilities == CapabilitySet()
        assert list(node.peers()) == sorted(mesh.node_id for mesh in cluster if mesh is not node)
    # A heartbeat of each carries when it heard the others.
    eventually(lambda: all(peer.rtt is not None for node in cluster for peer in node.peers().values()))
    assert all(peer.rtt < SECONDS for peer in one.peers().values() if peer.rtt is not None)
    with pytest.raises(TypeError):
        one.peers()[1] = two.peers()[one.node_id]  # type: ignore[index]
    three.close()


def test_a_node_alone_has_no_peers_and_no_thread() -> None:
    code = """
import os
from datetime import timedelta
from meshos import Mesh
mesh = Mesh.local()
tasks = "/proc/self/task"
print(dict(mesh.peers()), mesh.stats().beats_sent, len(os.listdir(tasks)) if os.path.isdir(tasks) else 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["{}", "0", "1"]
    mesh = Mesh.local()
    with pytest.raises(WaitTimeout, match="node 0x0000000000000001"):
        mesh.wait_for_peer(1, timeout=SOON)
    mesh.close()
    with pytest.raises(LoopClosed):
        mesh.wait_for_peer(1, timeout=SOON)


def test_a_node_that_closes_is_suspect_and_then_dead() -> None:
    """The others hear of its end at once, and believe it when it was silent for ten intervals."""
    one, two, three = Mesh.local_cluster(3)
    for other in (two, three):
        one.wait_for_peer(other.node_id, timeout=SECONDS)
    two.wait_for_peer(three.node_id, timeout=SECONDS)
    closed_at = datetime.now(UTC)
    three.close()
    three.close()
    eventually(lambda: state(one, three) == "suspect" and state(two, three) == "suspect")
    assert datetime.now(UTC) - closed_at < timedelta(seconds=5)
    clock = threading.Event()
    while {state(one, three), state(two, three)} != {"dead"}:
        assert datetime.now(UTC) - closed_at < timedelta(seconds=60)
        clock.wait(0.01)
    assert (state(one, two), state(two, one)) == ("alive", "alive")
    with pytest.raises(WaitTimeout):
        one.wait_for_peer(three.node_id, timeout=SOON)
    for call in (
        lambda: three.wait_for_peer(one.node_id, timeout=SOON),
        lambda: three.announce(CapabilitySet()),
        lambda: DaemonRuntime(three),
    ):
        with pytest.raises(LoopClosed):
            call()
    assert len(three.peers()) == 2


def test_a_node_that_nobody_holds_any_more_leaves() -> None:
    one, two = Mesh.local_cluster(2)
    gone = two.node_id
    one.wait_for_peer(gone, timeout=SECONDS)
    del two
    gc.collect()
    eventually(lambda: one.peers()[gone].state == "suspect")


def test_what_a_node_announces_is_seen() -> None:
    one, two = Mesh.local_cluster(2)
    one.wait_for_peer(two.node_id, timeout=SECONDS)
    offered = CapabilitySet(["hardware.gpu", "zone:a"], {"rack": "7"})
    two.announce(offered)
    eventually(lambda: one.peers()[two.node_id].capabilities == offered)
    two.announce(CapabilitySet())
    eventually(lambda: one.peers()[two.node_id].capabilities == CapabilitySet())
    for mesh in (two, Mesh.local()):
        with pytest.raises(InvalidArgument, match="capabilities: must have at most 8192 bytes"):
            mesh.announce(CapabilitySet([], {"k": "v" * 9000}))
        with pytest.raises(TypeError, match="capabilities must be a CapabilitySet"):
            mesh.announce(["gpu"])  # type: ignore[arg-type]


def test_what_is_forged_is_refused_and_counted() -> None:
    one, two = Mesh.local_cluster(2)
    one.wait_for_peer(two.node_id, timeout=SECONDS)
    key = SigningKey.generate()
    said = meshes.heartbeat(1, 1000, bytes(32))
    foreign = meshes.signed(key, meshes.HEARTBEAT, meshes.mesh_id(b"another"), 1 << 62, 1, said)
    for frame, reason in (
        (foreign, "other_mesh"),
        (foreign[:-1], "malformed"),
        (b"", "malformed"),
        (said, "malformed"),
    ):
        before = refusals(one.stats())[reason]
        _mesh_inject(one, frame)
        eventually(lambda: refusals(one.stats())[reason] == before + 1)  # noqa: B023
    assert list(one.peers()) == [two.node_id]
    assert state(one, two) == "alive"
    assert one.stats().beats_heard > 0


def test_waits_end() -> None:
    one, two = Mesh.local_cluster(2)
    with pytest.raises(WaitTimeout) as found:
        one.wait_for_peer(1, timeout=SOON)
    assert found.value.timeout == SOON
    with in_thread(lambda: one.wait_for_peer(1, timeout=None)) as waiting:
        one.close()
    assert isinstance(waiting.error, LoopClosed)
    for wrong in ("1", 1.0, None, True):
        with pytest.raises(TypeError, match="node_id"):
            two.wait_for_peer(wrong, timeout=SOON)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        two.wait_for_peer(-1, timeout=SOON)
    with pytest.raises(TypeError, match="timeout"):
        two.wait_for_peer(1, timeout=1)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="it needs a timer")
def test_ctrl_c_ends_a_wait() -> None:
    code = """
import signal, time
from meshos import Mesh
one, two = Mesh.local_cluster(2)
begun = time.monotonic()
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    one.wait_for_peer(1, timeout=None)
except KeyboardInterrupt:
    print(time.monotonic() - begun < 5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True\n"


def test_twins_do_the_same() -> None:
    async def run() -> None:
        one, two = Mesh.local_cluster(2)
        async with one as entered:
            assert entered is one
            peer = await one.wait_for_peer_async(two.node_id, timeout=SECONDS)
            assert peer.state == "alive"
            with pytest.raises(WaitTimeout, match="node 0x0000000000000001"):
                await one.wait_for_peer_async(1, timeout=SOON)
            many = [one.wait_for_peer_async(number, timeout=SOON) for number in range(1, 200)]
            outcomes = await asyncio.gather(*many, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {WaitTimeout}
            waiting = asyncio.create_task(one.wait_for_peer_async(1, timeout=None))
        with pytest.raises(LoopClosed):
            await waiting
        await two.close_async()
        await two.close_async()

    asyncio.run(run())


@pytest.mark.parametrize("nodes", [0, -1, 4097, 1 << 70])
def test_too_few_and_too_many_nodes_are_refused(nodes: int) -> None:
    with pytest.raises((ConfigError, InvalidArgument), match="nodes"):
        Mesh.local_cluster(nodes)


def test_what_is_no_number_and_no_store_is_refused() -> None:
    for wrong in ("2", None, 2.0, [2]):
        with pytest.raises(TypeError, match="nodes"):
            Mesh.local_cluster(wrong)  # type: ignore[arg-type]
    for stores in (7, [7], "ab", [None, None]):
        with pytest.raises(TypeError, match="stores"):
            Mesh.local_cluster(2, stores=stores)  # type: ignore[arg-type]
    for count in (0, 1, 3):
        with pytest.raises(ConfigError, match="stores"):
            Mesh.local_cluster(2, stores=[Store.memory() for _ in range(count)])


def test_each_node_has_a_store_of_its_own(tmp_path: Path) -> None:
    with Store.open(tmp_path / "one") as first, Store.open(tmp_path / "two") as second:
        with pytest.raises(StoreError) as found:
            Mesh.local_cluster(2, stores=[first, first])
        assert found.value.kind == "locked"
        one, two = Mesh.local_cluster(2, stores=(first, second))
        assert (one.store, two.store) == (first, second)
        assert (one.node_id, two.node_id) == (first.node_id, second.node_id)
        one.wait_for_peer(two.node_id, timeout=SECONDS)
        one.close()
        two.close()
    # The same nodes come back, in a new run.
    with Store.open(tmp_path / "one") as first, Store.open(tmp_path / "two") as second:
        again = Mesh.local_cluster(2, stores=[first, second])
        assert [mesh.node_id for mesh in again] == [one.node_id, two.node_id]
        again[0].wait_for_peer(two.node_id, timeout=SECONDS)
        for mesh in again:
            mesh.close()


def test_each_node_has_its_daemons() -> None:
    one, two = Mesh.local_cluster(2)
    with DaemonRuntime(one) as first, DaemonRuntime(two) as second:
        for runtime in (first, second):
            runtime.register_factory("counter", Counter)
            runtime.start()
        with pytest.raises(AlreadyRegistered):
            DaemonRuntime(one)
        here = first.spawn("counter", Identity.generate())
        assert (first.daemon_count(), second.daemon_count()) == (1, 0)
        assert here.origin_hash
    one.close()
    two.close()


def test_the_loop_of_a_node_sees_its_peers() -> None:
    config = MeshOsConfig(tick_interval=TICK, authority="open")
    one, two, three = Mesh.local_cluster(3)
    with Node(one, kinds={"counter": Counter}, config=config) as node:
        offered = CapabilitySet(["gpu"])
        two.announce(offered)
        both = {two.node_id, three.node_id}
        found = seen(
            node.runtime,
            lambda s: (
                {name for name, peer in s.peers.items() if peer.health is NodeHealth.HEALTHY} == both
                and "gpu" in s.peers[two.node_id].capability_set
            ),
        )
        assert found.peers[two.node_id].software_version is not None
        assert node.runtime.snapshot().this_node not in node.runtime.snapshot().peers
        three.close()
        seen(node.runtime, lambda s: s.peers[three.node_id].health is NodeHealth.DEGRADED)
        assert node.runtime.snapshot().peers[two.node_id].health is NodeHealth.HEALTHY
    with pytest.raises(LoopClosed):
        one.announce(offered)


def test_the_probes_of_a_user_take_the_place_of_those_of_the_mesh() -> None:
    config = MeshOsConfig(tick_interval=TICK, authority="open")
    one, two = Mesh.local_cluster(2)
    one.wait_for_peer(two.node_id, timeout=SECONDS)
    mine = ProbeRegistry()
    with Node(one, kinds={}, config=config, probes=mine) as node:
        assert node.runtime.probe_registry() is not None
        assert not node.runtime.snapshot().peers
    assert mine.probe_counts().health == 0
    counts = _mesh_probes(two).probe_counts()
    assert (counts.locality, counts.health, counts.inventory) == (1, 1, 1)
    assert _mesh_probes(Mesh.local()).probe_counts().health == 0
    with pytest.raises(TypeError, match="probes"):
        Node(two, kinds={}, probes=7)  # type: ignore[arg-type]


def test_a_peer_is_a_record() -> None:
    one, two = Mesh.local_cluster(2)
    peer = one.wait_for_peer(two.node_id, timeout=SECONDS)
    options = {name: getattr(peer, name) for name in dir(peer) if not name.startswith("_")}
    assert set(options) == {"node_id", "entity_id", "state", "last_heard_at", "rtt", "capabilities"}
    assert Peer(**options) == peer
    with pytest.raises((TypeError, InvalidArgument, ValueError)):
        Peer(**{**options, "state": "gone"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it needs fork")
def test_a_child_of_a_fork_has_meshes_of_its_own() -> None:
    code = """
import os
from datetime import timedelta
from meshos import Mesh
from meshos.errors import ForkedProcessError
one, two = Mesh.local_cluster(2)
one.wait_for_peer(two.node_id, timeout=timedelta(seconds=20))
child = os.fork()
if child == 0:
    refused = 0
    for call in (one.peers, one.close, one.stats, lambda: one.wait_for_peer(1, timeout=timedelta(0))):
        try:
            call()
        except ForkedProcessError:
            refused += 1
    del one, two
    three, four = Mesh.local_cluster(2)
    four.wait_for_peer(three.node_id, timeout=timedelta(seconds=20))
    os._exit(0 if refused == 4 else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), one.wait_for_peer(two.node_id, timeout=timedelta(seconds=20)).state)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("0 alive\n", 0), done.stderr
    assert issubclass(ForkedProcessError, Exception)


def test_clusters_come_and_go_from_many_threads() -> None:
    def use() -> None:
        for _ in range(5):
            one, two = Mesh.local_cluster(2)
            one.wait_for_peer(two.node_id, timeout=SECONDS)
            two.close()
            one.close()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_an_interpreter_with_an_open_cluster_exits() -> None:
    code = "from meshos import Mesh; cluster = Mesh.local_cluster(20); print(len(cluster))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("20\n", "", 0)
