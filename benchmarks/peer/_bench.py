"""What the measuring scripts share.

Every script prints one JSON object on one line: bench, impl, version, host, params, and results, a list of cells.
A cell holds its own parameters and `median`, `min`, `max`, `n` and `samples`.
"""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

Cell = dict[str, Any]


def rss_kib(pid: int | str = "self") -> int:
    """Return the resident set size of a process, in KiB."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    raise RuntimeError("no VmRSS")


def summary(samples: list[float], digits: int = 6) -> Cell:
    """Return median, minimum and maximum of the samples, and the samples themselves."""
    rounded = [round(sample, digits) for sample in samples]
    return {
        "median": round(statistics.median(samples), digits),
        "min": min(rounded),
        "max": max(rounded),
        "n": len(rounded),
        "samples": rounded,
    }


def percentiles(values: list[float], points: Iterable[float] = (50, 99, 99.9)) -> dict[str, float]:
    """Return the values at these percentages of the sorted list."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"p{p:g}": ordered[min(last, round(last * p / 100))] for p in points}


def calibrate(run: Callable[[int], float], target_s: float, start: int = 64, cap: int = 2_000_000) -> int:
    """Return how many operations take about `target_s`, and warm up; `run(n)` does n of them and returns seconds."""
    n = start
    while True:
        took = run(n)
        if took >= target_s / 4 or n >= cap:
            break
        n = min(cap, n * 4)
    return max(1, min(cap, int(n * target_s / max(took, 1e-9))))


def repeat(run: Callable[[], float], reps: int, warmup: int = 1) -> list[float]:
    """Call `run` `warmup + reps` times, and return the last `reps` results."""
    for _ in range(warmup):
        run()
    out = []
    for _ in range(reps):
        gc.collect()
        gc.disable()
        try:
            out.append(run())
        finally:
            gc.enable()
    return out


def host() -> dict[str, Any]:
    """Describe the machine."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load1": os.getloadavg()[0],
        "kernel": platform.release(),
    }


def emit(bench: str, impl: str, version: str, params: dict[str, Any], results: list[Cell]) -> None:
    """Print the JSON line."""
    record = {
        "bench": bench,
        "impl": impl,
        "version": version,
        "when": round(time.time()),
        "host": host(),
        "params": params,
        "results": results,
    }
    print(json.dumps(record, separators=(",", ":")), flush=True)


def csv_ints(text: str) -> list[int]:
    """Read a list such as `0,64,1e6`."""
    return [int(float(part)) for part in text.split(",") if part]
