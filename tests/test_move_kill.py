"""Daemons that move between the nodes of a process that is killed: each event takes effect once, in order.

`KILLS` sets how often in all.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SEEDS = 2
KILLS = max(int(os.environ.get("KILLS", "0")) // SEEDS, 3)
EVENTS = 300 * KILLS
PATIENCE = 90.0
NOMADS = Path(__file__).with_name("nomads.py")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system does not kill")
@pytest.mark.timeout(PATIENCE + 20 * KILLS)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_moves_survive_a_killed_process(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kills = 0
    print("seed", seed)
    while True:
        command = [sys.executable, str(NOMADS), str(tmp_path), str(EVENTS), str(seed * 1_000 + kills)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            told: list[str] = []
            reader = threading.Thread(target=told.extend, args=(process.stderr,))
            reader.start()
            stuck = threading.Timer(PATIENCE, process.kill)
            stuck.start()
            lines_left = chance.randint(1, 30) if kills < KILLS else EVENTS
            after = chance.random() / 50
            said = [""]
            late = threading.Timer(after, process.kill)
            for line in process.stdout:
                said.append(line)
                lines_left -= 1
                if lines_left == 0:
                    # Not only where something was said.
                    late.start()
            reader.join()
            is_stuck = not stuck.is_alive()
            stuck.cancel()
            late.cancel()
        assert not is_stuck, "".join(told[-20:])
        if said[-1].startswith("done"):
            break
        assert process.returncode == -signal.SIGKILL, "".join(told[-20:])
        kills += 1
        assert kills <= KILLS
    done, count, total, moves = said[-1].split()
    assert (done, int(count), int(total)) == ("done", EVENTS, EVENTS * (EVENTS + 1) // 2)
    assert kills >= 1
    assert int(moves) > 0
