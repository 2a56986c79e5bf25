"""A daemon's state as verified bytes."""

from meshos._core import StateSnapshot as StateSnapshot

__all__ = ["StateSnapshot"]
