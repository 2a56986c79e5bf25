"""What importing the library costs: time, resident memory, threads.

Each repetition is a fresh interpreter. `baseline` imports nothing; `hello` goes from a bare interpreter to the first
delivered event (import, node, runtime, spawn, deliver).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from _bench import Cell, emit, summary
from _load import adapter as lib

PROBE = """
import json, os, sys, time
t0 = time.perf_counter()
{body}
took = time.perf_counter() - t0
rss = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS:"))
print(json.dumps([took, rss, len(os.listdir("/proc/self/task")), len(sys.modules)]))
sys.stdout.flush()
{after}
"""

HELLO = """
from _load import adapter as lib
class Echo:
    def process(self, event): return [event.payload]
node = lib.make_node()
rt = lib.make_runtime(node, {"echo": Echo})
key = lib.spawn(rt, "echo", lib.make_identity())
assert lib.payloads(lib.deliver_fn(rt)(key, lib.make_event(1, b"hi"))) == [b"hi"]
"""


def measure(body: str, after: str, reps: int) -> list[list[float]]:
    """Return seconds, KiB, threads and modules of `reps` fresh interpreters; two more warm up."""
    command = [sys.executable, "-c", PROBE.format(body=body, after=after)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}
    rows = []
    for _ in range(reps + 2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=env)
        rows.append(json.loads(done.stdout))
    return rows[2:]


def main() -> None:
    """Measure every import."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=11)
    args = parser.parse_args()

    bodies = [("baseline", "pass", "")]
    # The modules have other names in each library; a row compares what they are for.
    purposes = ("import package", "import compute")
    bodies += [(what, f"import {name}", "") for what, name in zip(purposes, lib.IMPORTS, strict=True)]
    bodies += [("hello", HELLO, "lib.close_runtime(rt); lib.close_node(node)")]
    cells: list[Cell] = []
    for what, body, after in bodies:
        rows = measure(body, after, args.reps)
        cells.append({"what": what, "metric": "time", "unit": "s", **summary([row[0] for row in rows])})
        cells.append({"what": what, "metric": "rss", "unit": "KiB", **summary([row[1] for row in rows])})
        cells.append({"what": what, "metric": "threads", "unit": "", "value": rows[-1][2]})
        cells.append({"what": what, "metric": "modules", "unit": "", "value": rows[-1][3]})
    emit("import_time", lib.IMPL, lib.VERSION, vars(args), cells)


if __name__ == "__main__":
    main()
