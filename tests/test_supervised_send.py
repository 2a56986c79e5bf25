"""Sending to a daemon that the behaviour loop watches over."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from meshos import CausalEvent, Identity, Mesh, MeshDaemon, ProcessFailed, SendTimeout
from meshos.events import DaemonIntent
from meshos.node import Node
from meshos.runtime import BackoffConfig, MeshOsConfig

POISON = b"poison"


class Adder(MeshDaemon):
    name = "adder"

    def __init__(self) -> None:
        self.total = 0

    def process(self, event: CausalEvent) -> None:
        if event.payload == POISON:
            self.total = -1
            raise ValueError("on purpose")
        self.total += int(event.payload)

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, state: bytes) -> None:
        self.total = int(state)


def started(backoff: timedelta) -> Node:
    config = MeshOsConfig(backoff=BackoffConfig(initial=backoff, maximum=timedelta(minutes=2)))
    return Node(Mesh.local(), kinds={Adder.name: Adder}, config=config)


def adder(node: Node) -> int:
    key = node.daemons.spawn(Adder.name, Identity.generate()).origin_hash
    node.runtime.set_intent(key, DaemonIntent.RUN)
    return key


@pytest.fixture
def node() -> Iterator[Node]:
    with started(timedelta(milliseconds=20)) as node:
        yield node


def test_a_batch_that_fails_is_told_at_once_and_not_when_the_daemon_is_back() -> None:
    with started(timedelta(minutes=1)) as node:
        key = adder(node)
        with pytest.raises(ProcessFailed) as failed:
            # Nobody starts it again in time: what waits for the daemon runs into its timeout.
            node.daemons.send_many(key, [b"1", POISON, b"2", b"3"], timeout=timedelta(seconds=20))
        assert failed.value.event_sequence == 2
        with pytest.raises(SendTimeout):
            node.daemons.send(key, b"4", timeout=timedelta(milliseconds=10))


def test_what_follows_a_batch_that_failed_takes_effect_once_and_in_order(node: Node) -> None:
    key = adder(node)
    feed = [CausalEvent.external(7, number, b"%d" % number) for number in range(1, 101)]
    feed[49] = CausalEvent.external(7, 50, POISON)
    with pytest.raises(ProcessFailed) as failed:
        node.daemons.send_many(key, feed)
    assert failed.value.event_sequence == 50

    receipts = node.daemons.send_many(key, feed[50:])

    assert [receipt.event_sequence for receipt in receipts] == list(range(51, 101))
    assert not any(receipt.duplicate for receipt in receipts)
    assert node.daemons.with_daemon(key, Adder, lambda daemon: daemon.total) == sum(range(101)) - 50


def test_a_stop_and_a_start_are_no_restart(node: Node) -> None:
    key = adder(node)
    reader, wait = node.runtime.snapshot_reader(), timedelta(seconds=20)
    with pytest.raises(ProcessFailed):
        node.daemons.send(key, POISON)
    node.daemons.send(key, b"1")
    reader.wait_for(lambda s: s.daemons[key].restarts == 1, timeout=wait)

    node.runtime.set_intent(key, DaemonIntent.STOP)
    reader.wait_for(lambda s: s.daemons[key].lifecycle == "stopped", timeout=wait)
    node.runtime.set_intent(key, DaemonIntent.RUN)
    shown = reader.wait_for(lambda s: s.daemons[key].lifecycle == "running", timeout=wait).daemons[key]

    assert shown.restarts == 1
    assert node.daemons.with_daemon(key, Adder, lambda daemon: daemon.total) == 1
