"""The daemons of the supervised demo: a share of one carrier's flights each, and a weak spot."""

from collections.abc import Mapping, Sequence
from typing import ClassVar
from zlib import crc32

from meshos.chain import CausalEvent
from meshos.demo.carrier import Carrier

POISON = b"poison"
"""Payload that no daemon survives."""
DAEMONS = 200
"""How many daemons share the flights."""


class EngineFailure(Exception):
    """What a daemon raises over poison."""


class Shard(Carrier):
    """Counts as a `Carrier` does. Poison spoils everything it has counted before it raises: only a restore helps."""

    name = "shard"
    summary_every: ClassVar[int] = 20

    def process(self, event: CausalEvent) -> bytes | None:
        """Take one row, the end, or poison."""
        if event.payload == POISON:
            self.flights += 1_000_000
            for totals in self.months:
                totals.flights += 1_000_000
                totals.add_delay(1_000_000)
            raise EngineFailure("engine failure")
        return super().process(event)


def shares(carriers: Sequence[str]) -> Mapping[str, int]:
    """Say for each carrier how many daemons share its flights, so that there are 200 in all."""
    if not carriers:
        return {}
    each, more = divmod(DAEMONS, len(carriers))
    return {carrier: max(1, each + (place < more)) for place, carrier in enumerate(carriers)}


def names(shares: Mapping[str, int]) -> list[str]:
    """Name every daemon."""
    return [name_of(carrier, number) for carrier, count in shares.items() for number in range(count)]


def name_of(carrier: str, number: int) -> str:
    """Name one of the daemons of a carrier."""
    return f"{carrier}-{number:02}"


def share_of(flight: bytes, shares: int) -> int:
    """Say which of so many daemons counts a flight, by its number."""
    return crc32(flight) % shares
