"""docs/authority-requirements.md: no requirement of authority is missing, and each has its tests."""

import re

import pytest

from pages import is_a_test, read, table

ROWS = table(read("docs/authority-requirements.md")).rows
TRIED = {"V": 12, "S": 3, "F": 8, "A": 8, "C": 6, "K": 2, "P": 8}
"""How many rows there are of what has to be tried."""


def test_no_requirement_is_missing() -> None:
    expected = [f"M-{number}" for number in range(1, 51)]
    expected += [f"{part}-{number}" for part, count in TRIED.items() for number in range(1, count + 1)]
    assert [row["id"] for row in ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_requirement_names_its_tests_or_says_why_it_needs_none(row: dict[str, str]) -> None:
    tests = re.findall(r"`([^`]+::[^`]+)`", row["held by"])
    assert row["rule"].endswith(".")
    assert tests or row["held by"].startswith("Cannot occur: ")
    assert [test for test in tests if not is_a_test(test)] == []
