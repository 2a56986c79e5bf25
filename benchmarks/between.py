"""What it costs to send between two nodes of a process, beside the same within one node.

Run it with `python benchmarks/between.py`. Each line is the best of several rounds, since other work on the machine
only slows it down. The bar is 200,000 events a second between two nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING

from meshos.compute import DaemonRuntime
from meshos.daemon import DaemonHostConfig, MeshDaemon
from meshos.identity import Identity
from meshos.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshos.chain import CausalEvent

BAR = 200_000
IN_FLIGHT = 64


class Count(MeshDaemon):
    """Counts, and emits nothing."""

    name = "count"

    def __init__(self) -> None:
        self.total = 0

    def process(self, event: CausalEvent) -> None:
        self.total += 1


def spawn(runtime: DaemonRuntime) -> int:
    handle = runtime.spawn_with_daemon(Identity.generate(), DaemonHostConfig(), Count(), Count, kind="count")
    return handle.origin_hash


def many(runtime: DaemonRuntime, to: int, events: int) -> float:
    payloads = [b"x" * 32] * events
    began = time.perf_counter()
    runtime.send_many(to, payloads)
    return events / (time.perf_counter() - began)


def batches(runtime: DaemonRuntime, to: int, events: int) -> float:
    """Send so many at a time, the next when all of them are acknowledged."""
    payloads = [b"x" * 32] * IN_FLIGHT
    began = time.perf_counter()
    for _ in range(events // IN_FLIGHT):
        runtime.send_many(to, payloads)
    return events // IN_FLIGHT * IN_FLIGHT / (time.perf_counter() - began)


def coroutines(runtime: DaemonRuntime, to: int, events: int) -> float:
    """Keep so many calls of `send_async` under way."""

    async def worker(count: int) -> None:
        for _ in range(count):
            await runtime.send_async(to, payload)

    async def main() -> float:
        began = time.perf_counter()
        await asyncio.gather(*(worker(events // IN_FLIGHT) for _ in range(IN_FLIGHT)))
        return events / (time.perf_counter() - began)

    payload = b"x" * 32
    return asyncio.run(main())


def one(runtime: DaemonRuntime, to: int, events: int) -> float:
    began = time.perf_counter()
    for _ in range(events):
        runtime.send(to, b"x" * 32)
    return events / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    first, second = (DaemonRuntime(mesh) for mesh in Mesh.local_cluster(2))
    for runtime in (first, second):
        runtime.start()
    to = spawn(second)
    first.send(to, b"")
    ways: list[tuple[str, Callable[[DaemonRuntime, int, int], float], int]] = [
        (f"send_many, {IN_FLIGHT} in flight", batches, options.events),
        ("send_many", many, options.events),
        (f"send_async, {IN_FLIGHT} in flight", coroutines, options.events),
        ("send, one after another", one, options.events // 20),
    ]
    for name, measure, events in ways:
        within, between = 0.0, 0.0
        for _ in range(options.rounds):
            # One after the other, so that whatever else the machine does slows both down.
            within = max(within, measure(second, to, events))
            between = max(between, measure(first, to, events))
        bar = f", bar {BAR:,}" if measure is batches else ""
        print(f"{name:28} between {between:10,.0f}/s   within {within:10,.0f}/s   {between / within:.2f}{bar}")
    for runtime in (first, second):
        runtime.shutdown()
        runtime.mesh().close()


if __name__ == "__main__":
    main()
