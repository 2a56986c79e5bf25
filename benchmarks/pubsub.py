"""What a publish costs beside many subscriptions.

A channel with one reader is measured alone, beside 10,000 subscriptions of other channels of the node, and a channel
with 10,000 subscriptions of daemons at one other node. Each cell is microseconds for a message, from the first publish
until the last reader has the last one, and the cost of the call of `publish` alone. One JSON line goes to stdout.

How meshos stands beside the nearest package is measured by `make bench-peer PEER_SCRIPTS=pubsub_rate`.
"""

import argparse
import json
import time
from datetime import timedelta

from meshos import Backpressure, CausalEvent, ChannelName, DaemonRuntime, Identity, Mesh, MeshDaemon
from meshos.stream import Stream

PATIENCE = timedelta(seconds=60)


class Counter(MeshDaemon):
    """Counts what it is given."""

    name = "counter"

    def __init__(self) -> None:
        self.count = 0

    def process(self, event: CausalEvent) -> None:
        self.count += 1


def publish(mesh: Mesh, channel: ChannelName, payload: bytes) -> None:
    """Publish, waiting for room."""
    while True:
        try:
            mesh.publish(channel, payload)
            return
        except Backpressure:
            time.sleep(0.00005)


def one_reader(plant: Mesh, stream: Stream[object], channel: ChannelName, messages: int) -> dict[str, float]:
    """Measure a channel that one reader reads."""
    payload = b"." * 64
    began = time.perf_counter()
    for _ in range(messages):
        publish(plant, channel, payload)
    published = time.perf_counter()
    for _ in range(messages):
        stream.receive(timeout=PATIENCE)
    ended = time.perf_counter()
    return {"publish_us": (published - began) / messages * 1e6, "message_us": (ended - began) / messages * 1e6}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=5_000)
    args = parser.parse_args()
    hot, crowd = ChannelName("bench/hot"), ChannelName("bench/crowd")
    results: dict[str, dict[str, float]] = {}
    plant, office = Mesh.local_cluster(2)
    with DaemonRuntime(office) as runtime:
        runtime.register_factory("counter", Counter)
        runtime.start()
        stream = office.subscribe(plant.node_id, hot, buffer_max=1 << 15)
        one_reader(plant, stream, hot, args.messages)
        results["one reader"] = one_reader(plant, stream, hot, args.messages)
        reader = runtime.spawn("counter", Identity.generate()).origin_hash
        began = time.perf_counter()
        for number in range(args.subscriptions):
            runtime.subscribe_channel(reader, plant.node_id, ChannelName(f"bench/other/{number}"))
        took = time.perf_counter() - began
        results["subscribe"] = {"us": took / args.subscriptions * 1e6}
        results[f"one reader beside {args.subscriptions} other subscriptions"] = one_reader(
            plant, stream, hot, args.messages
        )
        daemons = [runtime.spawn("counter", Identity.generate()).origin_hash for _ in range(args.subscriptions)]
        for daemon in daemons:
            runtime.subscribe_channel(daemon, plant.node_id, crowd)
        began = time.perf_counter()
        publish(plant, crowd, b"." * 64)
        called = time.perf_counter() - began
        for daemon in daemons:
            runtime.wait_for(daemon, Counter, lambda counter: counter.count >= 1, timeout=PATIENCE)
        results[f"{args.subscriptions} readers"] = {
            "publish_us": called * 1e6,
            "reader_us": (time.perf_counter() - began) / args.subscriptions * 1e6,
        }
    print(json.dumps({"bench": "pubsub", "results": results}))
    plant.close()
    office.close()


if __name__ == "__main__":
    main()
