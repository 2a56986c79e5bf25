"""Records, streams and controls of an operated node: where they begin, what they cost, and who hears what."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from daemons import PATIENCE, Counter, node, spawned
from loops import CONFIG, TICK, TIMEOUT, Calls, Recorder, Seen, command, seen, wanted
from meshos import Identity, MeshOsConfig, MeshOsRuntime
from meshos.control import BackpressureOff, BackpressureOn, DaemonControl, DrainStart, Resume
from meshos.dispatch import LoggingDispatcher, MeshOsAction
from meshos.errors import LoopClosed, WaitTimeout
from meshos.events import Cordon, EnterMaintenance, ExitMaintenance, LogLevel, LogLine, MeshOsEvent, RttSample, Uncordon
from meshos.operator import AuditQuery, LogFilter
from meshos.probes import LocalityProbe
from meshos.runtime import BackpressureConfig
from meshos.status import EnteringMaintenance
from meshos.stream import Gap
from signing import operated

if TYPE_CHECKING:
    from collections.abc import Iterable

MINUTE = timedelta(minutes=1)
SHORT = timedelta(milliseconds=20)


# ---------------------------------------------------------------- where records begin


def test_two_runs_share_nothing_and_each_counts_from_one() -> None:
    with ExitStack() as stack:
        decks = [stack.enter_context(operated(LoggingDispatcher())) for _ in range(4)]
        assert {deck.runtime.snapshot().audit_head_seq for deck in decks} == {0}
        numbers = [[deck.order(Cordon(5)).audit_seq, deck.order(Uncordon(5)).audit_seq] for deck in decks]
        epochs = {deck.runtime.snapshot().runtime_epoch_id for deck in decks}

    assert numbers == [[1, 2]] * 4
    assert len(epochs) == 4


def test_records_are_read_page_by_page() -> None:
    with operated(LoggingDispatcher()) as deck:
        for peer in range(2, 9):
            deck.order(Cordon(peer))
        assert deck.runtime.snapshot().audit_head_seq == 7
        pages, last = [], 0
        while page := deck.runtime.audits(since=last, limit=3):
            pages.append([record.seq for record in page])
            last = page[-1].seq
        head = deck.runtime.snapshot().audit_head_seq
        deck.order(Cordon(9))
        assert [record.event for record in deck.client.audit(AuditQuery(since=head))] == [Cordon(9)]

    assert pages == [[1, 2, 3], [4, 5, 6], [7]]
    with operated(LoggingDispatcher()) as deck:
        # Who has the epoch of the run before begins with the first record again.
        deck.order(Cordon(5))
        assert [record.seq for record in deck.runtime.audits()] == [1]


def test_lines_are_filtered_by_all_conditions() -> None:
    with operated(LoggingDispatcher()) as deck:
        handle = deck.runtime.handle()
        for level in (LogLevel.DEBUG, LogLevel.WARN, LogLevel.ERROR):
            for daemon in (None, 7):
                handle.publish(LogLine(level, f"{level} {daemon}", daemon=daemon))

        def found(wanted: LogFilter) -> list[str]:
            with deck.client.logs(wanted) as lines:
                heard: list[str] = []
                while True:
                    try:
                        line = lines.receive(timeout=SHORT)
                    except WaitTimeout:
                        return heard
                    assert not isinstance(line, Gap)
                    heard.append(line.message)

        assert found(LogFilter(min_level=LogLevel.WARN, daemon=7)) == ["warn 7", "error 7"]
        assert found(LogFilter(min_level=LogLevel.ERROR, node=1)) == ["error None", "error 7"]
        assert found(LogFilter(node=2)) == []
        assert found(LogFilter(since=4)) == ["error None", "error 7"]


# ---------------------------------------------------------------- streams


def test_a_stream_that_waited_in_vain_hears_the_next_record() -> None:
    with operated(LoggingDispatcher()) as deck, deck.client.audit_stream() as records:
        for peer in (5, 6, 7):
            with pytest.raises(WaitTimeout):
                records.receive(timeout=SHORT)
            deck.order(Cordon(peer))
            record = records.receive(timeout=TIMEOUT)
            assert not isinstance(record, Gap)
            assert record.event == Cordon(peer)


def test_what_has_ended_costs_nothing() -> None:
    with operated(LoggingDispatcher()) as deck:
        client = deck.client
        streams = [client.audit_stream(), client.failures(), client.logs(), client.snapshots()]
        deck.order(Cordon(5))
    for stream in streams:
        # What it has not given yet, and then nothing, at once and whoever asks.
        assert len(list(stream)) <= 2
        with pytest.raises(LoopClosed):
            stream.receive(timeout=None)
    before = time.process_time()
    threading.Event().wait(0.5)
    assert time.process_time() - before < 0.25
    assert client.status().peers[5].cordoned


# ---------------------------------------------------------------- floods


class Ticks(LocalityProbe):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)

    def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
        self.asked.release()
        return ()


def test_a_flood_starves_neither_ticks_nor_commands() -> None:
    ticks, stop, published = Ticks(), threading.Event(), Seen()
    batch: list[MeshOsEvent] = [RttSample(2 + number % 8, timedelta(milliseconds=number)) for number in range(256)]

    with operated(LoggingDispatcher()) as deck:

        def flood() -> None:
            while not stop.is_set():
                deck.runtime.handle().publish_many(batch)
                published.add(1)

        deck.runtime.probe_registry().add_locality_probe(ticks)
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            published.first(20)
            for peer in range(20, 25):
                for _ in range(4):
                    assert ticks.asked.acquire(timeout=PATIENCE)
                deck.order(Cordon(peer))
            published.first(40)
        finally:
            stop.set()
            flooding.join(PATIENCE)
        assert set(range(2, 10)) <= set(deck.runtime.snapshot().peers)


# ---------------------------------------------------------------- who comes late


def test_who_listens_late_hears_what_holds() -> None:
    with node(counter=Counter) as daemons:
        origin = daemons.spawn("counter", Identity.generate()).origin_hash
        with MeshOsRuntime.start(CONFIG, Calls(), daemon_registry=daemons.daemon_registry()) as runtime:
            author = runtime.daemon_handle(origin)
            runtime.handle().publish(command(EnterMaintenance(1, MINUTE)))
            with author.controls() as early:
                eventually_drains(early.receive(timeout=TIMEOUT))
            with author.controls() as late:
                eventually_drains(late.receive(timeout=TIMEOUT))
                runtime.handle().publish(command(ExitMaintenance(1)))
                assert isinstance(late.receive(timeout=TIMEOUT), Resume)
            with author.controls() as later, pytest.raises(WaitTimeout):
                later.receive(timeout=SHORT)


def eventually_drains(control: DaemonControl) -> None:
    assert isinstance(control, DrainStart)
    assert timedelta(0) < control.grace <= MINUTE


class Told(Counter):
    """Keeps what it hears."""

    name = "told"

    def __init__(self) -> None:
        super().__init__()
        self.heard = Seen()

    def on_control(self, control: DaemonControl) -> None:
        self.heard.add(control)


def test_a_daemon_that_comes_late_hears_of_pressure() -> None:
    go_on = threading.Event()

    def hold(_: MeshOsAction) -> None:
        assert go_on.wait(6 * PATIENCE)

    config = MeshOsConfig(
        this_node=1,
        tick_interval=TICK,
        authority="open",
        action_queue_capacity=20,
        backpressure=BackpressureConfig(cluster_backpressure_threshold=10, cluster_backpressure_release=2),
    )
    with (
        node() as daemons,
        MeshOsRuntime.start(config, Recorder(hold), daemon_registry=daemons.daemon_registry()) as runtime,
    ):
        early, late = Told(), Told()
        spawned(daemons, early)
        runtime.handle().publish_many([wanted(number) for number in range(1, 31)])
        assert isinstance(early.heard.first(1)[0], BackpressureOn)
        spawned(daemons, late)
        assert isinstance(late.heard.first(1)[0], BackpressureOn)
        go_on.set()
        late.heard.until(lambda values: any(isinstance(value, BackpressureOff) for value in values))


def test_a_daemon_that_comes_late_hears_of_a_drain() -> None:
    with (
        node() as daemons,
        MeshOsRuntime.start(CONFIG, Calls(), daemon_registry=daemons.daemon_registry()) as runtime,
    ):
        late, calm = Told(), Told()
        runtime.handle().publish(command(EnterMaintenance(1, MINUTE)))
        seen(runtime, lambda s: isinstance(s.local_maintenance, EnteringMaintenance))
        spawned(daemons, late)
        (heard,) = late.heard.first(1)
        assert isinstance(heard, DrainStart)
        assert heard.grace <= MINUTE
        runtime.handle().publish(command(ExitMaintenance(1)))
        late.heard.until(lambda values: isinstance(values[-1], Resume))
        origin = spawned(daemons, calm)
        seen(runtime, lambda s: origin in s.daemons and s.daemons[origin].lifecycle == "running")
        assert calm.heard.values == []
