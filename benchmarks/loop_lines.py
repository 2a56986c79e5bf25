"""Runs commands one after the other, and prints their `loop: …` lines together at the end.

`python benchmarks/loop_lines.py 'COMMAND' …`; fails when one of them does, after all have run. A figure that is short
of its bar is no failure.
"""

import subprocess
import sys
from collections.abc import Sequence


def run(command: str, lines: list[str]) -> int:
    """Run a command, show what it prints, and keep its lines."""
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("loop: "):
                lines.append(line)
    return process.returncode


def main(commands: Sequence[str]) -> int:
    """Run all commands; return whether one failed."""
    lines: list[str] = []
    failed = [command for command in commands if run(command, lines)]
    print("".join(["\n", *lines]), end="", flush=True)
    for command in failed:
        print(f"failed: {command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
