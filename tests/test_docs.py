"""What the pages of `docs` show is so: their code runs, and they are all linked from the first one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import error_page
from pages import ROOT, blocks, read

PAGES = sorted((ROOT / "docs").glob("*.md"))
ELSEWHERE = {"chain-format.md"}
"""Its program wants arguments: `test_chain_format.py` runs it."""
WITH_CODE = [
    page for page in PAGES if page.name not in ELSEWHERE and blocks(page.read_text(encoding="utf-8"), "python")
]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    file = tmp_path / f"{page.stem}.py"
    file.write_text("\n".join(blocks(page.read_text(encoding="utf-8"), "python")), encoding="utf-8")
    command = [sys.executable, "-I", "-W", "error", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_is_code() -> None:
    assert len(WITH_CODE) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_is_linked_from_the_first(page: Path) -> None:
    assert page.name == "index.md" or f"]({page.name})" in read("docs/index.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_fence_names_its_language(page: Path) -> None:
    """A block of another name would not be run."""
    fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "text", "sh", ""}
    assert set(fences[1::2]) <= {""}


def test_the_page_of_errors_is_that_of_the_classes() -> None:
    """`python tests/error_page.py` writes it anew."""
    assert read("docs/errors.md") == error_page.page(read("docs/errors.md"))
