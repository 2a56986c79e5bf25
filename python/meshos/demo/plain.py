"""The same totals, computed straight from the file with the `csv` module and lists: nothing of the daemons' code."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from meshos.demo.carrier import Totals
from meshos.demo.flights import FlightFileError, open_flights


class Plain(NamedTuple):
    """What a straight count over a file gives."""

    rows: int
    months: Mapping[str, list[Totals]]
    """By carrier, or by what else was asked for; January first."""


def by_carrier(carrier: str, _flight: str) -> str:
    """Keep the flights of a carrier together."""
    return carrier


def count(path: Path, group: Callable[[str, str], str] = by_carrier) -> Plain:
    """Count a whole file; `group` says of a carrier and a number of a flight with which others it is counted.

    Raises:
        FlightFileError: It is something else than a table of flights; names the row.
        OSError: It cannot be read.
    """
    flights: Counter[tuple[str, int]] = Counter()
    cancelled: Counter[tuple[str, int]] = Counter()
    delays: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    rows = 0
    with open_flights(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        try:
            table = csv.reader(text)
            header = next(table, [])
            carrier_at, flight_at, month_at, departure_at, delay_at = map(
                header.index, ("carrier", "flight", "month", "dep_time", "dep_delay")
            )
            for row in table:
                rows += 1
                carrier, month = row[carrier_at], int(row[month_at])
                if len(row) != len(header) or not carrier or not 1 <= month <= 12:
                    raise ValueError(f"carrier {carrier!r}, month {month}, {len(row)} columns")
                key = group(carrier, row[flight_at]), month
                flights[key] += 1
                cancelled[key] += row[departure_at] == "NA"
                if row[delay_at] != "NA":
                    delays[key].append(int(row[delay_at]))
        except (ValueError, IndexError, csv.Error) as error:
            raise FlightFileError(f"row {rows}: {error}") from error
    if not rows:
        raise FlightFileError("it has no rows")
    months = {
        name: [_totals(flights[key], cancelled[key], delays[key]) for key in ((name, n) for n in range(1, 13))]
        for name in sorted({name for name, _ in flights})
    }
    return Plain(rows, months)


def _totals(flights: int, cancelled: int, delays: list[int]) -> Totals:
    return Totals(
        flights=flights,
        cancelled=cancelled,
        delays=len(delays),
        delay_sum=sum(delays),
        delay_squares=sum(delay * delay for delay in delays),
        delay_min=min(delays, default=None),
        delay_max=max(delays, default=None),
    )
