"""What it costs to move a daemon between two nodes of a process.

Run it with `python benchmarks/moves.py`; `--quick` does fewer rounds. Each line has its bar. Blackout is from the
freeze until the target said that it owns, as the source saw it; the time of `snapshot` is in it, and printed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import struct
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from meshos.compute import DaemonRuntime
from meshos.daemon import DaemonHostConfig, MeshDaemon
from meshos.errors import DaemonNotFound, MeshOsError, NotOwner
from meshos.identity import Identity
from meshos.mesh import Mesh
from meshos.migration import MigrationOpts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshos.chain import CausalEvent
    from meshos.migration import MigrationOutcome

PATIENCE = timedelta(seconds=60)
KIB, MIB = 1 << 10, 1 << 20
BETWEEN = 200
"""Events between two moves under load."""


class Load(MeshDaemon):
    """A blob, and the numbers of the events that it took."""

    name = "load"
    size: ClassVar[int] = KIB

    def __init__(self) -> None:
        self.blob = b"\xaa" * self.size
        self.seen: list[int] = []

    def process(self, event: CausalEvent) -> None:
        self.seen.append(struct.unpack_from("<Q", event.payload)[0])

    def snapshot(self) -> bytes:
        return struct.pack(f"<Q{len(self.seen)}Q", len(self.seen), *self.seen) + self.blob

    def restore(self, state: bytes) -> None:
        (count,) = struct.unpack_from("<Q", state)
        self.seen = list(struct.unpack_from(f"<{count}Q", state, 8))
        self.blob = state[8 + 8 * count :]


class Pair:
    """Two nodes of a process."""

    def __init__(self) -> None:
        self.nodes = Mesh.local_cluster(2)
        self.runtimes = [DaemonRuntime(node) for node in self.nodes]
        for runtime in self.runtimes:
            runtime.register_factory("load", Load)
            runtime.start()
        self.nodes[0].wait_for_peer(self.nodes[1].node_id, timeout=PATIENCE)
        self.nodes[1].wait_for_peer(self.nodes[0].node_id, timeout=PATIENCE)

    def spawn(self, size: int) -> int:
        Load.size = size
        return self.runtimes[0].spawn("load", Identity.generate(), DaemonHostConfig()).origin_hash

    def move(self, origin: int, leg: int, opts: MigrationOpts) -> tuple[MigrationOutcome, float]:
        ids = [node.node_id for node in self.nodes]
        source, target = (ids[0], ids[1]) if leg % 2 == 0 else (ids[1], ids[0])
        began = time.perf_counter()
        handle = self.runtimes[0].start_migration_with(origin, source, target, opts)
        outcome = handle.wait(PATIENCE)
        return outcome, time.perf_counter() - began

    def seen(self, origin: int) -> list[int]:
        for runtime in self.runtimes:
            with contextlib.suppress(DaemonNotFound, NotOwner):
                found: list[int] = runtime.with_daemon(origin, Load, lambda daemon: list(daemon.seen))
                return found
        raise LookupError(origin)

    def close(self) -> None:
        for runtime, node in zip(self.runtimes, self.nodes, strict=True):
            runtime.shutdown()
            node.close()


def ms(values: Iterable[float]) -> str:
    """Give median and worst in milliseconds."""
    found = sorted(1000 * value for value in values)
    return f"median {statistics.median(found):8.2f} ms, worst {found[-1]:8.2f} ms"


def seconds(span: timedelta) -> float:
    return span.total_seconds()


def quiet(size: int, legs: int, opts: MigrationOpts, bar: str) -> None:
    """Move an idle daemon back and forth."""
    pair = Pair()
    origin = pair.spawn(size)
    moved = [pair.move(origin, leg, opts) for leg in range(legs)]
    print(f"{size // KIB:6} KiB {opts.mode:4} start to wait  {ms(took for _, took in moved)}   bar {bar}")
    print(f"{'':11}{opts.mode:4} blackout       {ms(seconds(outcome.blackout) for outcome, _ in moved)}")
    print(f"{'':11}{opts.mode:4} of it snapshot {ms(seconds(outcome.snapshot_took) for outcome, _ in moved)}")
    pair.close()


class Feeder(threading.Thread):
    """Sends numbered events of 64 bytes at a rate, one after the other."""

    def __init__(self, runtime: DaemonRuntime, origin: int, rate: float) -> None:
        super().__init__()
        self.runtime, self.origin, self.gap = runtime, origin, 1 / rate if rate else 0.0
        self.halt = threading.Event()
        self.sent = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        due = time.perf_counter()
        batch = 10
        while not self.halt.is_set():
            payloads = [struct.pack("<Q", self.sent + place + 1).ljust(64, b"p") for place in range(batch)]
            try:
                self.runtime.send_many(self.origin, payloads)
            except BaseException as error:
                self.error = error
                return
            self.sent += batch
            due += batch * self.gap
            time.sleep(max(0.0, due - time.perf_counter()))


def loaded(size: int, legs: int, rate: float, opts: MigrationOpts, bar: str) -> None:
    """Move a daemon back and forth while it is sent to; nothing may be lost, come twice or out of order."""
    pair = Pair()
    origin = pair.spawn(size)
    feeder = Feeder(pair.runtimes[0], origin, rate)
    feeder.start()
    moved: list[tuple[MigrationOutcome, float]] = []
    failed: list[BaseException] = []
    for leg in range(legs):
        enough = feeder.sent + BETWEEN
        while feeder.sent < enough and feeder.is_alive():
            time.sleep(0.001)
        try:
            moved.append(pair.move(origin, leg, opts))
        except MeshOsError as refused:
            failed.append(refused)
            break
    feeder.halt.set()
    feeder.join()
    seen = pair.seen(origin)
    lost = len(set(range(1, feeder.sent + 1)) - set(seen))
    twice = len(seen) - len(set(seen))
    modes = "/".join(sorted({outcome.mode for outcome, _ in moved}))
    order = "in order" if seen == sorted(seen) else "OUT OF ORDER"
    print(f"{size // KIB:6} KiB {opts.mode:4} under {rate:,.0f}/s: {len(moved)} of {legs} moved as {modes}")
    print(f"{'':11}{lost} lost, {twice} twice, {order} of {feeder.sent:,}   bar 0, 0")
    if moved:
        print(
            f"{'':11}{opts.mode:4} blackout       {ms(seconds(outcome.blackout) for outcome, _ in moved)}   bar {bar}"
        )
        print(f"{'':11}{opts.mode:4} start to wait  {ms(took for _, took in moved)}")
    for error in (*failed, *filter(None, [feeder.error])):
        print(f"{'':11}{type(error).__name__}: {error}")
    pair.close()


def together(count: int, bar: str) -> None:
    """Move many daemons at once."""
    pair = Pair()
    origins = [pair.spawn(KIB) for _ in range(count)]
    ids = [node.node_id for node in pair.nodes]
    began = time.perf_counter()
    handles = [pair.runtimes[0].start_migration(origin, ids[0], ids[1]) for origin in origins]
    ordered = time.perf_counter() - began
    outcomes = [handle.wait(PATIENCE) for handle in handles]
    took = time.perf_counter() - began
    print(f"{count} moves at once: {took:.3f} s, of it {ordered:.3f} s to order them   bar {bar}")
    print(f"{'':16}blackout       {ms(seconds(outcome.blackout) for outcome in outcomes)}")
    pair.close()


class Held(MeshDaemon):
    """Bytes that are never copied here: they are the state, the snapshot, and what a restore was given."""

    name = "held"

    def __init__(self) -> None:
        self.held = b""

    def process(self, event: CausalEvent) -> None:
        self.held = b"\xaa" * struct.unpack_from("<Q", event.payload)[0]

    def snapshot(self) -> bytes:
        return self.held

    def restore(self, state: bytes) -> None:
        self.held = state


def resident(of: str) -> float:
    """Return memory of this process in MiB: `VmRSS` now, `VmHWM` at most since it was reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(of)) / KIB


