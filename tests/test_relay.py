"""Outputs from daemon to daemon of two nodes, in a process that is killed: none is lost, none comes twice."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EVENTS = 3_000
KILLS = 6
RELAY = Path(__file__).with_name("relay.py")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system does not kill")
@pytest.mark.parametrize("seed", range(2))
def test_outputs_to_another_node_survive_a_killed_process(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kills = 0
    while True:
        command = [sys.executable, str(RELAY), str(tmp_path), str(EVENTS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines_left = chance.randint(1, 40) if kills < KILLS else EVENTS
            said = [""]
            for line in process.stdout:
                said.append(line)
                lines_left -= 1
                if lines_left == 0:
                    process.kill()
            told = process.stderr.read()
        if said[-1].startswith("done"):
            break
        assert process.returncode == -signal.SIGKILL, told
        kills += 1
        assert kills <= KILLS
    assert said[-1].split() == ["done", str(EVENTS), str(EVENTS * (EVENTS + 1) // 2), "0"]
    assert kills >= 2
