"""Reads the project's Markdown pages, for the tests that hold them to the code."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DASHES = {"", "-", "\N{EN DASH}", "\N{EM DASH}"}


@dataclass(frozen=True)
class Table:
    """One table: its column titles, and its rows by column title."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def read(page: str) -> str:
    """Return the text of a page, by its path from the root of the project."""
    return (ROOT / page).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """Return the part of a page under the heading that has `title` in it, without regard to number and case."""
    heading = re.compile(rf"^(#+) .*\b{re.escape(title)}\b.*$", re.MULTILINE | re.IGNORECASE)
    found = heading.search(without_code(text))
    assert found, f"there is no section {title!r}"
    rest = text[found.end() :]
    after = re.search(rf"^#{{1,{len(found[1])}}} ", without_code(rest), re.MULTILINE)
    return rest[: after.start()] if after else rest


def without_code(text: str) -> str:
    """Blank out fenced blocks, keeping every position."""
    return re.sub(r"^```.*?^```", lambda block: re.sub(r"[^\n]", " ", block[0]), text, flags=re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def table(text: str) -> Table:
    """Return the first table of a text."""
    lines = [line.strip() for line in text.splitlines()]
    start = next((i for i, line in enumerate(lines) if re.fullmatch(r"\|[\s:|-]+\|", line)), None)
    assert start, "there is no table"
    columns = tuple(cells(lines[start - 1]))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        values = cells(line)
        assert len(values) == len(columns), f"{len(columns)} columns, but a row of {len(values)}: {line}"
        rows.append(dict(zip(columns, values, strict=True)))
    return Table(columns, tuple(rows))


def cells(line: str) -> list[str]:
    """Return the cells of one line of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def names(cell: str) -> list[str]:
    """Return what stands in backticks in a cell, each once; a dash is nothing, and anything else is a mistake."""
    found = list(dict.fromkeys(re.findall(r"`([^`]+)`", cell)))
    assert found or cell in DASHES, f"neither a name in backticks nor a dash: {cell!r}"
    return found


def is_a_test(reference: str) -> bool:
    """Whether `path::name` is a function of that file."""
    path, _, name = reference.partition("::")
    file = ROOT / path
    keyword = "fn" if file.suffix == ".rs" else "def"
    return file.is_file() and bool(re.search(rf"\b{keyword} {re.escape(name)}\b", file.read_text(encoding="utf-8")))
