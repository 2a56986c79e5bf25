"""What the sources do not have: the promises of absence in ARCHITECTURE.md that no compiler and no linter keeps."""

import re
from pathlib import Path

import pytest

import rust_source
from pages import ROOT

CORE = sorted((ROOT / "rust/core/src").rglob("*.rs"))
RUST = sorted(file for crate in ("core", "node", "py") for file in (ROOT / f"rust/{crate}/src").rglob("*.rs"))

CLOCK = r"\b(Instant|SystemTime)\b"
OUTSIDE = r"\bstd::(thread|fs|net|env|process|io)\b"
LOCK = r"\b(Mutex|RwLock|Condvar|RefCell)\b"
CHANCE = r"\b(HashMap|HashSet|getrandom|OsRng|thread_rng)\b"


def code(file: Path) -> str:
    return rust_source.visible(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("pattern", [CLOCK, OUTSIDE, LOCK, CHANCE], ids=["clock", "outside", "lock", "chance"])
def test_the_core_has_none_of_it(pattern: str) -> None:
    assert CORE
    assert [str(file.relative_to(ROOT)) for file in CORE if re.search(pattern, code(file))] == []


def test_randomness_has_one_source() -> None:
    assert [file.name for file in RUST if re.search(r"\bgetrandom\b", code(file))] == ["keys.rs"]


def test_errors_become_exceptions_in_one_place() -> None:
    """An exception of meshos is imported where core errors are matched, and nowhere else."""
    assert [file.name for file in RUST if re.search(r"\bimport_exception!", code(file))] == ["errors.rs"]


def test_what_is_absent_would_be_found() -> None:
    assert re.search(CLOCK, "let now = Instant::now();")
    assert re.search(OUTSIDE, "use std::fs::File;")
    assert re.search(LOCK, "use std::sync::Mutex;")
    assert re.search(CHANCE, "use std::collections::HashMap;")
