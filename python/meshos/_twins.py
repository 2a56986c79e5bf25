"""The asynchronous forms of calls that may wait: they run on a lane, and the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from meshos import _core
from meshos._checks import seconds_of
from meshos.errors import WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshos.chain import BytesLike, CausalEvent
    from meshos.channel import ChannelName, PermissionToken
    from meshos.mesh import ChannelMessage, Mesh, Peer
    from meshos.stream import Gap, Stream

P = ParamSpec("P")
R = TypeVar("R")

PAUSE_MIN, PAUSE_MAX = 0.001, 0.02
"""Seconds between two looks at the peers of a mesh."""


async def on_lane(name: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a call on a lane and await its result; `name` is what an error calls it."""
    return cast("R", await _core._on_lane(lambda: call(*args, **kwargs), name))


async def deliver_later(runtime: _core.RuntimeCore, origin_hash: int, event: CausalEvent) -> list[CausalEvent]:
    """Deliver once a loop runs."""
    return await runtime.deliver_async(origin_hash, event)


async def itself(mesh: Mesh) -> Mesh:
    """Enter a block: there is nothing to wait for."""
    return mesh


async def close(mesh: Mesh) -> None:
    """Close a mesh."""
    await on_lane("Mesh.close_async", mesh.close)


async def wait_for_peer(mesh: Mesh, node_id: int, timeout: timedelta | None) -> Peer:
    """Wait until a node is alive. However many wait, they hold no lane."""
    seconds = seconds_of(timeout)
    end = None if seconds is None else monotonic() + seconds
    pause = PAUSE_MIN
    while True:
        try:
            return mesh.wait_for_peer(node_id, timeout=timedelta(0))
        except WaitTimeout:
            left = PAUSE_MAX if end is None else end - monotonic()
            if left <= 0:
                raise WaitTimeout(f"node 0x{node_id:016x}", timeout or timedelta(0)) from None
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, PAUSE_MAX)


async def publish(mesh: Mesh, channel: ChannelName, payload: BytesLike) -> int:
    """Publish; it waits for nobody."""
    return mesh.publish(channel, payload)


async def publish_to(
    mesh: Mesh,
    publisher: int,
    channel: ChannelName,
    payload: BytesLike,
    token: PermissionToken | None,
    timeout: timedelta | None,
) -> int:
    """Publish on a channel of another node; its answer is waited for on a lane."""
    call = mesh.publish_to
    return await on_lane("Mesh.publish_to_async", call, publisher, channel, payload, token, timeout=timeout)


async def subscribe(
    mesh: Mesh, publisher: int, channel: ChannelName, token: PermissionToken | None, buffer_max: int
) -> Stream[ChannelMessage | Gap]:
    """Read a channel; the publisher's answer is waited for on a lane."""
    call = mesh.subscribe
    return await on_lane("Mesh.subscribe_async", call, publisher, channel, token, buffer_max=buffer_max)
