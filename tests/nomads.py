"""A process with three nodes: two daemons move between them, one sends what it takes to the other. It is killed.

`python nomads.py FOLDER EVENTS SEED` says `ready COUNT`, `at N` when so many events were acknowledged, and
`done COUNT TOTAL MOVES`.
"""

import random
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, Output, Store
from meshos.chain import verify_chain
from meshos.errors import MeshOsError, MigrationError, NotOwner
from meshos.migration import MigrationOpts, MigrationOrchestrator

FROM, TO = Identity.from_seed(b"\x0c" * 32), Identity.from_seed(b"\x0d" * 32)
CONFIG = DaemonHostConfig(durability="journal", auto_snapshot_interval=50, outputs_max=1_000_000)
FEED = 77
BATCH = 20
NODES = 3
PATIENCE = timedelta(seconds=60)


class Ordered(MeshDaemon):
    """Adds up, and wants the numbers in order, each once."""

    name = "ordered"

    def __init__(self) -> None:
        self.count = 0
        self.total = 0

    def process(self, event: CausalEvent) -> Output | bytes:
        number = int(event.payload)
        if number != self.count + 1:
            raise ValueError(f"{number} came after {self.count}")
        self.count = number
        self.total += number
        return b"%d" % self.total

    def snapshot(self) -> bytes:
        return b"%d %d" % (self.count, self.total)

    def restore(self, state: bytes) -> None:
        self.count, self.total = map(int, state.split())


class Relay(Ordered):
    """Sends what it takes on."""

    name = "relay"

    def process(self, event: CausalEvent) -> Output:
        super().process(event)
        return Output(event.payload, to=TO.origin_hash)


class Place:
    """Three nodes with stores, and two daemons somewhere on them."""

    def __init__(self, folder: Path) -> None:
        self.meshes = Mesh.local_cluster(NODES, stores=[Store.open(folder / str(index)) for index in range(NODES)])
        self.runtimes = [DaemonRuntime(mesh) for mesh in self.meshes]
        for runtime in self.runtimes:
            runtime.register_factory("ordered", Ordered)
            runtime.register_factory("relay", Relay)
            runtime.start()
            runtime.permit_managers([mesh.entity_id for mesh in self.meshes])
        for runtime in self.runtimes:
            for found in runtime.recover().daemons.values():
                # It was about to leave, and belongs to another one.
                if found.error is not None and not isinstance(found.error, NotOwner):
                    raise found.error
        directory = self.meshes[0].directory()
        assert directory is not None
        self.directory = directory
        for kind, identity in (("relay", FROM), ("ordered", TO)):
            if not directory.lineage(identity.origin_hash):
                self.runtimes[1].spawn(kind, identity, CONFIG)
        # What was decided before the kill comes to its end.
        for identity in (FROM, TO):
            self.eventually(partial(self.is_at_one, identity.origin_hash), f"{identity.origin_hash:016x}")

    def is_at_one(self, origin: int) -> bool:
        return len(self.at(origin)) == 1

    def at(self, origin: int) -> list[int]:
        """Return the nodes where a daemon is."""
        return [index for index, runtime in enumerate(self.runtimes) if runtime.find(origin) is not None]

    def eventually(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE.total_seconds()
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: {[(i, self.at(i.origin_hash)) for i in (FROM, TO)]}")
            time.sleep(0.01)

    def count(self, origin: int) -> tuple[int, int]:
        """Return what a daemon counted, wherever it is."""
        found: list[tuple[int, int]] = []

        def look() -> bool:
            for index in self.at(origin):
                try:
                    look_at = self.runtimes[index].with_daemon
                    found.append(look_at(origin, Ordered, lambda daemon: (daemon.count, daemon.total)))
                except MeshOsError:
                    # It went on.
                    continue
                return True
            return False

        self.eventually(look, "counting")
        return found[0]

    def move(self, origin: int, chance: random.Random) -> bool:
        """Move a daemon to another node; whether that came about."""
        here = self.at(origin)
        if len(here) != 1:
            return False
        source = here[0]
        target = chance.choice([index for index in range(NODES) if index != source])
        opts = MigrationOpts(mode=chance.choice(["stop", "live"]), transport_identity=True)
        ids = [mesh.node_id for mesh in self.meshes]
        by = self.runtimes[chance.randrange(NODES)]
        try:
            by.start_migration_with(origin, ids[source], ids[target], opts).wait(PATIENCE)
        except MigrationError as error:
            print("came to nothing:", error, file=sys.stderr, flush=True)
            return False
        return True


def main(folder: Path, events: int, seed: int) -> None:
    """Bring both daemons back, and go on."""
    place = Place(folder)
    count, _ = place.count(FROM.origin_hash)
    print("ready", count, flush=True)
    halt, moves, failures = threading.Event(), [0, 0], list[BaseException]()

    def wander(index: int, origin: int) -> None:
        chance = random.Random(seed * 2 + index)
        try:
            while not halt.is_set():
                moves[index] += place.move(origin, chance)
        except BaseException as error:
            failures.append(error)
            raise

    wanderers = [
        threading.Thread(target=wander, args=(index, identity.origin_hash), daemon=True)
        for index, identity in enumerate((FROM, TO))
    ]
    for wanderer in wanderers:
        wanderer.start()
    chance = random.Random(seed)
    # Some of what was acknowledged comes again.
    last = max(0, count - 5)
    while last < events:
        numbers = range(last + 1, min(events, last + BATCH) + 1)
        sender = place.runtimes[chance.randrange(NODES)]
        sender.send_many(FROM.origin_hash, [CausalEvent.external(FEED, number, b"%d" % number) for number in numbers])
        last = numbers[-1]
        print("at", last, flush=True)
    halt.set()
    for wanderer in wanderers:
        wanderer.join()
    if failures:
        raise failures[0]
    place.eventually(lambda: place.count(TO.origin_hash)[0] >= events, "the rest")
    check(place, folder)
    count, total = place.count(TO.origin_hash)
    print("done", count, total, sum(moves), flush=True)
    for mesh in place.meshes:
        mesh.close()


def is_quiet(orchestrator: MigrationOrchestrator) -> bool:
    """Whether no move is under way that was ordered there."""
    return not orchestrator.list_migrations()


def check(place: Place, folder: Path) -> None:
    """Everything is in one place, whole, and nothing is under way."""
    for runtime in place.runtimes:
        orchestrator = runtime.migration_orchestrator()
        place.eventually(partial(is_quiet, orchestrator), "open moves")
    for identity in (FROM, TO):
        origin = identity.origin_hash
        chance = random.Random(1)
        # Nothing of an earlier move is in the way of another one.
        place.eventually(partial(place.move, origin, chance), "one more move")
        (index,) = place.at(origin)
        runtime = place.runtimes[index]
        assert not runtime.dead_letters(origin)
        lineage = place.directory.lineage(origin)
        assert lineage[-1].node_id == place.meshes[index].node_id
        for before, record in pairwise(lineage):
            record.verify(before)
        file = folder / f"{origin:016x}-{time.time_ns()}"
        runtime.export_chain(origin, file)
        report = verify_chain(file, identity.entity_id)
        assert report.last_sequence == place.count(origin)[0], report


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
