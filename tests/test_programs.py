"""The example programs run, each in an interpreter of its own; those that users were promised stay as they are."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PROMISED = {
    "async_counter.py": "611fe1b46ba54947105c2f4b519494254a536104e3e1dd03910de9335aab807f",
    "channels.py": "35fdabaaf7619fe080d3e88f629a238226a107b21cd30a08ef6fffff7f7a1cd2",
    "counter.py": "c3453fa22c3594173d1be3b63a0241b65257dce7de2bc68c171616b89b606420",
    "dispatcher.py": "264b894850689091f00a900a751c2e2da7d9084b481d7b215c590e843dd5663c",
    "move.py": "a27e770d904464c74e2306f3d0a07b867679cc0e2f2180dc5c1aac2854e5197e",
    "simulate.py": "116bd33639e3ea11e09ff69d378cd5abec5c717fddd745e18585e98760a81963",
    "supervise.py": "dc22a02bf6710109976653bd61bcab79bc5c490b4a6ef1114437e85242b2e4c6",
    "two_operators.py": "68870d5178c85667233da85d99e4f6b0f658d46c7fcccb50967f5d5664a5c837",
    "verify.py": "f4ab3566f02a42569bb3b09075ccde411c29333fb01c313358b482095babbc26",
}


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.name)
def test_program_runs(program: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-W", "error", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", PROMISED)
def test_promised_program_is_unchanged(name: str) -> None:
    """A change of these files is a change of the interface that users write against."""
    text = (ROOT / "examples" / name).read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.sha256(text).hexdigest() == PROMISED[name]
