"""Cost of a snapshot and of a restore, by size of the state.

The daemon keeps its state as one `bytes` object, returns it from `snapshot()` and stores it in `restore()`: what is
measured is the library's own work (framing, copies, checks), not the user's serialisation.
"""

import argparse
import os
import time
from typing import Any

from _bench import Cell, csv_ints, emit, repeat, rss_kib, summary
from _load import adapter as lib


def holder(state: bytes) -> type:
    """Return a daemon class that begins with this state."""

    class Holder:
        def __init__(self) -> None:
            self.state = state

        def process(self, event: Any) -> list[bytes]:
            return [self.state[-8:]]

        def snapshot(self) -> bytes:
            return self.state

        def restore(self, data: bytes) -> None:
            self.state = data

    return Holder


def measure(node: Any, size: int, reps: int) -> list[Cell]:
    """Measure one size of state."""
    state = os.urandom(size)
    runtime = lib.make_runtime(node, {"holder": holder(state)})
    identity = lib.make_identity()
    key = lib.spawn(runtime, "holder", identity)
    inner = max(1, min(500, (1 << 22) // max(size, 1)))
    blob = lib.snapshot(runtime, key)

    def snapshot() -> float:
        t0 = time.perf_counter()
        for _ in range(inner):
            lib.snapshot(runtime, key)
        return (time.perf_counter() - t0) / inner

    def restore() -> float:
        total = 0.0
        for _ in range(inner):
            lib.stop(runtime, key)
            t0 = time.perf_counter()
            lib.restore(runtime, "holder", identity, blob)
            total += time.perf_counter() - t0
        return total / inner

    before = rss_kib()
    cells: list[Cell] = []
    for op, run in (("snapshot", snapshot), ("restore", restore)):
        cell = {"op": op, "state_bytes": size, "blob_bytes": len(blob), "unit": "s", **summary(repeat(run, reps), 9)}
        cell["MB_per_s"] = round(size / 1e6 / cell["median"], 1)
        cells.append(cell)
    out = lib.payloads(lib.deliver_fn(runtime)(key, lib.make_event(1, b"")))
    assert out == [state[-8:]], "the restored state differs"
    cells.append({"op": "rss_growth", "state_bytes": size, "unit": "KiB", "value": rss_kib() - before})
    lib.close_runtime(runtime)
    return cells


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=csv_ints, default=[1 << 10, 1 << 20, 64 << 20])
    parser.add_argument("--reps", type=int, default=9)
    args = parser.parse_args()

    cells: list[Cell] = []
    for size in args.sizes:
        node = lib.make_node()
        cells += measure(node, size, args.reps)
        lib.close_node(node)
    emit("snapshot_rate", lib.IMPL, lib.VERSION, vars(args), cells)


if __name__ == "__main__":
    main()
