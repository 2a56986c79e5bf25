"""Options of a daemon: by keyword only, each with its range."""

from datetime import timedelta

import pytest

from meshos.daemon import DaemonHostConfig
from meshos.errors import ConfigError
from records import Index, check_record

DEFAULTS: dict[str, object] = {
    "auto_snapshot_interval": 0,
    "max_log_entries": 10_000,
    "delivery": "once",
    "on_error": "raise",
    "durability": "none",
    "on_divergence": "stop",
    "attempts_max": 5,
    "snapshots_max": 2,
    "outputs_max": 10_000,
    "outputs_bytes_max": 67_108_864,
    "outputs_age_max": None,
}
OTHERS: dict[str, object] = {
    "auto_snapshot_interval": 2**64 - 1,
    "max_log_entries": 1,
    "delivery": "at_least_once",
    "on_error": "restore",
    "durability": "journal",
    "on_divergence": "continue",
    "attempts_max": 1,
    "snapshots_max": 1,
    "outputs_max": 0,
    "outputs_bytes_max": 0,
    "outputs_age_max": timedelta(milliseconds=1),
}
LARGEST = {
    "auto_snapshot_interval": 2**64 - 1,
    "max_log_entries": 2**32 - 1,
    "attempts_max": 2**32 - 1,
    "snapshots_max": 2**32 - 1,
    "outputs_max": 2**32 - 1,
    "outputs_bytes_max": 2**64 - 1,
}


def config(**options: object) -> DaemonHostConfig:
    return DaemonHostConfig(**options)  # type: ignore[arg-type]


def test_options_are_a_record() -> None:
    check_record(config(), DEFAULTS, by_keyword=True)
    check_record(config(**OTHERS), OTHERS, by_keyword=True)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_option_may_be_given_alone(name: str) -> None:
    changed = config(**{name: OTHERS[name]})

    assert changed != config()
    assert {field: getattr(changed, field) for field in DEFAULTS} == {**DEFAULTS, name: OTHERS[name]}


@pytest.mark.parametrize(("name", "largest"), LARGEST.items())
def test_numbers_have_a_largest_value(name: str, largest: int) -> None:
    assert getattr(config(**{name: largest}), name) == largest

    for value in (-1, -(2**70), largest + 1, 10**5000, Index(largest + 1)):
        with pytest.raises(ConfigError) as raised:
            config(**{name: value})
        assert raised.value.field == name
        assert "2^" in str(raised.value)


@pytest.mark.parametrize("name", ["max_log_entries", "attempts_max", "snapshots_max"])
def test_what_must_be_one_at_least_is_refused_at_0(name: str) -> None:
    with pytest.raises(ConfigError, match="at least 1") as raised:
        config(**{name: 0})
    assert raised.value.field == name


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("value", ["1", 1.0, None, True, b"1", [1]], ids=repr)
def test_what_is_no_int_is_a_type_error(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        config(**{name: value})


@pytest.mark.parametrize("name", ["delivery", "on_error", "durability", "on_divergence"])
def test_words_are_those_of_the_type(name: str) -> None:
    for value in ("", "Once", "raise ", "\ud800", "keep"):
        with pytest.raises(ConfigError, match="must be") as raised:
            config(**{name: value})
        assert raised.value.field == name
    for wrong in (b"once", 1, None, True):
        with pytest.raises(TypeError, match=name):
            config(**{name: wrong})


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("durability", "snapshot"),
        ("on_divergence", "snapshot_every_event"),
    ],
)
def test_other_words(name: str, word: str) -> None:
    assert getattr(config(**{name: word}), name) == word


def test_an_age_is_a_span_of_one_millisecond_at_least() -> None:
    assert config(outputs_age_max=timedelta(days=7)).outputs_age_max == timedelta(days=7)
    assert config(outputs_age_max=timedelta.max).outputs_age_max is not None
    for wrong in (timedelta(), timedelta(microseconds=999), timedelta(days=-1)):
        with pytest.raises(ConfigError) as raised:
            config(outputs_age_max=wrong)
        assert raised.value.field == "outputs_age_max"
    for value in (1, 1.0, "1", b"1"):
        with pytest.raises(TypeError, match="outputs_age_max"):
            config(outputs_age_max=value)


def test_unknown_options_are_type_errors() -> None:
    with pytest.raises(TypeError, match="retention"):
        config(retention=5)


def test_options_are_given_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        DaemonHostConfig(5)  # type: ignore[call-arg]
