"""Events per second of delivering to a trivial Python daemon.

Cells: daemon (null returns [], echo returns its payload) x payload size x threads x targets (one shared daemon, or one
for each thread). Every event is built in the loop and has a new sequence number, so that a library which removes
duplicates does the same work. The batch and the async path are measured too where the library has them.
"""

import argparse
import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from _bench import Cell, calibrate, csv_ints, emit, percentiles, repeat, summary
from _load import adapter as lib

BATCH = 256


class Null:
    """Emits nothing."""

    def process(self, event: Any) -> list[bytes]:
        return []


class Echo:
    """Emits what it was given."""

    def process(self, event: Any) -> list[bytes]:
        return [event.payload]


LAST: dict[int, int] = {}  # origin -> the last sequence used, so that no event is ever delivered twice


def numbers(origin: int, n: int) -> range:
    """Return the next n sequence numbers of an origin."""
    first = LAST.get(origin, 0) + 1
    LAST[origin] = first + n - 1
    return range(first, first + n)


def loop(deliver: Any, make: Any, key: int, payload: bytes, origin: int, sequences: range) -> None:
    """Deliver one event for each number: the hot loop."""
    for sequence in sequences:
        deliver(key, make(origin, sequence, payload))


def sync_rep(runtime: Any, keys: list[int], payload: bytes, n: int) -> float:
    """Deliver n events in total, split over len(keys) threads, an origin a thread; return the seconds."""
    deliver, make = lib.deliver_fn(runtime), lib.event_class()
    jobs = [(key, origin, numbers(origin, n // len(keys))) for origin, key in enumerate(keys, start=1)]

    def body(key: int, origin: int, sequences: range) -> None:
        loop(deliver, make, key, payload, origin, sequences)

    if len(jobs) == 1:
        t0 = time.perf_counter()
        body(*jobs[0])
        return time.perf_counter() - t0
    gate = threading.Barrier(len(keys) + 1)

    def worker(job: tuple[int, int, range]) -> None:
        gate.wait()
        body(*job)
        gate.wait()

    threads = [threading.Thread(target=worker, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    gate.wait()
    t0 = time.perf_counter()
    gate.wait()
    took = time.perf_counter() - t0
    for thread in threads:
        thread.join()
    return took


def batch_rep(runtime: Any, key: int, payload: bytes, n: int) -> float:
    """Deliver about n events in batches; return the seconds, with the building of the events."""
    many, make = lib.deliver_many_fn(runtime), lib.event_class()
    rounds = [numbers(1, BATCH) for _ in range(max(1, n // BATCH))]
    t0 = time.perf_counter()
    for sequences in rounds:
        many(key, [make(1, sequence, payload) for sequence in sequences])
    return time.perf_counter() - t0


def async_rep(runtime: Any, key: int, payload: bytes, n: int, window: int) -> float:
    """Deliver n events with `window` of them in flight; return the seconds."""
    deliver, make = lib.async_deliver_fn(runtime), lib.event_class()
    sequences = numbers(1, n)

    async def drive() -> float:
        t0 = time.perf_counter()
        for done in range(0, n, window):
            batch = sequences[done : done + window]
            await asyncio.gather(*(deliver(key, make(1, sequence, payload)) for sequence in batch))
        return time.perf_counter() - t0

    return asyncio.run(drive())


def rate_cell(run: Callable[[int], float], args: argparse.Namespace, step: int = 1, **what: Any) -> Cell:
    """Measure a rate; `run(n)` does n events, rounded down to whole steps."""
    n = max(step, calibrate(run, args.target_s) // step * step)
    rates = repeat(lambda: run(n), args.reps)
    return {**what, "ops": n, "unit": "events/s", **summary([n / seconds for seconds in rates], 1)}


def latency_cell(runtime: Any, key: int, body: bytes, count: int, **what: Any) -> Cell:
    """Measure single deliveries; the event is built outside the measured time."""
    deliver, clock, out = lib.deliver_fn(runtime), time.perf_counter_ns, []
    for sequence in numbers(1, count // 4):
        deliver(key, lib.make_event(sequence, body))
    for sequence in numbers(1, count):
        event = lib.make_event(sequence, body)
        t0 = clock()
        deliver(key, event)
        out.append(float(clock() - t0))
    return {**what, "unit": "ns", **percentiles(out)}


def sync_cells(runtime: Any, kind: str, keys: list[int], size: int, args: argparse.Namespace) -> list[Cell]:
    """Measure one payload size, over all numbers of threads."""
    payload, cells = b"x" * size, []
    for threads in args.threads:
        for targets in ("shared",) if threads == 1 else ("shared", "distinct"):
            use = keys[:threads] if targets == "distinct" else keys[:1] * threads

            def run(n: int, use: list[int] = use) -> float:
                return sync_rep(runtime, use, payload, n)

            what = {"path": "sync", "daemon": kind, "payload": size, "threads": threads, "targets": targets}
            cells.append(rate_cell(run, args, threads, **what))
    count = 20_000 if size < 65536 else 4_000
    cells.append(latency_cell(runtime, keys[0], payload, count, path="sync-latency", daemon=kind, payload=size))
    return cells


def main() -> None:
    """Measure every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payloads", type=csv_ints, default=[0, 64, 1024, 65536])
    parser.add_argument("--threads", type=csv_ints, default=[1, 2])
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--target-s", type=float, default=0.25, help="seconds per repetition")
    parser.add_argument("--skip-async", action="store_true")
    args = parser.parse_args()

    node = lib.make_node()
    runtime = lib.make_runtime(node, {"null": Null, "echo": Echo})
    small = b"x" * 64
    cells: list[Cell] = []
    for kind in ("null", "echo"):
        keys = [lib.spawn(runtime, kind, lib.make_identity()) for _ in range(max(args.threads))]
        for size in args.payloads:
            cells += sync_cells(runtime, kind, keys, size, args)
        if lib.deliver_many_fn(runtime) is not None:

            def batch(n: int, key: int = keys[0]) -> float:
                return batch_rep(runtime, key, small, n)

            cells.append(rate_cell(batch, args, BATCH, path=f"batch{BATCH}", daemon=kind, payload=64))
        if not args.skip_async and lib.async_deliver_fn(runtime) is not None:
            for window in (1, 64):

                def flight(n: int, key: int = keys[0], window: int = window) -> float:
                    return async_rep(runtime, key, small, n, window)

                cells.append(rate_cell(flight, args, path="async", daemon=kind, payload=64, in_flight=window))
    lib.close_runtime(runtime)
    lib.close_node(node)
    emit("deliver_rate", lib.IMPL, lib.VERSION, vars(args), cells)


if __name__ == "__main__":
    main()
