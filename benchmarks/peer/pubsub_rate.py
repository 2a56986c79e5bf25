"""Messages per second from one node to another over a channel, and how long one takes.

Throughput: one thread publishes numbered messages as fast as they are accepted, and tries refused ones again; another
reads. Latency: one message at a time, from before the publish until it was read. Payloads are ASCII, so that a way that
carries text only is measured at its best. What is missing, comes twice or out of order is told on stderr.
"""

import argparse
import sys
import threading
import time
from typing import Any

from _bench import Cell, csv_ints, emit, percentiles, repeat, summary
from _load import adapter as lib

PAUSE = 0.00005


def throughput(publisher: Any, reader: Any, size: int, count: int, timeout_s: float, notes: list[Cell]) -> float:
    """Return messages read per second."""
    got: list[bytes] = []
    ended = [0.0]
    quiet_after = [float("inf")]

    def drain() -> None:
        deadline = time.perf_counter() + timeout_s
        while len(got) < count and time.perf_counter() < deadline:
            batch = reader.drain()
            if batch:
                got.extend(batch)
            elif time.perf_counter() > quiet_after[0]:
                break
            else:
                time.sleep(PAUSE)
        ended[0] = time.perf_counter()

    thread = threading.Thread(target=drain)
    pad = b"." * max(0, size - 10)
    refused = 0
    began = time.perf_counter()
    thread.start()
    for number in range(count):
        message = b"%010d" % number + pad
        while not lib.publish(publisher, message):
            refused += 1
            if time.perf_counter() > began + timeout_s:
                break
            time.sleep(PAUSE)
    quiet_after[0] = time.perf_counter() + 2.0
    thread.join()
    numbers = [int(message[:10]) for message in got]
    seen = len(set(numbers))
    ordered = numbers == sorted(numbers)
    notes.append({"refused": refused, "missing": count - seen, "twice": len(numbers) - seen, "in_order": ordered})
    return len(numbers) / (ended[0] - began)


def latency(publisher: Any, reader: Any, size: int, count: int) -> list[float]:
    """Return microseconds from before the publish until the message was read."""
    payload = b"l" * size
    out: list[float] = []
    for number in range(count + count // 5):
        began = time.perf_counter_ns()
        while not lib.publish(publisher, payload):
            time.sleep(PAUSE)
        while not reader.drain():
            if time.perf_counter_ns() > began + 1_000_000_000:
                break
        else:
            if number >= count // 5:
                out.append((time.perf_counter_ns() - began) / 1000)
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payloads", type=csv_ints, default=[64, 1024])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--latency-count", type=int, default=3_000)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--timeout-s", type=float, default=20.0)
    args = parser.parse_args()
    cells: list[Cell] = []
    for path in lib.SUBSCRIBE_PATHS:
        publisher, other = lib.make_pair()
        lib.setup_channel(publisher)
        reader = lib.Subscriber(other, lib.node_id(publisher), path)
        for size in args.payloads:
            notes: list[Cell] = []

            def run(
                size: int = size, notes: list[Cell] = notes, publisher: Any = publisher, reader: Any = reader
            ) -> float:
                return throughput(publisher, reader, size, args.count, args.timeout_s, notes)

            rates = repeat(run, args.reps)
            cells.append({"metric": "throughput", "path": path, "payload": size, "unit": "1/s", **summary(rates, 1)})
            print(path, size, notes, file=sys.stderr)
            points = [
                percentiles(latency(publisher, reader, size, args.latency_count), (50, 99)) for _ in range(args.reps)
            ]
            for name in ("p50", "p99"):
                samples = [point[name] for point in points]
                cell: Cell = {"metric": f"latency_{name}", "path": path, "payload": size, "unit": "us"}
                cells.append({**cell, **summary(samples, 1)})
        lib.close_node(publisher)
        lib.close_node(other)
    emit("pubsub_rate", lib.IMPL, lib.VERSION, vars(args), cells)


if __name__ == "__main__":
    main()
