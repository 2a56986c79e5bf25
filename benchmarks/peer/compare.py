"""Runs benchmark scripts for several libraries in turn, and prints their ratios.

    compare.py --impl peer=PEER_PYTHON:_adapter --impl meshos=OUR_PYTHON:_meshos_adapter --rounds 3 deliver_rate

Rounds are interleaved, so that all see the same background load; the samples of all rounds are pooled. One JSON line
goes to stdout, a table to stderr. The first `--impl` is the base of the ratios; above 1 is better, for rates and for
times alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HIGHER_IS_BETTER = {"events/s", "1/s"}
# What a cell measured; all else in it says what was measured, and is the key of its row.
MEASURED = {"samples", "median", "min", "max", "n", "ops", "value", "MB_per_s", "blob_bytes", "p50", "p99", "p99.9"}
MEASURED |= {"ok", "tried", "errors", "lost", "duplicated", "in_order", "accepted", "move_s", "blackout_s"}

Key = tuple[tuple[str, Any], ...]


TRIES = 3
"""How often a script is run before its failure ends the comparison."""


def run(python: str, adapter: str, script: str, extra: list[str], timeout_s: float) -> list[dict[str, Any]]:
    """Run one script once, and return its cells."""
    command = [python, str(HERE / f"{script}.py"), *extra]
    env = {**os.environ, "BENCH_ADAPTER": adapter}
    for _ in range(TRIES):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode == 0:
            break
        # The peer was seen to fail without a word; what it measured before is lost, so the round is run again.
        print(f"{script} under {python}: exit {done.returncode}, run again", file=sys.stderr)
    else:
        raise SystemExit(f"{script} failed under {python}:\n{done.stderr[-2000:]}")
    cells: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return cells


def ratio(measured: float, base: float, unit: str) -> float:
    """Return how many times better than the base this is."""
    return round(measured / base if unit in HIGHER_IS_BETTER else base / measured, 3)


def compare(
    script: str, impls: dict[str, tuple[str, str]], rounds: int, extra: list[str], timeout_s: float
) -> list[dict[str, Any]]:
    """Measure one script and return a row for each of its cells."""
    base = next(iter(impls))
    pooled: dict[Key, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name, (python, adapter) in impls.items():
            for cell in run(python, adapter, script, extra, timeout_s):
                if "samples" in cell:
                    key = tuple((k, v) for k, v in cell.items() if k not in MEASURED)
                    pooled.setdefault(key, {}).setdefault(name, []).extend(cell["samples"])
    rows = []
    for key, samples in pooled.items():
        unit = dict(key)["unit"]
        medians = {name: statistics.median(values) for name, values in samples.items()}
        row = {"bench": script, **dict(key), "medians": medians}
        if medians.get(base):
            row["ratios"] = {n: ratio(m, medians[base], unit) for n, m in medians.items() if n != base and m}
        rows.append(row)
        label = " ".join(str(v) for k, v in key if k != "unit")
        shown = "  ".join(f"{name}={median:,.6g}" for name, median in medians.items())
        print(f"{script:14} {label:36} {shown} {unit}  {row.get('ratios', '')}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="+")
    parser.add_argument("--impl", action="append", required=True, metavar="NAME=PYTHON:ADAPTER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout-s", type=float, default=900)
    parser.add_argument("--args", default="", help="extra arguments for every script, space separated")
    args = parser.parse_args()
    impls = {}
    for spec in args.impl:
        name, _, rest = spec.partition("=")
        python, _, adapter = rest.rpartition(":")
        impls[name] = (python, adapter)

    rows = []
    for script in args.scripts:
        rows += compare(script, impls, args.rounds, args.args.split(), args.timeout_s)
    print(json.dumps({"bench": "compare", "rounds": args.rounds, "results": rows}, separators=(",", ":")))


if __name__ == "__main__":
    main()
