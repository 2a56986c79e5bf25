"""Drives the PyPI package `net-mesh` through its native classes, its fastest public path.

The scripts talk to this module only. Another adapter offers the same functions.
"""

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
