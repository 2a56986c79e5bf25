"""A process with two nodes: a daemon of one sends each event that it takes to a daemon of the other. It is killed.

`python relay.py FOLDER EVENTS` says `ready`, `at N` when so many events were acknowledged, and `done COUNT TOTAL`.
"""

import sys
from datetime import timedelta
from pathlib import Path

from meshos import CausalEvent, DaemonHostConfig, DaemonRuntime, Identity, Mesh, MeshDaemon, Output, Store

FROM, TO = Identity.from_seed(b"\x0a" * 32), Identity.from_seed(b"\x0b" * 32)
CONFIG = DaemonHostConfig(durability="journal", auto_snapshot_interval=50)
FEED = 77
BATCH = 20


class Relay(MeshDaemon):
    """Sends what it takes on."""

    name = "relay"

    def process(self, event: CausalEvent) -> Output:
        return Output(event.payload, to=TO.origin_hash)


class Sum(MeshDaemon):
    """Adds up, and wants the numbers in order, each once."""

    name = "sum"

    def __init__(self) -> None:
        self.count = 0
        self.total = 0

    def process(self, event: CausalEvent) -> None:
        number = int(event.payload)
        if number != self.count + 1:
            raise ValueError(f"{number} came after {self.count}")
        self.count = number
        self.total += number

    def snapshot(self) -> bytes:
        return b"%d %d" % (self.count, self.total)

    def restore(self, state: bytes) -> None:
        self.count, self.total = map(int, state.split())


def main(folder: Path, events: int) -> None:
    """Bring both daemons back, and go on."""
    stores = [Store.open(folder / name) for name in ("one", "two")]
    meshes = Mesh.local_cluster(2, stores=stores)
    one, two = (DaemonRuntime(mesh) for mesh in meshes)
    last = 0
    for runtime, kind, identity in ((one, Relay, FROM), (two, Sum, TO)):
        runtime.register_factory(kind.name, kind)
        runtime.start()
        found = runtime.recover().daemons.get(identity.origin_hash)
        if found is None:
            runtime.spawn(kind.name, identity, CONFIG)
        elif found.error is not None:
            raise found.error
        elif kind is Relay:
            last = found.cursors.get(FEED, 0)
    print("ready", flush=True)
    while last < events:
        numbers = range(last + 1, min(events, last + BATCH) + 1)
        one.deliver_many(FROM.origin_hash, [CausalEvent.external(FEED, number, b"%d" % number) for number in numbers])
        last = numbers[-1]
        print("at", last, flush=True)
    two.wait_for(TO.origin_hash, Sum, lambda daemon: daemon.count >= events, timeout=timedelta(seconds=60))
    count, total = two.with_daemon(TO.origin_hash, Sum, lambda daemon: (daemon.count, daemon.total))
    print("done", count, total, len(two.dead_letters(TO.origin_hash)), flush=True)
    for mesh in meshes:
        mesh.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