def memory(size: int, bar: str) -> None:
    """Move a large daemon in a process that has moved small ones, and print how much there was beside its bytes."""
    pair = Pair()
    for runtime in pair.runtimes:
        runtime.register_factory("held", Held)
    small = pair.spawn(KIB)
    for leg in range(4):
        pair.move(small, leg, MigrationOpts())
    base = resident("VmRSS")
    origin = pair.runtimes[0].spawn("held", Identity.generate()).origin_hash
    pair.runtimes[0].send(origin, struct.pack("<Q", size))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    pair.move(origin, 0, MigrationOpts())
    beside = resident("VmHWM") - base - 3 * size / MIB
    print(f"{size // MIB} MiB: {beside:.0f} MiB beside state, image and what was restored   bar {bar}")
    pair.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--live", action="store_true", help="only what is about copies made before")
    parser.add_argument("--memory", action="store_true", help="only the memory of one large move, in this process")
    options = parser.parse_args()
    if options.memory:
        memory(64 * MIB, "12 MiB: three windows of chunks")
        return
    few, many = (4, 10) if options.quick else (10, 50)
    stop, live = MigrationOpts(freeze_max=timedelta(seconds=30)), MigrationOpts(mode="live")
    if not options.live:
        quiet(KIB, many, stop, "5 ms; blackout 1 ms")
        quiet(64 * MIB, few, stop, "1 s")
        for size in (KIB, MIB, 16 * MIB, 64 * MIB):
            loaded(size, many, 10_000, stop, "all, 0, 0")
        quiet(KIB, 100, stop, "all of 100")
        together(200, "0.5 s")
        # A process that has done nothing else.
        subprocess.run([sys.executable, __file__, "--memory"], check=True)
    quiet(64 * MIB, few, live, "-")
    loaded(64 * MIB, few, 10_000, live, "20 ms")


if __name__ == "__main__":
    main()
