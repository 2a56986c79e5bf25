"""Probes: who is installed, and what a probe must be."""

import gc
import threading
import weakref
from collections.abc import Iterable
from datetime import timedelta

import pytest

from meshos.probes import (
    HealthProbe,
    InventoryProbe,
    LocalityProbe,
    NodeHealth,
    PeerInventory,
    ProbeCounts,
    ProbeRegistry,
)


class Pings(LocalityProbe):
    """Knows one round trip."""

    known: object = None

    def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
        return [(2, timedelta(milliseconds=3))]


class Beats(HealthProbe):
    """Knows that one node is well."""

    def health_samples(self) -> Iterable[tuple[int, NodeHealth]]:
        return [(2, NodeHealth.HEALTHY)]


class Stock(InventoryProbe):
    """Knows what one node has."""

    def inventory_samples(self) -> Iterable[tuple[int, PeerInventory]]:
        return [(2, PeerInventory(cpu_load_1m=0.5))]


class Both(Pings, Beats):
    """Is two probes at once."""


def test_counts_are_of_each_kind_and_clearing_one_leaves_the_others() -> None:
    registry = ProbeRegistry()
    assert registry.probe_counts() == ProbeCounts(0, 0, 0)
    registry.add_locality_probe(Pings())
    registry.add_health_probe(Beats())
    registry.add_health_probe(Beats())
    registry.add_inventory_probe(Stock())
    assert registry.probe_counts() == ProbeCounts(locality=1, health=2, inventory=1)
    assert repr(registry) == "ProbeRegistry(<1 of round trips, 2 of health, 1 of inventories>)"

    registry.clear_health_probes()
    assert registry.probe_counts() == ProbeCounts(1, 0, 1)
    registry.clear_locality_probes()
    registry.clear_inventory_probes()
    assert registry.probe_counts() == ProbeCounts(0, 0, 0)
    registry.add_health_probe(Beats())
    assert registry.probe_counts() == ProbeCounts(0, 1, 0)


def test_one_probe_is_taken_out_wherever_it_was_added() -> None:
    registry, both, other = ProbeRegistry(), Both(), Pings()
    registry.add_locality_probe(both)
    registry.add_health_probe(both)
    registry.add_locality_probe(other)

    assert registry.remove(both)
    assert registry.probe_counts() == ProbeCounts(1, 0, 0)
    assert not registry.remove(both)
    assert registry.remove(other)
    assert not registry.remove(Beats())


def test_counts_are_of_one_moment() -> None:
    registry, end = ProbeRegistry(), threading.Event()

    def churn() -> None:
        both = Both()
        while not end.is_set():
            registry.add_locality_probe(both)
            registry.remove(both)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(2000):
            assert registry.probe_counts() in (ProbeCounts(0, 0, 0), ProbeCounts(1, 0, 0))
    finally:
        end.set()
        thread.join()


def test_an_object_with_the_method_is_a_probe() -> None:
    class Duck:
        def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
            return []

    class Generates(LocalityProbe):
        def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
            yield 2, timedelta(0)

    class Waits(LocalityProbe):
        async def rtt_samples(self) -> Iterable[tuple[int, timedelta]]:
            return []

    registry = ProbeRegistry()
    registry.add_locality_probe(Duck())  # type: ignore[arg-type]
    registry.add_locality_probe(Generates())
    registry.add_locality_probe(Waits())

    assert registry.probe_counts().locality == 3


def test_what_is_no_probe_is_refused_with_the_reason() -> None:
    class Needs(LocalityProbe):
        def rtt_samples(self, node: int) -> Iterable[tuple[int, timedelta]]:  # type: ignore[override]
            return []

    class Attribute:
        rtt_samples = 7

    cases: list[tuple[object, str]] = [
        (None, "probe must be a LocalityProbe: NoneType has no method `rtt_samples`"),
        (Pings, "probe must be a LocalityProbe: Pings is a class, give an instance of it"),
        (Beats(), "probe must be a LocalityProbe: Beats has no method `rtt_samples`"),
        (Attribute(), "Attribute has no method `rtt_samples`"),
        (Needs(), "Needs.rtt_samples` cannot be called with no argument"),
    ]
    registry = ProbeRegistry()
    for probe, message in cases:
        with pytest.raises(TypeError) as caught:
            registry.add_locality_probe(probe)  # type: ignore[arg-type]
        assert str(caught.value).endswith(message), str(caught.value)
    assert registry.probe_counts() == ProbeCounts(0, 0, 0)
    for abstract in (LocalityProbe, HealthProbe, InventoryProbe):
        with pytest.raises(TypeError, match="abstract"):
            abstract()  # type: ignore[abstract]


def test_a_cycle_through_a_probe_is_collected() -> None:
    registry, probe = ProbeRegistry(), Pings()
    probe.known = registry
    registry.add_locality_probe(probe)
    seen = weakref.ref(probe)
    del registry, probe
    gc.collect()

    assert seen() is None


def test_a_probe_that_left_is_let_go_at_once() -> None:
    registry, probe = ProbeRegistry(), Pings()
    seen = weakref.ref(probe)
    registry.add_locality_probe(probe)
    registry.remove(probe)
    del probe

    assert seen() is None
