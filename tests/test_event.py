"""Lifecycle events, and how daemons say they are."""

from datetime import timedelta, timezone
from typing import TypeAlias

import pytest

from meshos.daemon import DaemonHealth, DaemonLifecycleEvent, DaemonRef, Degraded, Healthy, Unhealthy
from meshos.events import (
    Crashed,
    DaemonLifecycleSignal,
    ExitedCleanly,
    HealthChanged,
    Registered,
    SaturationChanged,
    Started,
    Unregistered,
)
from records import (
    BAD_INTS,
    BAD_MOMENTS,
    BAD_SHARES,
    BAD_TEXTS,
    NOON,
    Cases,
    check_record,
    check_refused,
    twins,
)

HEALTHS: list[tuple[DaemonHealth, dict[str, object]]] = [
    (Healthy(), {}),
    (Degraded("slow"), {"reason": "slow"}),
    (Degraded(""), {"reason": ""}),
    (Unhealthy(), {"reason": ""}),
    (Unhealthy("no database \N{SKULL}"), {"reason": "no database \N{SKULL}"}),
]
Signal: TypeAlias = Registered | Unregistered | DaemonLifecycleSignal
SIGNALS: list[tuple[Signal, str, dict[str, object]]] = [
    (Registered(), "registered", {}),
    (Unregistered(), "unregistered", {}),
    (Started(), "started", {"at": None}),
    (ExitedCleanly(NOON), "exited_cleanly", {"at": NOON}),
    (Crashed("KeyError: 'a'"), "crashed", {"reason": "KeyError: 'a'", "at": None}),
    (HealthChanged(Degraded("slow")), "health_changed", {"health": Degraded("slow"), "at": None}),
    (SaturationChanged(0.75, NOON), "saturation_changed", {"saturation": 0.75, "at": NOON}),
]
NOT_HEALTH: Cases = [(value, TypeError) for value in (None, "healthy", True, Healthy, Crashed("a"))]
NOT_SIGNALS: Cases = [(value, TypeError) for value in (None, "crashed", Healthy(), Registered)]
NOT_REFS: Cases = [(value, TypeError) for value in (None, 7, "counter", (7, "counter"))]


@pytest.mark.parametrize(("health", "fields"), HEALTHS, ids=repr)
def test_health_is_a_record(health: DaemonHealth, fields: dict[str, object]) -> None:
    check_record(health, fields)


@pytest.mark.parametrize(("signal", "kind", "fields"), SIGNALS, ids=[kind for _, kind, _ in SIGNALS])
def test_signal_is_a_record(signal: Signal, kind: str, fields: dict[str, object]) -> None:
    check_record(signal, fields)
    assert signal.kind == type(signal).kind == kind


@pytest.mark.parametrize(("signal", "kind", "fields"), SIGNALS, ids=[kind for _, kind, _ in SIGNALS])
def test_event_is_a_record(signal: Signal, kind: str, fields: dict[str, object]) -> None:
    daemon = DaemonRef(7, "counter")
    event = DaemonLifecycleEvent(daemon, signal, NOON, 12)

    check_record(event, {"daemon": daemon, "signal": signal, "at": NOON, "number": 12})
    assert event.daemon.name == "counter"
    assert event.at.utcoffset() == timedelta()


def test_health_inside_a_signal_is_read_back() -> None:
    for health, _ in HEALTHS:
        assert HealthChanged(health).health == health
        assert type(HealthChanged(health).health) is type(health)


def test_kinds_of_health_are_not_equal() -> None:
    assert Degraded("a") != Unhealthy("a")
    assert Healthy() == Healthy()
    assert len({health for health, _ in HEALTHS}) == len(HEALTHS)


def test_event_is_matched() -> None:
    match DaemonLifecycleEvent(DaemonRef(7, "counter"), HealthChanged(Unhealthy("gone")), NOON, 1):
        case DaemonLifecycleEvent(DaemonRef(id=7), HealthChanged(Unhealthy(reason)), _, number):
            assert (reason, number) == ("gone", 1)
        case _:
            pytest.fail("an event is matched")


def test_moment_of_another_zone_is_the_same_moment() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=9)))

    event = DaemonLifecycleEvent(DaemonRef(7), Registered(), there, 1)

    assert event == DaemonLifecycleEvent(DaemonRef(7), Registered(), NOON, 1)


# ---------------------------------------------------------------- names of daemons


def test_name_of_a_daemon_is_for_people_and_not_compared() -> None:
    named, other = DaemonRef(7, "counter"), DaemonRef(7, "another")

    assert named == other == DaemonRef(7)
    assert hash(named) == hash(other)
    assert named != DaemonRef(8, "counter")
    assert DaemonRef(7).name == ""


def test_reference_is_a_record() -> None:
    check_record(DaemonRef(7, "counter"), {"id": 7, "name": "counter"})
    for twin in twins(DaemonRef(7, "counter")):
        assert isinstance(twin, DaemonRef)
        assert twin.name == "counter"


def test_bad_arguments_are_refused() -> None:
    event = {"daemon": DaemonRef(7), "signal": Registered(), "at": NOON, "number": 1}
    bad: dict[str, Cases] = {"daemon": NOT_REFS, "signal": NOT_SIGNALS, "at": BAD_MOMENTS, "number": BAD_INTS}
    check_refused(DaemonLifecycleEvent, event, bad)
    check_refused(DaemonRef, {"id": 7, "name": "a"}, {"id": BAD_INTS, "name": BAD_TEXTS})
    for cls in (Degraded, Unhealthy, Crashed):
        check_refused(cls, {"reason": "a"}, {"reason": BAD_TEXTS})
    check_refused(HealthChanged, {"health": Healthy()}, {"health": NOT_HEALTH})
    check_refused(SaturationChanged, {"saturation": 0.5}, {"saturation": BAD_SHARES})
    for empty in (Healthy, Registered, Unregistered):
        with pytest.raises(TypeError):
            empty(1)  # type: ignore[call-arg]
