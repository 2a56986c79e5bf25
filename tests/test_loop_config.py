"""Options of the behaviour loop: by keyword only, each with its range."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple, TypeAlias

import pytest

from meshos.errors import ConfigError
from meshos.runtime import (
    BackoffConfig,
    BackpressureConfig,
    LocalityConfig,
    MaintenanceConfig,
    MeshOsConfig,
    SchedulerConfig,
)
from records import Index, check_record

MS, SECOND, MINUTE = timedelta(milliseconds=1), timedelta(seconds=1), timedelta(minutes=1)
CENTURY = timedelta(days=100 * 366)
TINY = timedelta(microseconds=1)
NAN, INFINITY = float("nan"), float("inf")


class Option(NamedTuple):
    """One option: its default, another good value, values out of range, values of a wrong type."""

    default: object
    other: object
    out_of_range: tuple[object, ...]
    wrong_type: tuple[object, ...]


NOT_SPANS = (0, 1.5, "1 s", None, True)
NOT_NUMBERS = ("0.5", None, True, b"", [0.5])
NOT_INTS = ("1", 1.0, None, True, b"1", [1])
BELOW_ZERO = (-TINY, timedelta.min)
TOO_LARGE = (-1, 2**32, 2**64, 10**5000, Index(2**32))


def span(default: timedelta) -> Option:
    return Option(
        default, default + MS, (*BELOW_ZERO, timedelta(), MS - TINY, CENTURY + TINY, timedelta.max), NOT_SPANS
    )


def span_or_zero(default: timedelta) -> Option:
    return Option(default, timedelta(), (*BELOW_ZERO, CENTURY + TINY, timedelta.max), NOT_SPANS)


def count(default: int, *, least: int = 1, also: tuple[object, ...] = ()) -> Option:
    return Option(default, default + 1, (*TOO_LARGE, *range(least), *also), NOT_INTS)


def share(default: float, *, also: tuple[object, ...] = ()) -> Option:
    return Option(default, 1.0, (-0.001, 1.001, NAN, INFINITY, -INFINITY, 2, 10**400, *also), NOT_NUMBERS)


def number(default: float, least: float) -> Option:
    return Option(default, default + 0.5, (least - 0.001, NAN, INFINITY, -INFINITY, 10**400), NOT_NUMBERS)


def part(cls: Callable[[], object], other: object) -> Option:
    return Option(cls(), other, (), (None, cls, {}, "default", LocalityConfig if cls is not LocalityConfig else 1))


Options: TypeAlias = Mapping[str, Option]
TABLE: dict[Callable[..., object], Options] = {
    BackpressureConfig: {
        "pull_cooldown": span_or_zero(250 * MS),
        "drain_rate_per_zone_per_sec": count(10),
        "replica_stabilization_window": span_or_zero(MINUTE),
        "cluster_backpressure_threshold": count(1000, also=(200, 1)),
        "cluster_backpressure_release": count(200, least=0, also=(1000, 1001)),
        "max_defer_count": count(16),
    },
    LocalityConfig: {"degraded_rtt_threshold": span(250 * MS), "avoid_ttl": span(5 * MINUTE)},
    MaintenanceConfig: {
        "default_drain_deadline": span(10 * MINUTE),
        "exit_deadline": span(10 * MINUTE),
        "recovery_ramp_window": span_or_zero(5 * MINUTE),
        "stop_grace": span_or_zero(30 * SECOND),
    },
    SchedulerConfig: {
        "score_floor": share(0.5),
        "hysteresis_gap": number(0.2, 0),
        "cooldown": span_or_zero(5 * MINUTE),
        "decision_interval": span(30 * SECOND),
        "cost_per_sec": number(0.1, 0),
        "moves_in_flight_max": count(4),
    },
    BackoffConfig: {
        "initial": span(500 * MS),
        "factor": number(2.0, 1),
        "maximum": span(MINUTE),
        "jitter": share(0.2),
        "crash_loop_threshold": count(5, also=(1001,)),
        "crash_loop_window": span(MINUTE),
        "crash_loop_cooldown": span(5 * MINUTE),
        "stable_run_threshold": span(MINUTE),
    },
    MeshOsConfig: {
        "this_node": Option(None, 2**64 - 1, (-1, 2**64), ("1", 1.0, True, b"1")),
        "tick_interval": Option(
            500 * MS, timedelta(hours=1), (*BELOW_ZERO, timedelta(), timedelta(hours=1) + TINY), NOT_SPANS
        ),
        "event_queue_capacity": count(1024, also=(2**24 + 1,)),
        "action_queue_capacity": count(1024, also=(2**24 + 1,)),
        "callback_budget": share(0.2, also=(0, 0.0, -0.0)),
        "authority": Option("verified", "open", ("", "Open", "refused", "\ud800"), (b"open", 1, None, True)),
        "audit": Option("best_effort", "required", ("", "best-effort", "Required"), (b"required", 1, None, True)),
        "seed": Option(None, 0, (-1, 2**64), ("1", 1.0, True, b"1")),
        "backpressure": part(BackpressureConfig, BackpressureConfig(max_defer_count=1)),
        "locality": part(LocalityConfig, LocalityConfig(avoid_ttl=MS)),
        "maintenance": part(MaintenanceConfig, MaintenanceConfig(stop_grace=MS)),
        "scheduler": part(SchedulerConfig, SchedulerConfig(moves_in_flight_max=1)),
        "backoff": part(BackoffConfig, BackoffConfig(jitter=0)),
    },
}
EVERY = [(cls, name) for cls, options in TABLE.items() for name in options]

every_class = pytest.mark.parametrize("cls", TABLE)
every_option = pytest.mark.parametrize(("cls", "name"), EVERY)


@every_class
def test_options_are_a_record(cls: Callable[..., object]) -> None:
    check_record(cls(), {name: option.default for name, option in TABLE[cls].items()}, by_keyword=True)
    others = {name: option.other for name, option in TABLE[cls].items()}
    check_record(cls(**others), others, by_keyword=True)
    assert cls(**others) != cls()


@every_option
def test_every_option_may_be_given_alone(cls: Callable[..., object], name: str) -> None:
    changed = cls(**{name: TABLE[cls][name].other})

    assert changed != cls()
    for each, option in TABLE[cls].items():
        assert getattr(changed, each) == (option.other if each == name else option.default)


@every_option
def test_what_is_out_of_range_is_a_config_error(cls: Callable[..., object], name: str) -> None:
    for value in TABLE[cls][name].out_of_range:
        with pytest.raises(ConfigError, match="must") as raised:
            cls(**{name: value})
        # A rule between two options is told of one of them.
        assert raised.value.field == name or name in str(raised.value)


@every_option
def test_what_is_of_another_type_is_a_type_error(cls: Callable[..., object], name: str) -> None:
    for value in TABLE[cls][name].wrong_type:
        with pytest.raises(TypeError, match=name):
            cls(**{name: value})


@every_class
def test_unknown_options_are_type_errors(cls: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="blobs"):
        cls(blobs=True)


@every_class
def test_options_are_given_by_keyword_only(cls: Callable[..., object]) -> None:
    with pytest.raises(TypeError):
        cls(1)


@every_class
def test_options_say_what_they_are(cls: Callable[..., object]) -> None:
    assert "`ConfigError`" in (cls.__doc__ or "")
    for name in TABLE[cls]:
        assert getattr(cls, name).__doc__


def test_the_ends_of_a_range_are_in_it() -> None:
    assert LocalityConfig(avoid_ttl=CENTURY).avoid_ttl == CENTURY
    assert LocalityConfig(avoid_ttl=MS).avoid_ttl == MS
    assert MeshOsConfig(callback_budget=1).callback_budget == 1.0
    assert BackoffConfig(crash_loop_threshold=1000, factor=1).factor == 1.0
    assert MeshOsConfig(event_queue_capacity=2**24, action_queue_capacity=1).action_queue_capacity == 1


def test_two_options_may_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="must not be below initial"):
        BackoffConfig(initial=2 * SECOND, maximum=SECOND)
    with pytest.raises(ConfigError, match="must be below cluster_backpressure_threshold"):
        BackpressureConfig(cluster_backpressure_threshold=10, cluster_backpressure_release=10)


def test_words_are_those_of_the_type() -> None:
    with pytest.raises(ConfigError, match='must be "verified" or "open", not "closed"'):
        MeshOsConfig(authority="closed")  # type: ignore[arg-type]
