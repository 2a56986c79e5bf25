"""What `docs/records.md` says of bytes and bounds is so."""

import re

import trails
from pages import Table, read, section, table

PAGE = read("docs/records.md")


def tables(title: str) -> list[Table]:
    """Every table of a section."""
    return [table(part) for part in re.split(r"\n\n(?=\| )", section(PAGE, title))[1:]]


def test_values_are_those_of_the_bytes() -> None:
    *_, values = tables("The file")
    columns = {
        "level": trails.LEVELS,
        "part": trails.PARTS,
        "disposition": trails.DISPOSITIONS,
        "kind of action": trails.ACTIONS,
    }
    for column, names in columns.items():
        assert tuple(name for row in values.rows if (name := row[column].strip("`"))) == names
    assert [int(row["value"]) for row in values.rows] == list(range(9))


def test_sizes_of_the_head_and_of_an_entry_are_those_of_the_bytes() -> None:
    head, entry, body, tags, command, _ = tables("The file")
    trail = trails.Trail("log", bytes(16), 0)
    before = len(trail.data)
    trail.add(trails.run(1, 0))

    assert sum(int(row["size"]) for row in head.rows) == before == trails.HEAD_SIZE
    fixed = sum(int(row["size"]) for row in entry.rows if row["size"].isdigit())
    assert fixed + sum(int(row["size"]) for row in body.rows) == len(trail.data) - before
    assert [int(row["tag"]) for row in tags.rows] == list(range(6))
    assert len(command.rows) == 9


def test_kinds_and_verdicts_are_those_of_the_bytes() -> None:
    head, *_, command, _ = tables("The file")
    kinds = next(row["field of the head"] for row in head.rows if row["field of the head"].startswith("kind"))
    assert kinds == "kind: " + ", ".join(f"{number} {name}" for name, number in trails.KINDS.items())
    verdicts = ", ".join(f"{number} {name}" for name, number in trails.VERDICTS.items())
    assert verdicts in {row["field after the time"] for row in command.rows}
