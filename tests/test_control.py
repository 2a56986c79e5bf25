"""Controls: what a node tells its daemons."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshos.control import (
    BackpressureOff,
    BackpressureOn,
    DaemonControl,
    DrainFinish,
    DrainStart,
    Resume,
    Shutdown,
)
from records import BAD_MOMENTS, BAD_SHARES, BAD_SPANS, NOON, check_record, check_refused

SPAN = timedelta(seconds=30, microseconds=1)
CONTROLS: list[tuple[DaemonControl, str, dict[str, object]]] = [
    (Shutdown(SPAN, NOON), "shutdown", {"grace": SPAN, "deadline": NOON}),
    (DrainStart(SPAN, NOON), "drain_start", {"grace": SPAN, "deadline": NOON}),
    (DrainFinish(), "drain_finish", {}),
    (Resume(), "resume", {}),
    (BackpressureOn(0.25), "backpressure_on", {"level": 0.25}),
    (BackpressureOff(), "backpressure_off", {}),
]


@pytest.mark.parametrize(("control", "kind", "fields"), CONTROLS, ids=[kind for _, kind, _ in CONTROLS])
def test_control_is_a_record(control: DaemonControl, kind: str, fields: dict[str, object]) -> None:
    check_record(control, fields)
    assert control.kind == type(control).kind == kind


def test_controls_of_different_kinds_are_not_equal() -> None:
    assert len({control for control, _, _ in CONTROLS}) == len(CONTROLS)
    assert Shutdown(SPAN, NOON) != DrainStart(SPAN, NOON)


def test_control_is_matched() -> None:
    def told(control: DaemonControl) -> str:
        match control:
            case Shutdown(grace=grace) | DrainStart(grace, _):
                return f"{grace.seconds} s"
            case BackpressureOn(level):
                return f"{level:.0%}"
            case _:
                return control.kind

    assert [told(control) for control, _, _ in CONTROLS] == [
        "30 s",
        "30 s",
        "drain_finish",
        "resume",
        "25%",
        "backpressure_off",
    ]


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)), st.integers(-23, 23))
def test_deadline_is_the_same_moment_in_utc(naive: datetime, hours: int) -> None:
    deadline = naive.replace(tzinfo=timezone(timedelta(hours=hours)))

    kept = Shutdown(timedelta(), deadline).deadline

    assert kept == deadline
    assert kept.utcoffset() == timedelta()


@given(st.timedeltas(timedelta(), timedelta.max))
def test_grace_is_exact(grace: timedelta) -> None:
    assert DrainStart(grace, NOON).grace == grace


@given(st.floats(0, 1))
def test_level_is_exact(level: float) -> None:
    assert BackpressureOn(level).level == level
    assert hash(BackpressureOn(level)) == hash(BackpressureOn(level))


def test_whole_numbers_are_levels_too() -> None:
    assert BackpressureOn(1) == BackpressureOn(1.0)
    assert BackpressureOn(-0.0) == BackpressureOn(0)
    assert hash(BackpressureOn(-0.0)) == hash(BackpressureOn(0))


def test_bad_arguments_are_refused() -> None:
    for cls in (Shutdown, DrainStart):
        check_refused(cls, {"grace": SPAN, "deadline": NOON}, {"grace": BAD_SPANS, "deadline": BAD_MOMENTS})
    check_refused(BackpressureOn, {"level": 0.5}, {"level": BAD_SHARES})
    for empty in (DrainFinish, Resume, BackpressureOff):
        with pytest.raises(TypeError):
            empty(1)  # type: ignore[call-arg]
