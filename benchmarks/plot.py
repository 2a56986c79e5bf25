"""Draws what a step of the loop costs: `python benchmarks/plot.py COST.csv COST.svg`.

The file is what `cargo bench -p meshos-core --bench loop_cost` prints: `chains,changed,microseconds`. Both axes are
logarithmic; a line is one number of chains. Nothing but the standard library is needed.
"""

import csv
import sys
from collections.abc import Sequence
from itertools import groupby
from math import ceil, floor, log10
from pathlib import Path

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 55
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2")

Point = tuple[float, float]


def lines_of(file: Path) -> dict[int, list[Point]]:
    """Read the points of each number of chains."""
    with file.open(encoding="utf-8", newline="") as text:
        rows = [row for row in csv.DictReader(text) if row["changed"]]
    rows.sort(key=lambda row: (int(row["chains"]), int(row["changed"])))
    return {
        chains: [(float(row["changed"]), float(row["microseconds"])) for row in group]
        for chains, group in groupby(rows, key=lambda row: int(row["chains"]))
    }


def short(number: float) -> str:
    """Write a power of ten as people do."""
    for power, unit in ((6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:g} {unit}"
    return f"{number:g}"


def time_of(microseconds: float) -> str:
    """Write a span as people do."""
    return f"{microseconds / 1000:g} ms" if microseconds >= 1000 else f"{microseconds:g} µs"


class Axis:
    """Logarithmic, over whole decades."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.low, self.high = floor(log10(min(values))), ceil(log10(max(values)))
        self.high = max(self.high, self.low + 1)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        """Return where a value is."""
        share = (log10(value) - self.low) / (self.high - self.low)
        return self._begin + share * (self._end - self._begin)

    def decades(self) -> list[float]:
        """Return the powers of ten on it."""
        return [10.0**power for power in range(self.low, self.high + 1)]


def text(x: float, y: float, said: str, anchor: str = "middle", extra: str = "") -> str:
    """Write text at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{said}</text>'


def draw(lines: dict[int, list[Point]]) -> str:
    """Return the drawing."""
    points = [point for line in lines.values() for point in line]
    across = Axis([changed for changed, _ in points], LEFT, WIDTH - RIGHT)
    up = Axis([took for _, took in points], HEIGHT - BOTTOM, TOP)
    grid = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#ddd"/>'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="13" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text((LEFT + WIDTH - RIGHT) / 2, 22, "What a step costs", extra=' font-weight="bold"'),
    ]
    for value in across.decades():
        x = across.at(value)
        parts += [grid.format(x, TOP, x, HEIGHT - BOTTOM), text(x, HEIGHT - BOTTOM + 18, short(value))]
    for value in up.decades():
        y = up.at(value)
        parts += [grid.format(LEFT, y, WIDTH - RIGHT, y), text(LEFT - 8, y + 4, time_of(value), "end")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "chains that changed"))
    for place, (chains, line) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join(f"{across.at(changed):.1f},{up.at(took):.1f}" for changed, took in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across.at(changed):.1f}" cy="{up.at(took):.1f}" r="3" fill="{colour}"/>'
            for changed, took in line
        ]
        y = TOP + 20 + place * 20
        parts.append(f'<rect x="{WIDTH - RIGHT + 15}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(text(WIDTH - RIGHT + 33, y, f"of {short(chains)} chains", "start"))
    return "\n".join([*parts, "</svg>", ""])


def main(source: str, target: str) -> None:
    """Draw a file into another."""
    Path(target).write_text(draw(lines_of(Path(source))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
