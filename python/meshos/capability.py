"""What a node offers and what a daemon needs."""

from meshos._core import CapabilityFilter as CapabilityFilter
from meshos._core import CapabilitySet as CapabilitySet

__all__ = ["CapabilityFilter", "CapabilitySet"]
