"""The counters of a daemon."""

from meshos.daemon import DaemonStats
from records import BAD_INTS, check_record, check_refused

NAMES = ("events_processed", "events_emitted", "duplicates", "errors", "snapshots_taken", "restarts")


def test_counters_are_a_record() -> None:
    fields: dict[str, int] = dict(zip(NAMES, range(1, 7), strict=True))
    check_record(DaemonStats(**fields), fields, by_keyword=True)


def test_counters_that_differ_in_one_are_not_equal() -> None:
    zeros = dict.fromkeys(NAMES, 0)

    for name in NAMES:
        assert DaemonStats(**{**zeros, name: 1}) != DaemonStats(**zeros)


def test_bad_arguments_are_refused() -> None:
    check_refused(DaemonStats, dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, BAD_INTS))
