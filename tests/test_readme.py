"""What README.md shows is so: its code runs as pasted, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pages import blocks, read

README = read("README.md")


@pytest.mark.parametrize("code", blocks(README, "python"), ids=lambda code: code.splitlines()[0])
def test_code_runs_as_pasted(code: str, tmp_path: Path) -> None:
    file = tmp_path / "pasted.py"
    file.write_text(code, encoding="utf-8")
    command = [sys.executable, "-I", "-W", "error", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_is_code() -> None:
    assert blocks(README, "python")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/index.md"])
def test_commands_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    commands = set(re.findall(r"(?:^|`)make ([a-z-]+)", read(page), re.MULTILINE))
    assert commands
    assert commands <= targets


def test_the_two_commands_are_shown() -> None:
    assert {"make demo", "make test"} <= set(README.splitlines())
