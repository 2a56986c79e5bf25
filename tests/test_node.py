"""`Node`: its parts start in order, stop in the other order, and say what they are when they are not there."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from daemons import PATIENCE, Counter, Gated, eventually, in_thread, numbered
from loops import TICK, Calls, Seen, seen
from meshos import CausalEvent, DaemonIntent, DaemonRuntime, Identity, Mesh, MeshOsConfig, Node
from meshos.dispatch import StartDaemon
from meshos.errors import AlreadyRegistered, ConfigError, InvalidDaemon, LoopClosed, NotReady, ShuttingDown, WaitTimeout
from meshos.status import Lifecycle

CONFIG = MeshOsConfig(tick_interval=TICK, authority="open")
KINDS = {"counter": Counter}


def test_its_parts_are_there_and_know_each_other() -> None:
    mesh = Mesh.local()
    with Node(mesh, kinds=KINDS, config=CONFIG) as node:
        assert node.mesh is mesh
        assert node.runtime.this_node() == node.runtime.snapshot().this_node == mesh.node_id
        assert node.daemons.is_ready()
        origin = node.daemons.spawn("counter", Identity.generate()).origin_hash
        node.runtime.set_intent(origin, DaemonIntent.RUN)
        seen(node.runtime, lambda s: s.daemons[origin].lifecycle is Lifecycle.RUNNING)
        node.runtime.set_intent(origin, DaemonIntent.STOP)
        seen(node.runtime, lambda s: s.daemons[origin].lifecycle is Lifecycle.STOPPED)
        # Without a dispatcher of its own, its loop stops and starts its daemons.
        assert node.daemons.daemon_count() == 0
        node.runtime.set_intent(origin, DaemonIntent.RUN)
        seen(node.runtime, lambda s: s.daemons[origin].lifecycle is Lifecycle.RUNNING)
        assert len(node.daemons.deliver(origin, numbered(1))) == 1


def test_it_starts_once_and_ends_once() -> None:
    node = Node(Mesh.local(), kinds=KINDS, config=CONFIG)
    with pytest.raises(NotReady):
        _ = node.runtime
    with pytest.raises(NotReady):
        _ = node.recovered
    assert not node.daemons.is_ready()
    node.start()
    runtime = node.runtime
    node.start()
    assert node.runtime is runtime
    assert not node.recovered.daemons
    node.shutdown()
    node.shutdown()
    assert not runtime.health().loop_alive
    with pytest.raises(ShuttingDown):
        node.daemons.spawn("counter", Identity.generate())
    with pytest.raises(LoopClosed):
        DaemonRuntime(node.mesh)
    with pytest.raises(LoopClosed):
        node.start()


def test_one_that_never_started_ends_too() -> None:
    node = Node(Mesh.local(), kinds=KINDS)
    node.shutdown()
    with pytest.raises(LoopClosed):
        node.start()


def test_what_cannot_be_is_refused_and_the_mesh_is_free_again() -> None:
    mesh = Mesh.local()
    with pytest.raises(ConfigError, match="this_node"):
        Node(mesh, kinds=KINDS, config=MeshOsConfig(this_node=mesh.node_id ^ 1))
    with pytest.raises((TypeError, InvalidDaemon)):
        Node(mesh, kinds={"counter": 7})  # type: ignore[dict-item]
    for wrong in (None, 7, "mesh"):
        with pytest.raises(TypeError, match="mesh"):
            Node(wrong, kinds=KINDS)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="config"):
            Node(mesh, kinds=KINDS, config=wrong or 7)  # type: ignore[arg-type]
    with Node(mesh, kinds=KINDS, config=MeshOsConfig(this_node=mesh.node_id)) as node, pytest.raises(AlreadyRegistered):
        Node(node.mesh, kinds=KINDS)


def test_a_dispatcher_of_ones_own_is_asked() -> None:
    asked = Seen()
    with Node(Mesh.local(), kinds=KINDS, config=CONFIG, dispatcher=Calls(asked.add)) as node:
        node.runtime.set_intent(99, DaemonIntent.RUN)
        (action,) = asked.until(lambda actions: len(actions) == 1)
        assert node.runtime.this_node() == node.mesh.node_id
        assert node.runtime.snapshot().authority == "open"
    assert isinstance(action, StartDaemon)
    assert action.daemon.id == 99


def test_user_code_that_hangs_is_told_of_and_everything_else_has_ended() -> None:
    node = Node(Mesh.local(), kinds={"gated": Gated}, config=CONFIG)
    node.start()
    origin = node.daemons.spawn("gated", Identity.generate()).origin_hash
    gated = node.daemons.with_daemon(origin, Gated, lambda daemon: daemon)
    with in_thread(lambda: node.daemons.deliver(origin, CausalEvent.external(7, 1, b"block"))):
        assert gated.entered.wait(PATIENCE)
        with pytest.raises(WaitTimeout):
            node.shutdown(timeout=timedelta(milliseconds=100))
        assert not node.runtime.health().loop_alive
        gated.leave.set()


def test_it_runs_in_an_event_loop() -> None:
    async def whole() -> None:
        async with Node(Mesh.local(), kinds=KINDS, config=CONFIG) as node:
            handle = await node.daemons.spawn_async("counter", Identity.generate())
            assert len(await node.daemons.deliver_async(handle.origin_hash, numbered(1))) == 1
            runtime = node.runtime
        assert not runtime.health().loop_alive

    asyncio.run(whole())


def test_it_leaves_no_thread_of_its_loop_behind() -> None:
    task = Path("/proc/self/task")
    if not task.exists():
        pytest.skip("the system does not list threads by name")

    def loops() -> int:
        return sum(comm.read_text().strip() == "meshos-tick" for comm in task.glob("*/comm"))

    before = loops()
    with Node(Mesh.local(), kinds=KINDS, config=CONFIG):
        eventually(lambda: loops() == before + 1)
    eventually(lambda: loops() == before)
