"""Drives meshos. What each function is for stands in `_adapter.py`."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from typing import Any

from meshos import (
    Backpressure,
    CausalEvent,
    ChannelName,
    DaemonRuntime,
    Identity,
    Mesh,
    MeshDaemon,
    MigrationHandle,
    StateSnapshot,
    WaitTimeout,
)
from meshos.stream import Gap

IMPL = "meshos"
VERSION = version("meshos")
IMPORTS = ["meshos", "meshos.compute"]


def make_node() -> Mesh:
    """Make a node."""
    return Mesh.local()


def close_node(node: Mesh) -> None:
    """Close a node."""
    node.close()


@cache
def adapt(cls: type) -> type[MeshDaemon]:
    """Mix `MeshDaemon` in; no slots of its own, so that an instance has the size that the plain class gives it."""
    return type(cls.__name__, (cls, MeshDaemon), {"name": cls.__name__.lower(), "__slots__": ()})


def payloads(outputs: Iterable[CausalEvent]) -> list[bytes]:
    """Return the payloads of what a delivery returned."""
    return [output.payload for output in outputs]


def make_runtime(node: Mesh, factories: Mapping[str, type]) -> DaemonRuntime:
    """Make a runtime that is ready, with these kinds."""
    runtime = DaemonRuntime(node)
    for kind, factory in factories.items():
        runtime.register_factory(kind, adapt(factory))
    runtime.start()
    return runtime


def close_runtime(runtime: DaemonRuntime) -> None:
    """Shut a runtime down."""
    runtime.shutdown()


def make_identity() -> Identity:
    """Make a key pair."""
    return Identity.generate()


def spawn(runtime: DaemonRuntime, kind: str, identity: Identity) -> int:
    """Spawn a daemon and return its handle."""
    return runtime.spawn(kind, identity).origin_hash


def stop(runtime: DaemonRuntime, key: int) -> None:
    """Stop a daemon."""
    runtime.stop(key)


def daemon_count(runtime: DaemonRuntime) -> int:
    """Return how many daemons run."""
    return runtime.daemon_count()


def make_event(sequence: int, payload: bytes, origin: int = 1) -> CausalEvent:
    """Make one event."""
    return CausalEvent.external(origin, sequence, payload)


def event_class() -> Any:
    """Return what the hot loop builds an event with: (origin, sequence, payload)."""
    return CausalEvent.external


def deliver_fn(runtime: DaemonRuntime) -> Any:
    """Return the bound method that the hot loop calls: (key, event) -> outputs."""
    return runtime.deliver


def async_deliver_fn(runtime: DaemonRuntime) -> Any:
    """Return the awaitable twin."""
    return runtime.deliver_async


def deliver_many_fn(runtime: DaemonRuntime) -> Any:
    """Return the batch call (key, events)."""
    return runtime.deliver_many


def snapshot(runtime: DaemonRuntime, key: int) -> bytes:
    """Return an encoded snapshot."""
    taken = runtime.snapshot(key)
    assert taken is not None, "the daemon has no state"
    return taken.to_bytes()


def restore(runtime: DaemonRuntime, kind: str, identity: Identity, blob: bytes) -> int:
    """Spawn from an encoded snapshot, verified, and return the handle."""
    return runtime.spawn_from_snapshot(kind, identity, StateSnapshot.from_bytes(blob)).origin_hash


CHANNEL = ChannelName("bench/channel")
SUBSCRIBE_PATHS = ["recv", "inbox"]
"""There is one way to read; it stands beside both of the other package."""
_WAIT = timedelta(milliseconds=100)


def node_id(node: Mesh) -> int:
    """Return what names a node."""
    return node.node_id


def make_pair() -> tuple[Mesh, Mesh]:
    """Make two connected nodes."""
    first, second = Mesh.local_cluster(2)
    return first, second


def setup_channel(publisher: Mesh) -> None:
    """Make the channel."""
    publisher.open_channel(CHANNEL)


def publish(publisher: Mesh, payload: bytes) -> bool:
    """Publish; `False` when the message was refused for now."""
    try:
        publisher.publish(CHANNEL, payload)
    except Backpressure:
        return False
    return True


class Subscriber:
    """Reads one channel."""

    def __init__(self, node: Mesh, publisher_id: int, path: str) -> None:
        self._stream = node.subscribe(publisher_id, CHANNEL, buffer_max=1 << 15)

    def drain(self) -> list[bytes]:
        """Return the next message, or nothing if there is none for a while."""
        try:
            message = self._stream.receive(timeout=_WAIT)
        except WaitTimeout:
            return []
        if isinstance(message, Gap):
            raise RuntimeError(f"{message} is missing")
        return [message.payload]


def expect_migration(runtime: DaemonRuntime, kind: str, key: int) -> None:
    """Say that a daemon is to come."""
    runtime.expect_migration(kind, key)


def start_migration(runtime: DaemonRuntime, key: int, source: Mesh, target: Mesh) -> MigrationHandle:
    """Order a move."""
    return runtime.start_migration(key, source.node_id, target.node_id)


def wait_migration(handle: MigrationHandle, timeout_s: float) -> None:
    """Wait until it is over; raises if it came to nothing."""
    handle.wait(timedelta(seconds=timeout_s))
