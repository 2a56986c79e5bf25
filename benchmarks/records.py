"""What files of records cost from Python: `python benchmarks/records.py [NAME …]`.

Every figure is a line `records: NAME VALUE UNIT BAR ok|short`: the median of five runs, with the runs above it. One
without a bar has a dash there.
"""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from meshos.audit import FileLogAppender, LogRecord, read_records, verify_records
from meshos.events import LogLevel

RUNS = 5
RECORDS = 100_000
AT = datetime(2026, 11, 21, tzinfo=UTC)
LINES = [
    LogRecord(
        seq=number,
        at=AT,
        level=LogLevel.INFO,
        node=1,
        daemon=None,
        message="a line of the log of some sixty bytes, as daemons write them",
    )
    for number in range(1, RECORDS + 1)
]


def write(file: Path) -> float:
    """Return records a second, until the file is closed."""
    appender = FileLogAppender(file)
    began = time.perf_counter()
    for line in LINES:
        appender.append(line)
    appender.close()
    return RECORDS / (time.perf_counter() - began)


def check(file: Path) -> float:
    """Return records a second."""
    write(file)
    began = time.perf_counter()
    report = verify_records(file)
    took = time.perf_counter() - began
    assert report.records == RECORDS
    return RECORDS / took


def read(file: Path) -> float:
    """Return records a second."""
    write(file)
    began = time.perf_counter()
    records = read_records(file)
    took = time.perf_counter() - began
    assert len(records) == RECORDS
    return RECORDS / took


FIGURES: dict[str, tuple[Callable[[Path], float], int | None]] = {
    "python_append_log": (write, 50_000),
    "python_verify_records": (check, 500_000),
    "python_read_records": (read, None),
}


def main(names: Sequence[str]) -> None:
    """Measure the figures of these names, or all."""
    for name, (measure, bar) in FIGURES.items():
        if names and name not in names:
            continue
        runs = []
        for _ in range(RUNS):
            with TemporaryDirectory() as folder:
                runs.append(measure(Path(folder) / "records.chain"))
        value = median(runs)
        print(f"{name}: {' '.join(f'{run:.0f}' for run in sorted(runs))} /s")
        met = "ok" if bar is None or value >= bar else "short"
        print(f"records: {name} {value:.0f} /s {'-' if bar is None else bar} {met}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
