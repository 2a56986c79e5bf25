"""Makes the sample that ships with the package: `python -m meshos.demo.make_sample FLIGHTS.csv.zip [SAMPLE.csv.zip]`.

Every 84th row, and every row of SkyWest (OO), which has 32 in the year: 4,041 rows in which all carriers and months
occur. The same file in gives the same bytes out.
"""

import sys
import zipfile
from pathlib import Path

from meshos.demo.flights import CARRIER, HEADER, SAMPLE, rows

EVERY = 84
RARE = b"OO"


def make_sample(flights: Path, sample: Path) -> int:
    """Write the sample of a whole file, and return how many rows it has."""
    chosen = [
        row
        for number, row in enumerate(rows(flights))
        if number % EVERY == 0 or row.split(b",", CARRIER + 1)[CARRIER] == RARE
    ]
    # A `ZipInfo` made by hand has a fixed date, and no trace of the machine.
    member = zipfile.ZipInfo("flights.csv")
    member.external_attr = 0o644 << 16
    member.create_system = 3
    with zipfile.ZipFile(sample, "w") as archive:
        text = b"".join(row + b"\n" for row in (HEADER, *chosen))
        archive.writestr(member, text, zipfile.ZIP_DEFLATED, compresslevel=9)
    return len(chosen)


def main() -> None:
    """Make a sample of the file that the command line names."""
    flights, *sample = map(Path, sys.argv[1:])
    print(make_sample(flights, *sample or [SAMPLE]), "rows")


if __name__ == "__main__":
    main()
