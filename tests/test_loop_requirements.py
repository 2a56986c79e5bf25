"""docs/loop-requirements.md: no requirement of the behaviour loop is missing, and each has its tests."""

import re

import pytest

from pages import DASHES, is_a_test, read, table

ROWS = table(read("docs/loop-requirements.md")).rows


def held_by(row: dict[str, str]) -> list[str]:
    return re.findall(r"`([^`]+::[^`]+)`", row["held by"])


def test_no_requirement_is_missing() -> None:
    assert [row["id"] for row in ROWS] == [f"M-{number:02}" for number in range(1, 65)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_requirement_names_its_tests_or_says_why_it_needs_none(row: dict[str, str]) -> None:
    assert row["rule"].endswith(".")
    assert held_by(row) or row["held by"].startswith("Cannot occur: ")
    assert [test for test in held_by(row) if not is_a_test(test)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_what_is_open_is_said(row: dict[str, str]) -> None:
    assert row["open"], "a dash, or what has no test yet"
    assert row["open"] in DASHES or not row["held by"].startswith("Cannot occur: ")
