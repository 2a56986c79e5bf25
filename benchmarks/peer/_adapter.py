"""Drives the PyPI package `net-mesh` through its native classes, its fastest public path.

The scripts talk to this module only. Another adapter offers the same functions.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import net  # type: ignore[import-not-found]  # it lives in .venv-peer alone

IMPL = "net-mesh"
VERSION = version("net-mesh")
IMPORTS = ["net", "net_sdk.compute"]
KEY = "42" * 32


def make_node() -> Any:
    """Make a node on loopback."""
    return net.NetMesh("127.0.0.1:0", KEY)


def close_node(node: Any) -> None:
    """Shut a node down."""
    node.shutdown()


def adapt(cls: type) -> type:
    """Return the class to register for a plain class with process, snapshot and restore."""
    return cls


def payloads(outputs: Iterable[bytes]) -> list[bytes]:
    """Return the payloads of what a delivery returned."""
    return list(outputs)


def make_runtime(node: Any, factories: Mapping[str, type]) -> Any:
    """Make a runtime that is ready, with these kinds."""
    runtime = net.DaemonRuntime(node)
    for kind, factory in factories.items():
        runtime.register_factory(kind, adapt(factory))
    runtime.start()
    return runtime


def close_runtime(runtime: Any) -> None:
    """Shut a runtime down."""
    runtime.shutdown()


def make_identity() -> Any:
    """Make a key pair."""
    return net.Identity.generate()


def spawn(runtime: Any, kind: str, identity: Any) -> int:
    """Spawn a daemon and return its handle."""
    return int(runtime.spawn(kind, identity).origin_hash)


def stop(runtime: Any, key: int) -> None:
    """Stop a daemon."""
    runtime.stop(key)


def daemon_count(runtime: Any) -> int:
    """Return how many daemons run."""
    return int(runtime.daemon_count())


def make_event(sequence: int, payload: bytes, origin: int = 1) -> Any:
    """Make one event."""
    return net.CausalEvent(origin, sequence, payload)


def event_class() -> Callable[[int, int, bytes], Any]:
    """Return what the hot loop builds an event with: (origin, sequence, payload)."""
    return net.CausalEvent  # type: ignore[no-any-return]


def deliver_fn(runtime: Any) -> Any:
    """Return the bound method that the hot loop calls: (key, event) -> outputs."""
    return runtime.deliver


def async_deliver_fn(runtime: Any) -> Any:
    """Return the awaitable twin, or None."""
    return net.AsyncDaemonRuntime(runtime).deliver


def deliver_many_fn(runtime: Any) -> Any:
    """Return the batch call (key, events), or None: net-mesh has none."""
    return None


def snapshot(runtime: Any, key: int) -> bytes:
    """Return an encoded snapshot."""
    return bytes(runtime.snapshot(key))


def restore(runtime: Any, kind: str, identity: Any, blob: bytes) -> int:
    """Spawn from an encoded snapshot and return the handle."""
    return int(runtime.spawn_from_snapshot(kind, identity, blob).origin_hash)


CHANNEL = "bench/channel"
SUBSCRIBE_PATHS = ["recv", "inbox"]


def node_id(node: Any) -> int:
    """Return what names a node."""
    return int(node.node_id)


def make_pair() -> tuple[Any, Any]:
    """Make two connected nodes."""
    first, second = make_node(), make_node()
    failures: list[BaseException] = []

    def accept() -> None:
        try:
            second.accept(first.node_id)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    time.sleep(0.05)
    first.connect(second.local_addr, second.public_key, second.node_id)
    thread.join(10)
    if thread.is_alive() or failures:
        raise RuntimeError("the nodes did not connect") from next(iter(failures), None)
    first.start()
    second.start()
    return first, second


def setup_channel(publisher: Any) -> None:
    """Make the channel."""
    publisher.register_channel(CHANNEL)


def publish(publisher: Any, payload: bytes) -> bool:
    """Publish; `False` when the message was refused for now."""
    try:
        return bool(publisher.publish(CHANNEL, payload, reliability="reliable")["delivered"] == 1)
    except Exception as error:
        if "backpressured" in str(error):
            return False
        raise


class Subscriber:
    """Reads one channel: "recv" is the documented queue, of text; "inbox" keeps bytes, and is not documented."""

    def __init__(self, node: Any, publisher_id: int, path: str) -> None:
        self._node = node
        node.subscribe_channel(publisher_id, CHANNEL)
        self._inbox = None
        if path == "inbox":
            self._inbox = node.open_stream_inbox(net.channel_hash(CHANNEL) | 1 << 48, 1 << 20)

    def drain(self) -> list[bytes]:
        """Return what arrived, perhaps nothing."""
        if self._inbox is None:
            return [item.raw.encode() for item in self._node.poll(4096)]
        out: list[bytes] = []
        while len(out) < 4096:
            item = self._inbox.try_recv()
            if item is None:
                break
            out.append(item.payload)
        return out


def expect_migration(runtime: Any, kind: str, key: int) -> None:
    """Say that a daemon is to come."""
    runtime.expect_migration(kind, key)


def start_migration(runtime: Any, key: int, source: Any, target: Any) -> Any:
    """Order a move."""
    return runtime.start_migration(key, source.node_id, target.node_id)


def wait_migration(handle: Any, timeout_s: float) -> None:
    """Wait until it is over; raises if it came to nothing."""
    handle.wait_with_timeout(int(timeout_s * 1000))
