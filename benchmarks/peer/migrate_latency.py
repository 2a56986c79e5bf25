"""How long a move between two nodes of a process takes, and what becomes of events that are delivered meanwhile.

`quiet` moves an idle daemon, and times from the order until the wait returned, and until the target has it. `loaded`
has a thread deliver numbered events, to the source until it refuses, then to the target, and looks afterwards which of
those that were accepted the daemon has taken: lost, twice, out of order; and how long none was accepted.
"""

import argparse
import contextlib
import struct
import threading
import time
from typing import Any, ClassVar

from _bench import Cell, csv_ints, emit, summary
from _load import adapter as lib


class Stateful:
    """A blob, and the numbers of the events that it took."""

    blob_size: ClassVar[int] = 0
    instances: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.blob = b"\xaa" * self.blob_size
        self.seen: list[int] = []
        Stateful.instances.append(self)

    def process(self, event: Any) -> list[bytes]:
        """Take an event."""
        self.seen.append(event.sequence)
        return []

    def snapshot(self) -> bytes:
        """Return everything."""
        return struct.pack(f"<Q{len(self.seen)}Q", len(self.seen), *self.seen) + self.blob

    def restore(self, state: bytes) -> None:
        """Take everything over."""
        (count,) = struct.unpack_from("<Q", state)
        self.seen = list(struct.unpack_from(f"<{count}Q", state, 8))
        self.blob = state[8 + 8 * count :]


class Pair:
    """Two nodes with a daemon on the first one, expected by the second."""

    def __init__(self, size: int) -> None:
        Stateful.blob_size = size
        self.nodes = lib.make_pair()
        self.runtimes = [lib.make_runtime(node, {"s": Stateful}) for node in self.nodes]
        self.key = lib.spawn(self.runtimes[0], "s", lib.make_identity())
        lib.expect_migration(self.runtimes[1], "s", self.key)

    def move(self, timeout_s: float) -> tuple[float, float]:
        """Return the seconds until the wait returned, and until the target has it."""
        hosted = [float("nan")]
        halt = threading.Event()
        began = time.perf_counter()

        def watch() -> None:
            while not halt.is_set():
                if lib.daemon_count(self.runtimes[1]) > 0:
                    hosted[0] = time.perf_counter() - began
                    return
                time.sleep(0.0002)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            handle = lib.start_migration(self.runtimes[0], self.key, *self.nodes)
            lib.wait_migration(handle, timeout_s)
            took = time.perf_counter() - began
            watcher.join(1)
        finally:
            halt.set()
            watcher.join()
        return took, hosted[0]

    def close(self) -> None:
        """Shut everything down."""
        Stateful.instances.clear()
        for runtime in self.runtimes:
            lib.close_runtime(runtime)
        for node in self.nodes:
            lib.close_node(node)


def quiet(size: int, timeout_s: float) -> tuple[float, float]:
    """Move an idle daemon."""
    pair = Pair(size)
    try:
        lib.deliver_fn(pair.runtimes[0])(pair.key, lib.make_event(1, b""))
        return pair.move(timeout_s)
    finally:
        pair.close()


def loaded(size: int, timeout_s: float, gap_s: float) -> Cell:
    """Move a daemon that events are delivered to."""
    pair = Pair(size)
    stop = threading.Event()
    accepted: list[tuple[int, int, float]] = []

    def feed() -> None:
        ways = [lib.deliver_fn(runtime) for runtime in pair.runtimes]
        number = 0
        while not stop.is_set() and number < 1_000_000:
            number += 1
            event = lib.make_event(number, b"p" * 64)
            give_up = time.perf_counter() + timeout_s
            while not stop.is_set() and time.perf_counter() < give_up:
                for place, way in enumerate(ways):
                    with contextlib.suppress(Exception):
                        way(pair.key, event)
                        accepted.append((number, place, time.perf_counter()))
                        break
                else:
                    time.sleep(0.0001)
                    continue
                break
            time.sleep(gap_s)

    feeder = threading.Thread(target=feed)
    try:
        feeder.start()
        time.sleep(0.2)
        error, took = None, float("nan")
        try:
            took, _ = pair.move(timeout_s)
        except Exception as refused:
            error = str(refused)[:160]
        time.sleep(0.2)
        stop.set()
        feeder.join(timeout_s + 5)
        counts = [lib.daemon_count(runtime) for runtime in pair.runtimes]
        survivor = Stateful.instances[-1] if counts[1] else Stateful.instances[0]
        seen = survivor.seen
        numbers = [number for number, _, _ in accepted]
        switch = next((place for place, row in enumerate(accepted) if row[1] == 1), None)
        return {
            "moved": counts == [0, 1],
            "error": error,
            "move_s": took,
            "accepted": len(numbers),
            "lost": len(set(numbers) - set(seen)),
            "duplicated": len(seen) - len(set(seen)),
            "in_order": seen == sorted(seen),
            "blackout_s": accepted[switch][2] - accepted[switch - 1][2] if switch else None,
        }
    finally:
        stop.set()
        pair.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=csv_ints, default=[1 << 10, 1 << 20, 16 << 20])
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--timeout-s", type=float, default=10.0)
    parser.add_argument("--gap-s", type=float, default=0.0001, help="pause between events under load")
    args = parser.parse_args()

    cells: list[Cell] = []
    quiet(1 << 10, args.timeout_s)
    for size in args.sizes:
        waits, hosts, errors = [], [], []
        for _ in range(args.reps):
            try:
                wait, host = quiet(size, args.timeout_s)
                waits.append(wait)
                hosts += [host] if host == host else []
            except Exception as refused:
                errors.append(str(refused)[:160])
        base: Cell = {
            "load": "quiet",
            "state_bytes": size,
            "ok": len(waits),
            "tried": args.reps,
            "errors": sorted(set(errors)),
        }
        cells.append({**base, "metric": "start_to_wait", "unit": "s", **(summary(waits) if waits else {})})
        cells.append({**base, "metric": "start_to_hosted", "unit": "s", **(summary(hosts) if hosts else {})})
        runs = [loaded(size, args.timeout_s, args.gap_s) for _ in range(args.reps)]
        good = [run for run in runs if run["moved"]]
        cell: Cell = {
            "load": "loaded",
            "state_bytes": size,
            "ok": len(good),
            "tried": args.reps,
            "errors": sorted({run["error"] for run in runs if run["error"]}),
            "lost": [run["lost"] for run in runs],
            "duplicated": [run["duplicated"] for run in runs],
            "in_order": all(run["in_order"] for run in runs),
            "accepted": [run["accepted"] for run in runs],
        }
        if good:
            cell["move_s"] = summary([run["move_s"] for run in good])
            cell["blackout_s"] = summary([run["blackout_s"] for run in good if run["blackout_s"] is not None] or [0.0])
        cells.append(cell)
    emit("migrate_latency", lib.IMPL, lib.VERSION, vars(args), cells)


if __name__ == "__main__":
    main()
