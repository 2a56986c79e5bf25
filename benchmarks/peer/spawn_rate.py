"""Rate of spawn and stop, and resident memory per daemon, at several populations.

Every repetition runs in its own process, so that memory is not shared with an earlier one. Identities are made before
the clock starts, and timed apart.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from typing import Any

from _bench import Cell, csv_ints, emit, rss_kib, summary


class Tiny:
    """The smallest daemon that counts."""

    __slots__ = ("__weakref__", "n")

    def __init__(self) -> None:
        self.n = 0

    def process(self, event: Any) -> list[bytes]:
        self.n += 1
        return []


def child(count: int) -> dict[str, float]:
    """Spawn `count` daemons, feed each one event, and stop them."""
    from _load import adapter as lib

    node = lib.make_node()
    runtime = lib.make_runtime(node, {"tiny": Tiny})
    for _ in range(200):
        lib.stop(runtime, lib.spawn(runtime, "tiny", lib.make_identity()))

    gc.collect()
    t0 = time.perf_counter()
    identities = [lib.make_identity() for _ in range(count)]
    identity_s = time.perf_counter() - t0
    keys = [0] * count
    gc.collect()
    rss0 = rss_kib()
    t0 = time.perf_counter()
    for i, identity in enumerate(identities):
        keys[i] = lib.spawn(runtime, "tiny", identity)
    spawn_s = time.perf_counter() - t0
    rss1 = rss_kib()

    plain = [Tiny() for _ in range(count)]
    rss2 = rss_kib()
    deliver, warm, event = lib.deliver_fn(runtime), lib.make_event(1, b"x" * 64), lib.make_event(2, b"x" * 64)
    for key in keys[:1000]:
        deliver(key, warm)
    t0 = time.perf_counter()
    for key in keys:
        deliver(key, event)
    spread_s = time.perf_counter() - t0
    t0 = time.perf_counter()
    for key in keys:
        lib.stop(runtime, key)
    stop_s = time.perf_counter() - t0
    assert lib.daemon_count(runtime) == 0, "a daemon was not stopped"
    assert len(plain) == count
    lib.close_runtime(runtime)
    lib.close_node(node)
    return {
        "identity_per_s": count / identity_s,
        "spawn_per_s": count / spawn_s,
        "stop_per_s": count / stop_s,
        "deliver_spread_per_s": count / spread_s,
        "bytes_per_daemon": (rss1 - rss0) * 1024 / count,
        "bytes_per_plain_object": (rss2 - rss1) * 1024 / count,
    }


def measure(count: int) -> dict[str, float]:
    """Run `child` in a process of its own."""
    command = [sys.executable, __file__, "--child", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure every population."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=csv_ints, default=[1_000, 10_000, 50_000])
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--child", type=int)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(child(args.child)))
        return
    from _load import adapter as lib

    cells: list[Cell] = []
    for count in args.counts:
        rows = [measure(count) for _ in range(args.reps + 1)][1:]  # the first warms up
        for metric in rows[0]:
            unit = "bytes" if metric.startswith("bytes") else "1/s"
            values = summary([row[metric] for row in rows], 1)
            cells.append({"metric": metric, "daemons": count, "unit": unit, **values})
    emit("spawn_rate", lib.IMPL, lib.VERSION, {"counts": args.counts, "reps": args.reps}, cells)


if __name__ == "__main__":
    main()
