"""ARCHITECTURE.md holds: the floors, the index of concepts, and the invariants with their tests."""

import importlib
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import rust_source
from pages import ROOT, is_a_test, names, read, section, table

CORE = ROOT / "rust/core/src"
BINDING = ROOT / "rust/py/src"
PACKAGE = ROOT / "python/meshos"


# -- the floors


@cache
def floors() -> tuple[str, ...]:
    """Return the modules of the core, lowest first."""
    rows = table(section(read("ARCHITECTURE.md"), "floors")).rows
    return tuple(module for row in rows for module in names(row["modules, in reading order"]))


def module_of(file: Path) -> str:
    """Return the module of the core that a file belongs to."""
    return file.relative_to(CORE).parts[0].removesuffix(".rs")


def core_files() -> list[Path]:
    return sorted(file for file in CORE.rglob("*.rs") if file != CORE / "lib.rs")


def used_by(module: str, text: str, depth: int) -> set[str]:
    """Return the modules of the core that a text of `module` names, `depth` folders below the root of the crate."""
    code = rust_source.visible(text)
    used = set(rust_source.paths(code, "crate"))
    if depth == 0:
        # Of an inner module, `super` is the file itself: what is no module of the crate stands in the file.
        used |= set(rust_source.paths(code, "super")) & set(floors())
    return used - {module}


def broken_rules(module: str, used: set[str], order: tuple[str, ...]) -> list[str]:
    """Return a sentence for each use of what does not stand before `module`."""
    sentences = []
    for other in sorted(used):
        if other not in order:
            sentences.append(f"{module} uses crate::{other}, which is not a module: name the module that it lives in")
        elif order.index(other) > order.index(module):
            sentences.append(f"{module} uses {other}")
    return sentences


def test_every_core_module_has_a_floor() -> None:
    modules = {module_of(file) for file in core_files()}
    assert modules == set(floors())


@pytest.mark.parametrize("file", core_files(), ids=lambda file: str(file.relative_to(CORE)))
def test_a_module_uses_only_what_stands_before_it(file: Path) -> None:
    module, depth = module_of(file), len(file.relative_to(CORE).parts) - 1
    used = used_by(module, file.read_text(encoding="utf-8"), depth)
    assert broken_rules(module, used, floors()) == []


def test_modules_are_declared_in_reading_order() -> None:
    code = rust_source.visible((CORE / "lib.rs").read_text(encoding="utf-8"))
    assert tuple(re.findall(r"\bpub mod (\w+);", code)) == floors()


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("use crate::host::Host;", {"host"}),
        ("use crate::{host::{self, Host}, id::OriginHash};", {"host", "id"}),
        ("fn f() { crate::host::g() }", {"host"}),
        ("use super::host;", {"host"}),
        ("pub(crate) fn f() {} // crate::host", set()),
        ('fn f() { g("crate::host") }', set()),
        ("/* use crate::host; */ use crate::id;", {"id"}),
        ("#[cfg(test)]\nmod tests { use crate::host; fn f() {} } use crate::id;", {"id"}),
        ("#[cfg(test)] use crate::host; use crate::id;", {"id"}),
        ("crate::some_macro!(1)", set()),
        ("const QUOTE: char = '\\''; use crate::host; const END: char = '\\'';", {"host"}),
        ("fn f<'a>(x: &'a str) {} use crate::host;", {"host"}),
        ("mod inner { use super::Thing; }", set()),
    ],
)
def test_uses_are_found(code: str, used: set[str]) -> None:
    assert used_by("chain", code, 0) == used


def test_a_broken_rule_is_a_sentence() -> None:
    order = ("id", "chain", "host")
    assert broken_rules("chain", {"id"}, order) == []
    assert broken_rules("chain", {"host"}, order) == ["chain uses host"]


# -- the crates


def dependencies(manifest: str) -> set[str]:
    """Return all packages that a manifest lists, in any of its tables."""
    crate: dict[str, Any] = tomllib.loads(read(manifest))
    targets = [crate, *crate.get("target", {}).values()]
    return {
        name for each in targets for key in each if key.endswith("dependencies") for name in each[key]
    }  # dependencies, dev-dependencies, build-dependencies


def test_the_core_has_no_interpreter_no_io_and_no_lock() -> None:
    assert not dependencies("rust/core/Cargo.toml") & {"pyo3", "tokio", "parking_lot", "getrandom", "meshos-node"}


def test_the_node_has_no_interpreter() -> None:
    assert "pyo3" not in dependencies("rust/node/Cargo.toml")
    for file in (ROOT / "rust/node").rglob("*.rs"):
        assert not re.search(r"\bpyo3\b", rust_source.visible(file.read_text(encoding="utf-8"))), file


def test_the_core_forbids_unsafe_code() -> None:
    assert "#![forbid(unsafe_code)]" in read("rust/core/src/lib.rs")


# -- the index


@cache
def index() -> dict[str, dict[str, list[str]]]:
    """Return the names in each column of the index, by concept."""
    rows = table(section(read("ARCHITECTURE.md"), "index")).rows
    return {row.pop("concept"): {column: names(cell) for column, cell in row.items()} for row in map(dict, rows)}


def listed(column: str) -> set[str]:
    return {name for row in index().values() for name in row[column]}


def covers(entries: set[str], file: Path, folder: Path) -> bool:
    """Whether a file stands in the index, by its own name or by that of a folder that it is in, as in `testing/`."""
    path = file.relative_to(folder).as_posix()
    return any(path == entry or (entry.endswith("/") and path.startswith(entry)) for entry in entries)


@pytest.mark.parametrize(
    ("column", "folder"),
    [("core file", CORE), ("binding file", BINDING), ("test", ROOT)],
    ids=["core", "py", "test"],
)
def test_files_of_the_index_exist(column: str, folder: Path) -> None:
    assert [name for name in sorted(listed(column)) if not (folder / name).exists()] == []


def test_python_modules_of_the_index_import() -> None:
    for name in sorted(listed("Python module")):
        importlib.import_module(name)


@pytest.mark.parametrize(("column", "folder"), [("core file", CORE), ("binding file", BINDING)], ids=["core", "py"])
def test_every_rust_file_is_in_the_index(column: str, folder: Path) -> None:
    files = [file for file in sorted(folder.rglob("*.rs")) if file != folder / "lib.rs"]
    assert files
    assert [str(file.relative_to(folder)) for file in files if not covers(listed(column), file, folder)] == []


def test_every_public_python_module_is_in_the_index() -> None:
    files = [*PACKAGE.glob("[a-z]*.py"), *(file.parent for file in PACKAGE.glob("[a-z]*/__init__.py"))]
    assert {f"meshos.{file.stem}" for file in files} <= listed("Python module")


# -- the invariants


def test_every_invariant_names_a_test_that_exists() -> None:
    rows = table(section(read("ARCHITECTURE.md"), "invariants")).rows
    assert rows
    missing = []
    for row in rows:
        references = [name for cell in row.values() for name in re.findall(r"`([^`]+::[^`]+)`", cell)]
        tests = [reference for reference in references if reference.partition("::")[0].endswith((".rs", ".py"))]
        if not tests:
            missing.append(f"no test is named: {' | '.join(row.values())}")
        missing += [reference for reference in tests if not is_a_test(reference)]
    assert missing == []
