"""The types that users see: what is right is accepted, and what is wrong is refused for the right reason."""

import re
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "typing"
IGNORE = re.compile(r"  # type: ignore\[([a-z-]+)\]")


def mypy(file: Path) -> tuple[str, int]:
    out, err, code = api.run(["--config-file", str(ROOT / "pyproject.toml"), "--strict", "--no-pretty", str(file)])
    assert err == ""
    return out, code


@pytest.mark.timeout(300)
@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_a_file_of_types_is_accepted(file: Path) -> None:
    out, code = mypy(file)

    assert code == 0, out


@pytest.mark.timeout(300)
def test_every_mistake_is_found_and_nothing_else(tmp_path: Path) -> None:
    text = (FOLDER / "refused.py").read_text(encoding="utf-8")
    marked = {(number, code) for number, line in enumerate(text.split("\n"), 1) for code in IGNORE.findall(line)}
    bare = tmp_path / "refused.py"
    bare.write_text(IGNORE.sub("", text), encoding="utf-8")

    out, code = mypy(bare)

    found = re.findall(r"refused\.py:(\d+): error: .*\[([a-z-]+)\]$", out, re.MULTILINE)
    assert code == 1
    assert {(int(number), kind) for number, kind in found} == marked
    assert len(marked) > 20
