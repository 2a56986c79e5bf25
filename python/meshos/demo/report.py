"""What the demo writes: progress on the way, and a table at the end."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TextIO

AIRLINES = {
    "9E": "Endeavor Air",
    "AA": "American Airlines",
    "AS": "Alaska Airlines",
    "B6": "JetBlue Airways",
    "DL": "Delta Air Lines",
    "EV": "ExpressJet Airlines",
    "F9": "Frontier Airlines",
    "FL": "AirTran Airways",
    "HA": "Hawaiian Airlines",
    "MQ": "Envoy Air",
    "OO": "SkyWest Airlines",
    "UA": "United Air Lines",
    "US": "US Airways",
    "VX": "Virgin America",
    "WN": "Southwest Airlines",
    "YV": "Mesa Airlines",
}


class Line(NamedTuple):
    """One carrier in the table."""

    carrier: str
    flights: int
    cancelled: int
    delays: int
    delay_sum: int
    events: int
    """Summaries in its chain."""
    head: bytes
    """Digest of the last of them."""


def table(lines: Sequence[Line]) -> str:
    """Return a table of the carriers, and their sum."""
    cells = [("carrier", "", "flights", "cancelled", "mean delay", "events in chain", "head")]
    for line in lines:
        name = AIRLINES.get(line.carrier, "")
        cells.append((line.carrier, name, *_numbers([line]), line.head.hex()[:16]))
    cells.append(("all", "", *_numbers(lines), ""))
    return grid(cells, left=(0, 1, 6))


def grid(cells: Sequence[Sequence[str]], *, left: Collection[int]) -> str:
    """Return rows with their columns in line; those in `left` begin together, the others end together."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_row(row, widths, left) for row in cells)


def _numbers(lines: Sequence[Line]) -> tuple[str, str, str, str]:
    delays = sum(line.delays for line in lines)
    mean = f"{sum(line.delay_sum for line in lines) / delays:.1f} min" if delays else "-"
    flights, cancelled, events = (
        sum(values) for values in zip(*((line.flights, line.cancelled, line.events) for line in lines), strict=True)
    )
    return f"{flights:,}", f"{cancelled:,}", mean, f"{events:,}"


def _row(cells: Iterable[str], widths: Sequence[int], left: Collection[int]) -> str:
    padded = (
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def all_hold(claims: Mapping[str, Iterator[str]], out: TextIO) -> bool:
    """Write each claim down with what speaks against it; return whether nothing does."""
    hold = True
    for claim, doubts in claims.items():
        against = list(doubts)
        print(f"{'FAILED' if against else 'ok'}: {claim}", *against, sep="\n    ", file=out)
        hold = hold and not against
    return hold


class Progress:
    """How far a job of known size is: a bar on a terminal, a line every 10 % elsewhere, nothing on `None`."""

    def __init__(self, total: int, stream: TextIO | None) -> None:
        self.total = total
        self.step = max(1, min(total // 10, 4096))
        """After how many items `at` is worth a call."""
        self._stream = stream
        self._bar = stream is not None and stream.isatty()
        self._began = time.perf_counter()
        self._tenths = 0

    def at(self, done: int) -> None:
        """Show that `done` of the items are done."""
        if self._stream is None:
            return
        share = done / self.total
        rate = done / max(time.perf_counter() - self._began, 1e-9)
        text = f"{int(share * 100):3} %  {done:,} of {self.total:,}  {rate:,.0f}/s"
        if self._bar:
            filled = int(share * 30)
            print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}", end="", file=self._stream, flush=True)
        elif int(share * 10) > self._tenths:
            self._tenths = int(share * 10)
            print(text.strip(), file=self._stream, flush=True)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:  # so that what follows, be it a traceback, begins on a line of its own
            print(file=self._stream, flush=True)
