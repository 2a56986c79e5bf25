"""What operators order, and what a node makes of it."""

from enum import StrEnum
from typing import final

__all__ = ["Verdict"]


@final
class Verdict(StrEnum):
    """What a node made of a command."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNVERIFIED = "unverified"
