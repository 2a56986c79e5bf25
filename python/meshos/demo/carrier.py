"""The daemon of the demo: one carrier's departures, counted by month."""

import json
from dataclasses import dataclass
from typing import ClassVar

from meshos.chain import CausalEvent
from meshos.daemon import MeshDaemon
from meshos.demo.flights import CARRIER, DEP_DELAY, DEP_TIME, MONTH, NA

END = b"end"
"""Payload of the event after the last row."""
SUMMARY_EVERY = 500
"""Flights between two summaries, unless a daemon says otherwise."""


@dataclass(slots=True)
class Totals:
    """What is kept of one carrier in one month; delays are of departures, in minutes, negative when early."""

    flights: int = 0
    cancelled: int = 0
    delays: int = 0
    """Flights whose delay is known."""
    delay_sum: int = 0
    delay_squares: int = 0
    delay_min: int | None = None
    delay_max: int | None = None

    def add_delay(self, delay: int) -> None:
        """Count a flight's delay."""
        self.delays += 1
        self.delay_sum += delay
        self.delay_squares += delay * delay
        if self.delay_min is None or delay < self.delay_min:
            self.delay_min = delay
        if self.delay_max is None or delay > self.delay_max:
            self.delay_max = delay

    def as_row(self) -> list[int | None]:
        """Return the values in the order of the fields."""
        return [
            self.flights,
            self.cancelled,
            self.delays,
            self.delay_sum,
            self.delay_squares,
            self.delay_min,
            self.delay_max,
        ]


class Carrier(MeshDaemon):
    """Takes rows of one carrier, and emits a summary every 500 of them and one at the end.

    A summary is compact JSON, and so is the state, which is a summary too:
    `{"carrier": "UA", "flights": 500, "final": false, "months": [[…], …]}`, with twelve months of seven numbers each,
    in the order of `Totals`.
    """

    name = "carrier"
    summary_every: ClassVar[int] = SUMMARY_EVERY

    def __init__(self) -> None:
        self.carrier = b""
        self.flights = 0
        self.months = [Totals() for _ in range(12)]
        """January first."""

    def process(self, event: CausalEvent) -> bytes | None:
        """Take one row, or the end."""
        if event.payload == END:
            return self.summary(final=True)
        # Nothing is changed before everything is read: a row that is refused leaves no trace.
        fields = event.payload.split(b",", CARRIER + 1)
        carrier, month = fields[CARRIER], int(fields[MONTH])
        if not 1 <= month <= 12:
            raise ValueError(f"month {month}")
        delay = None if fields[DEP_DELAY] == NA else int(fields[DEP_DELAY])
        if carrier != self.carrier:
            if self.carrier:
                raise ValueError(f"row of carrier {carrier!r} came to the daemon of {self.carrier!r}")
            self.carrier = carrier
        totals = self.months[month - 1]
        totals.flights += 1
        if fields[DEP_TIME] == NA:
            totals.cancelled += 1
        if delay is not None:
            totals.add_delay(delay)
        self.flights += 1
        return self.summary(final=False) if self.flights % self.summary_every == 0 else None

    def summary(self, *, final: bool) -> bytes:
        """Return the counts so far as a summary."""
        document = {
            "carrier": self.carrier.decode(),
            "flights": self.flights,
            "final": final,
            "months": [totals.as_row() for totals in self.months],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def snapshot(self) -> bytes:
        """Return the counts so far."""
        return self.summary(final=False)

    def restore(self, state: bytes) -> None:
        """Take the counts over."""
        document = json.loads(state)
        self.carrier = document["carrier"].encode()
        self.flights = document["flights"]
        self.months = [Totals(*row) for row in document["months"]]
