"""The commands: what they need, and what they say when it is not there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pages import ROOT, read

pytestmark = pytest.mark.skipif(sys.platform == "win32" or not shutil.which("make"), reason="the Makefile is for Unix")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return a folder that has what the Makefile needs to begin with, and a Python that is too old."""
    for name in ("awk", "find", "grep", "make", "python3", "sed", "sh"):
        found = shutil.which(name)
        assert found, name
        (tmp_path / name).symlink_to(found)
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    return tmp_path


def make(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run make in its dry form: errors are found, and nothing is built."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")} | {"PATH": path}
    return subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize("target", ["build", "demo", "test", "check", "bench"])
def test_without_rust_there_is_one_clear_line(tools: Path, target: str) -> None:
    done = make(target, f"PYTHON={sys.executable}", path=str(tools))
    (line,) = done.stderr.splitlines()
    assert done.returncode != 0
    assert "cargo is not found: install Rust" in line


@pytest.mark.parametrize("python", ["old-python", "no-python"])
def test_with_an_old_python_there_is_one_clear_line(tools: Path, python: str) -> None:
    (tools / "cargo").symlink_to(tools / "python3")
    done = make("build", f"PYTHON={python}", path=str(tools))
    (line,) = done.stderr.splitlines()
    assert done.returncode != 0
    assert f"{python} is not Python 3.11 or newer" in line


def test_every_part_of_check_is_a_target_with_a_text() -> None:
    makefile = read("Makefile")
    parts = re.search(r"^CHECKS := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert parts
    names = parts[1].replace("\\", " ").split()
    assert len(names) == 11
    for name in names:
        assert re.search(rf"^{name}:.* ## \S", makefile, re.MULTILINE), name


def test_ci_runs_make_check() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert re.search(r"^make check$", read(".ci/run"), re.MULTILINE)
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True, timeout=50)
